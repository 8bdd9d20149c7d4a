"""Make a candidate of a search and measure it: in this process, on several, on several GPUs, or over a Ray cluster.

Base and experts stay open (and, on a GPU, resident), one model stays loaded, and each candidate is merged into that
model's parameters in place. What the streaming engine does not know is merged by mergekit into a folder and loaded.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from medsmith.errors import UserError
from medsmith.spread import ONE_THREAD, ray_cluster
from merge_recipes.validation import Question, answer

DEVICE = "MEDSMITH_MERGE_DEVICE"
"""The GPU that a worker process was given."""


@dataclass(frozen=True)
class Bench:
    """What all candidates of a search share; a worker process opens it once."""

    folders: tuple[tuple[str, Path], ...]
    base: str
    questions: tuple[Question, ...]
    documents: tuple[str, ...]
    dtype: str | None
    score_dtype: str
    device: str
    batch_tokens: int | None
    seed: int
    engine: str
    suite: str
    """Settings of eval.run as JSON; empty where no suite is asked for."""
    scratch: Path
    threads: int | None


class Job(NamedTuple):
    """A candidate to measure: its recipe as JSON, or the name of a parent to measure as it is."""

    recipe: str
    parent: str = ""


class Measured(NamedTuple):
    """What goes into the journal, and the seconds that making and measuring took."""

    row: dict[str, Any]
    making: float
    measuring: float


Crew = Callable[[Bench, Sequence[Job]], list[Measured]]


@contextmanager
def crew(workers: int, engine: Literal["local", "ray"], address: str | None, device: str) -> Iterator[Crew]:
    """Whoever measures: a function from jobs to what was measured, in their order.

    Raises:
        UserError: a worker process died.
    """
    if engine == "ray":
        with ray_cluster(address, workers) as ray:
            remote = ray.remote(num_cpus=1, num_gpus=int(device == "cuda"))(measure)
            yield lambda bench, jobs: list(ray.get([remote.remote(bench, job) for job in jobs]))
    elif workers == 1:
        yield lambda bench, jobs: [measure(bench, job) for job in jobs]
    else:
        with _processes(workers, device) as pool:
            yield lambda bench, jobs: list(pool.map(measure, [bench] * len(jobs), jobs))


@contextmanager
def _processes(workers: int, device: str) -> Iterator[Any]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for number in range(workers):
        places.put(f"cuda:{number}" if device == "cuda" else device)
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # read when a worker's libraries are loaded
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(places,)) as pool:
            yield pool
    except BrokenProcessPool:
        raise UserError(f"one of {workers} workers died, most likely for want of memory; lower workers") from None
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def _begin(places: Any) -> None:
    """Take one of the devices; with more workers than GPUs they share them."""
    place = str(places.get())
    if place.startswith("cuda:"):
        import torch

        place = f"cuda:{int(place[5:]) % max(1, torch.cuda.device_count())}"
    os.environ[DEVICE] = place


def measure(bench: Bench, job: Job) -> Measured:
    """Make one candidate and measure it; numbers that make no model give a row with their error."""
    began = time.perf_counter()
    shop = _shop(bench)
    try:
        if job.parent:
            shop.take(dict(bench.folders)[job.parent])
        else:
            shop.make(json.loads(job.recipe))
        made = time.perf_counter()
        row = shop.measure()
    except UserError as error:  # these numbers make no model; the others may
        said = str(error).replace(str(bench.scratch), "the merge")
        return Measured({"error": said}, time.perf_counter() - began, 0.0)
    return Measured(row, made - began, time.perf_counter() - made)


@functools.lru_cache(maxsize=1)
def _shop(bench: Bench) -> _Shop:
    return _Shop(bench)


class _Shop:
    """The open models and the one that is merged into."""

    def __init__(self, bench: Bench) -> None:
        from medsmith.models import choose_device, load_model, load_tokenizer, set_threads
        from merge_recipes.stream import Merger

        set_threads(bench.threads)
        self.bench = bench
        self.folders = dict(bench.folders)
        self.device = choose_device(os.environ.get(DEVICE) or bench.device)
        self.tokenizer = load_tokenizer(self.folders[bench.base])
        self.model = load_model(self.folders[bench.base], bench.score_dtype, self.device)
        self.merger = Merger(self.folders, bench.base, self.device, bench.threads)
        self.scratch = bench.scratch / str(os.getpid())
        self.recipe: Mapping[str, Any] | None = None
        self.folder: Path | None = None

    def take(self, folder: Path) -> None:
        """Put a finished model's weights into the one that is measured."""
        import torch

        from merge_recipes.weights import Weights

        state = self.model.state_dict()
        self.recipe, self.folder = None, folder
        with torch.no_grad():
            for name, tensor in Weights(folder).items():
                state[name].copy_(torch.tensor(tensor.float32()).view(tensor.shape))

    def make(self, recipe: Mapping[str, Any]) -> None:
        """Merge a candidate into the model that is measured."""
        self.recipe, self.folder = recipe, None
        if self.bench.engine != "mergekit" and self.merger.refuses(recipe) is None:
            self.merger.into_model(recipe, self.model, self.bench.seed, self.bench.dtype)
            return
        from merge_recipes.merge import merge

        target = self._empty("merge")
        merge(recipe, self.folders, target, self.bench.dtype, self.bench.seed)
        self.take(target)

    def measure(self) -> dict[str, Any]:
        """Answer the questions, read the documents, run the suite: what the objectives are made of."""
        import torch

        bad = next((name for name, value in self.model.named_parameters() if not torch.isfinite(value).all()), None)
        if bad:
            raise UserError(f"the merged weights '{bad}' are not all finite")
        answers = answer(self.model, self.tokenizer, self.bench.questions, self.bench.batch_tokens)
        row: dict[str, Any] = {"right": answers.right, "margins": answers.margins}
        if self.bench.documents:
            from medsmith.likelihood import document_nll

            found = document_nll(self.model, self.tokenizer, list(self.bench.documents), None, self.bench.batch_tokens)
            row["losses"] = [round(one.nll / max(1, one.bytes), 6) for one in found]
        if self.bench.suite:
            row["suite"] = self._run_suite()
        return row

    def _run_suite(self) -> float:
        """The average that eval.run gives this model: stages meet in files, so it is written and scored as by hand."""
        folder = self.folder or self._write()
        out = self._empty("suite")
        settings = out.with_suffix(".json")
        settings.write_text(self.bench.suite)
        command = [sys.executable, "-m", "eval.run", str(settings), f"out={out}", f"model={folder}", "name=candidate"]
        found = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if found.returncode:
            raise UserError(f"the suite failed: {(found.stderr.strip().splitlines() or ['no message'])[-1]}")
        return float(json.loads((out / "result.json").read_text())["average"]["value"])

    def _write(self) -> Path:
        from merge_recipes.result import complete

        assert self.recipe is not None, "a candidate was made"
        target = self._empty("written")
        if self.merger.refuses(self.recipe) is None:
            self.merger.write(self.recipe, target, self.bench.seed, self.bench.dtype)
        else:
            from merge_recipes.merge import merge

            merge(self.recipe, self.folders, target, self.bench.dtype, self.bench.seed)
        complete(self.folders[self.bench.base], target)
        return target

    def _empty(self, name: str) -> Path:
        folder = self.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

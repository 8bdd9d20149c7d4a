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


Crew = Callable[[Sequence[Job]], Iterator[tuple[int, Measured]]]
"""From jobs to what was measured, each with its job's place, as soon as it is there."""


@contextmanager
def crew(bench: Bench, workers: int, engine: Literal["local", "ray"], address: str | None) -> Iterator[Crew]:
    """Whoever measures; what it opens, it opens with the first job.

    Raises:
        UserError: a worker died, or there is no Ray cluster.
    """
    if engine == "ray":
        with ray_cluster(address, workers) as ray:
            yield functools.partial(_over_ray, ray, ray.put(bench), workers, int(bench.device == "cuda"))
    elif workers == 1:
        shop = functools.cache(lambda: Shop(bench))
        yield lambda jobs: ((place, shop().work(job)) for place, job in enumerate(jobs))
    else:
        with _processes(bench, workers) as pool:
            yield functools.partial(_over_processes, pool, workers)


@contextmanager
def _processes(bench: Bench, workers: int) -> Iterator[Any]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # Spawned, for a fork of a process whose libraries hold threads and locks may hang.
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(workers):
        numbers.put(number)
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # read when a worker's libraries are loaded
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(bench, numbers))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def _over_processes(pool: Any, workers: int, jobs: Sequence[Job]) -> Iterator[tuple[int, Measured]]:
    from concurrent.futures import as_completed
    from concurrent.futures.process import BrokenProcessPool

    try:
        places = {pool.submit(_work, job): place for place, job in enumerate(jobs)}
        for future in as_completed(places):
            yield places[future], future.result()
    except BrokenProcessPool:
        raise UserError(
            f"one of {workers} worker processes died, most likely for want of memory; lower workers and run again"
        ) from None


def _over_ray(ray: Any, bench: Any, workers: int, gpus: int, jobs: Sequence[Job]) -> Iterator[tuple[int, Measured]]:
    remote = ray.remote(num_cpus=1, num_gpus=gpus)(_work_on)
    left = list(enumerate(jobs))[::-1]
    running: dict[Any, int] = {}
    while left or running:
        while left and len(running) < workers:
            place, job = left.pop()
            running[remote.remote(bench, job)] = place
        (ready,), _ = ray.wait(list(running), num_returns=1)
        try:
            yield running.pop(ready), ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise UserError(f"Ray lost a task for good: {' '.join(str(error).split())[:200]}; run again") from None


_given: dict[str, Any] = {}
"""What a worker process was given when it began: its bench and its number."""


def _begin(bench: Bench, numbers: Any) -> None:
    _given.update(bench=bench, number=numbers.get())


def _work(job: Job) -> Measured:
    return _opened(_given["bench"], _given["number"]).work(job)


def _work_on(bench: Bench, job: Job) -> Measured:
    return _opened(bench, 0).work(job)


@functools.lru_cache(maxsize=1)
def _opened(bench: Bench, number: int) -> Shop:
    """The shop of a worker process, kept from job to job."""
    return Shop(bench, number)


class Shop:
    """The open models and the one that is merged into."""

    def __init__(self, bench: Bench, number: int = 0) -> None:
        """Open what the bench names; of several GPUs the worker with this number takes its own in turn."""
        import torch

        from medsmith.models import choose_device, load_model, load_tokenizer, set_threads
        from merge_recipes.stream import Merger

        set_threads(bench.threads)
        self.bench = bench
        self.folders = dict(bench.folders)
        self.device = choose_device(bench.device)
        if self.device == "cuda":
            self.device = f"cuda:{number % max(1, torch.cuda.device_count())}"
        self.tokenizer = load_tokenizer(self.folders[bench.base])
        self.model = load_model(self.folders[bench.base], bench.score_dtype, self.device)
        self.merger = Merger(self.folders, bench.base, self.device, bench.threads)
        self.scratch = bench.scratch / f"{os.uname().nodename}-{os.getpid()}"
        self.recipe: Mapping[str, Any] | None = None
        self.folder: Path | None = None

    def work(self, job: Job) -> Measured:
        """Make one candidate and measure it; numbers that make no model give a row with their error.

        Raises:
            UserError: the suite cannot be run, whatever the numbers.
        """
        began = time.perf_counter()
        try:
            if job.parent:
                self.take(self.folders[job.parent])
            else:
                self.make(json.loads(job.recipe))
            self._require_finite()
        except UserError as error:  # these numbers make no model; the others may
            said = str(error).replace(str(self.scratch), "the merge")
            return Measured({"error": said}, time.perf_counter() - began, 0.0)
        made = time.perf_counter()
        row = self.measure()
        return Measured(row, made - began, time.perf_counter() - made)

    def take(self, folder: Path) -> None:
        """Have a finished model's weights measured."""
        import torch

        from medsmith.models import load_model
        from merge_recipes.weights import Weights

        self.recipe, self.folder = None, folder
        weights, state = Weights(folder), self.model.state_dict()
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        own = {name for name, _ in self.model.named_parameters()}
        if not own <= weights.keys() or not weights.shapes.items() <= shapes.items():
            self.model = load_model(folder, self.bench.score_dtype, self.device)  # of another depth
            return
        with torch.no_grad():
            for name, tensor in weights.items():
                state[name].copy_(torch.tensor(tensor.float32()).view(tensor.shape))

    def make(self, recipe: Mapping[str, Any]) -> None:
        """Merge a candidate into the model that is measured."""
        if self.bench.engine != "mergekit" and self.merger.refuses(recipe) is None:
            self.merger.into_model(recipe, self.model, self.bench.seed, self.bench.dtype)
        else:
            self.take(self._merge_by_mergekit(recipe))
        self.recipe = recipe

    def measure(self) -> dict[str, Any]:
        """Answer the questions, read the documents, run the suite: what the objectives are made of."""
        answers = answer(self.model, self.tokenizer, self.bench.questions, self.bench.batch_tokens)
        row: dict[str, Any] = {"right": answers.right, "margins": answers.margins}
        if self.bench.documents:
            from medsmith.likelihood import document_nll

            found = document_nll(self.model, self.tokenizer, list(self.bench.documents), None, self.bench.batch_tokens)
            row["losses"] = [round(one.nll / max(1, one.bytes), 6) for one in found]
        return row | (self._run_suite() if self.bench.suite else {})

    def _require_finite(self) -> None:
        import torch

        for name, value in self.model.named_parameters():
            if not torch.isfinite(value).all():
                raise UserError(f"the weights '{name}' are not all finite")

    def _run_suite(self) -> dict[str, Any]:
        """What eval.run finds of this model: stages meet in files, so it is written and scored as it would be by hand.

        `suite` is the average of its result.json, `suite_scores` the score of every item by benchmark.
        """
        from medsmith.records import read_jsonl

        folder = self.folder or self._write()
        out = self._empty("suite")
        settings = out.with_suffix(".json")
        settings.write_text(self.bench.suite)
        command = [sys.executable, "-m", "eval.run", str(settings), f"out={out}", f"model={folder}", "name=candidate"]
        clone = Path(__file__).parents[1]  # stages are run from there, and a worker of Ray begins elsewhere
        found = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=clone)
        if found.returncode:
            said = (found.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
            raise UserError(f"the suite failed: {said}")
        scores: dict[str, list[float]] = {}
        for sample in read_jsonl(out / "samples.jsonl"):
            scores.setdefault(sample["benchmark"], []).append(round(sample["score"], 4))
        average = json.loads((out / "result.json").read_text())["average"]
        if average is None:
            raise UserError("the suite gives no average: it has no benchmark; name some in its file")
        return {"suite": round(average["value"], 6), "suite_scores": scores}

    def _write(self) -> Path:
        from merge_recipes.result import complete

        assert self.recipe is not None, "a candidate was made"
        target = self._empty("written")
        self.merger.write(self.recipe, target, self.bench.seed, self.bench.dtype)
        complete(self.folders[self.bench.base], target)
        return target

    def _merge_by_mergekit(self, recipe: Mapping[str, Any]) -> Path:
        from merge_recipes.merge import merge
        from merge_recipes.result import complete

        target = self._empty("merge")
        merge(recipe, self.folders, target, self.bench.dtype, self.bench.seed)
        if self.bench.suite:
            complete(self.folders[self.bench.base], target)
        return target

    def _empty(self, name: str) -> Path:
        folder = self.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

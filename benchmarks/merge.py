"""`merge_recipes.stream` beside mergekit, in pairs: CPU, wall, memory, the outputs, and what the machine itself needs.

    python -m benchmarks.merge --size 0.1b 1b --repeats 3 --threads 1
    python -m benchmarks.merge --size 0.1b --methods ties --only stream

Models: benchmarks/merge_models.py, made where they are not there. Recipes: the shipped ones with `dtype: bfloat16`.
Both sides are whole processes, `mergekit-yaml` and `python -m merge_recipes.stream`, by turns, after one warm-up; with
`--whole` also `merge_recipes.build` with either engine: with all checks, digests and a look at the result, the first
time and again. `--size tiny` shows what starting costs. Every run is a line of runs.jsonl in the folder of the models.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import machine
from benchmarks.merge_compare import compare, look_at_drops
from benchmarks.merge_measure import Spent, measure_limit, run_merge
from benchmarks.merge_models import FOLDER, ROOT, SHAPES, make
from benchmarks.merge_tables import AGAIN, FIRST, MERGEKIT, STREAM, Measured, report
from merge_recipes.recipe import load_recipe, names_of, resolve
from merge_recipes.weights import Weights, shards

METHODS = (
    "slerp", "linear", "task_arithmetic", "ties", "dare_ties", "breadcrumbs", "model_stock", "multislerp",
)  # fmt: skip
MORE_METHODS = ("nuslerp", "dare_linear", "breadcrumbs_ties")
EXACT = {"dtype": "float32", "out_dtype": "bfloat16"}
"""How mergekit is asked to do what the streaming engine always does: compute in float32, round once."""


class MergeFailed(Exception):
    """A merge did not end well."""


@dataclass(frozen=True)
class Bench:
    """One set of models, and where its merges go."""

    size: str
    folder: Path
    models: Mapping[str, Path]
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """Of both sides alike."""
        return {
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }


def main() -> None:
    """Make the models, measure every method at every size, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=list(SHAPES), default=["0.1b"])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *MORE_METHODS], default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    parser.add_argument("--only", choices=(STREAM, MERGEKIT), help="one side alone")
    parser.add_argument("--whole", action="store_true", help="whole builds too")
    parser.add_argument("--no-compare", action="store_true", help="do not look at the outputs")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args()
    engines = [given.only] if given.only else [MERGEKIT, STREAM]
    for size in given.size:
        bench = open_bench(size, given.folder, given.threads)
        warm_up(bench, engines)
        measured, failures = [], []
        for method in given.methods:
            try:
                found = measure(bench, method, engines, given.repeats)
                if given.whole:
                    measure_whole(bench, found, engines, given.repeats)
                if len(engines) == 2 and not given.no_compare:
                    look(bench, found)
                measured.append(found)
            except MergeFailed as error:  # the others' figures are worth hours
                failures.append(f"{method}: {error}")
        start = measure(open_bench("tiny", given.folder, given.threads), "linear", engines, given.repeats)
        threads = f"{given.threads} thread{'s' if given.threads > 1 else ''}"
        print("\n".join(report(size, Weights(bench.models["base"]), measured, start)), flush=True)
        print(f"\n{machine()}; {threads}, {given.repeats} in pairs: median (range)", *failures, sep="\n", flush=True)


def open_bench(size: str, folder: Path, threads: int) -> Bench:
    """The set of that size, made where it is not there. SLERP's `expert` is the first of the five."""
    models = make(size, folder)
    return Bench(size, folder / size, {**models, "expert": models["pubmed"]}, threads)


def measure(bench: Bench, method: str, engines: Sequence[str], repeats: int) -> Measured:
    """Merge with the engines by turns; after each turn see what moving the same bytes takes."""
    recipe = read_recipe(method)
    sources = [path for name in names_of(recipe) for path in shards(bench.models[name])]
    written = sum(tensor.nbytes for tensor in Weights(bench.models["base"]).values())
    found = Measured(method, sum(path.stat().st_size for path in sources), written)
    commands = {engine: command_of(bench, engine, method, recipe) for engine in engines}
    if STREAM in commands:
        commands[STREAM]()  # the method's loops are compiled, where they are not
    for _ in range(repeats):
        for engine, run in commands.items():
            found.runs.setdefault(engine, []).append(run())
            note(bench, method, engine, found.runs[engine][-1])
        found.limits.append(measure_limit(sources, bench.folder / "limit.bin", written, bench.threads))
    return found


def measure_whole(bench: Bench, found: Measured, engines: Sequence[str], repeats: int) -> None:
    """`merge_recipes.build` by turns, each time first with no digest known, and then again with all of them."""
    recipe, place = write_recipe(bench, found.method), bench.folder / "build"
    names = names_of(read_recipe(found.method))

    def build(engine: str, again: bool) -> Spent:
        if not again:
            shutil.rmtree(bench.folder / "cache", ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
        command = [
            sys.executable, "-m", "merge_recipes.build", f"out={place}", f"recipe={recipe}", f"engine={engine}",
            f"threads={bench.threads}", *(f"models.{name}={bench.models[name]}" for name in names),
        ]  # fmt: skip
        return run_checked(bench, command)

    for _ in range(repeats):
        for engine in engines:
            for what in (FIRST, AGAIN):
                name = f"{engine}: {what}"
                found.runs.setdefault(name, []).append(build(engine, what == AGAIN))
                note(bench, found.method, name, found.runs[name][-1])
    shutil.rmtree(place, ignore_errors=True)


def warm_up(bench: Bench, engines: Sequence[str]) -> None:
    """Read all six models into the page cache, and the engines' own files: not counted."""
    for engine in engines:
        command_of(bench, engine, "linear", read_recipe("linear"))()


def command_of(bench: Bench, engine: str, method: str, recipe: Mapping[str, Any]) -> Callable[[], Spent]:
    """A function that merges into an empty folder `out-<engine>` of the set."""
    place = bench.folder / f"out-{engine}"
    if engine == STREAM:
        models = [f"{name}={bench.models[name]}" for name in names_of(recipe)]
        command = [
            sys.executable, "-m", "merge_recipes.stream", str(write_recipe(bench, method)), str(place), *models,
            "--threads", str(bench.threads),
        ]  # fmt: skip
    else:
        path = bench.folder / "recipes" / f"{method}-mergekit.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(resolve(recipe, bench.models, None), sort_keys=False))
        command = mergekit_command(path, place, bench.threads)

    def run() -> Spent:
        shutil.rmtree(place, ignore_errors=True)
        return run_checked(bench, command)

    return run


def mergekit_command(recipe: Path, place: Path, threads: int) -> list[str]:
    """mergekit's own command, without what a search or a benchmark would not want."""
    return [
        str(Path(sys.executable).parent / "mergekit-yaml"), str(recipe), str(place), "--num-threads", str(threads),
        "--lazy-unpickle", "--quiet", "--random-seed", "0", "--no-write-model-card",
    ]  # fmt: skip


def run_checked(bench: Bench, command: Sequence[str]) -> Spent:
    """Run it when nothing is left to be written to disk by others; it must end well."""
    os.sync()
    log = bench.folder / "log.txt"
    spent = run_merge(command, log, bench.environment)
    if spent.code:
        print(log.read_text(errors="replace")[-5000:], file=sys.stderr)
        raise MergeFailed(f"`{' '.join(command[:4])} …` ended with {spent.code}")
    return spent


def look(bench: Bench, found: Measured) -> None:
    """Compare the outputs of the last turn, and ours with mergekit's in float32 rounded once."""
    recipe, ours = read_recipe(found.method), bench.folder / f"out-{STREAM}"
    theirs = bench.folder / f"out-{MERGEKIT}"
    drops = found.method.startswith("dare")
    for how, changed in (("bfloat16", recipe), ("float32", {**recipe, **EXACT})):
        if how == "float32":
            spent = command_of(bench, MERGEKIT, found.method, changed)()
            note(bench, found.method, "mergekit in float32", spent)
        if drops:
            found.kept[f"mergekit in {how}"] = look_at_drops(theirs, recipe, bench.models)
        else:
            found.gaps[how] = compare(theirs, ours, recipe, bench.models, explain=how == "float32")
    if drops:
        found.kept[STREAM] = look_at_drops(ours, recipe, bench.models)


def read_recipe(method: str) -> dict[str, Any]:
    """The shipped recipe of a method, in bfloat16."""
    return {**load_recipe(ROOT / "merge_recipes" / f"{method}.yml"), "dtype": "bfloat16"}


def write_recipe(bench: Bench, method: str) -> Path:
    """The same as a file, with its models by name."""
    path = bench.folder / "recipes" / f"{method}.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(read_recipe(method), sort_keys=False))
    return path


def note(bench: Bench, method: str, what: str, spent: Spent) -> None:
    """Keep a run, and say that it is done."""
    row = {"size": bench.size, "threads": bench.threads, "method": method, "what": what, **asdict(spent)}
    with (bench.folder.parent / "runs.jsonl").open("a") as runs:
        runs.write(json.dumps({"machine": machine(), **row}) + "\n")
    print(
        f"{bench.size} {method} {what}: {spent.cpu:.2f} CPU s, {spent.wall:.2f} s, {spent.anonymous_mb:.0f} MB",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    main()

"""What one candidate of a search for a merge costs: into a living model, beside mergekit called once a candidate.

    python -m benchmarks.merge_search --size nano 0.1b --candidates 5

A candidate is a shipped recipe with numbers drawn anew: every weight, density, gamma and lambda. Until it can be asked
something, ours calls `Merger.into_model`; mergekit merges into a folder, as a process (`mergekit-yaml`) or inside this
one (imports and a first merge are not counted), and the folder is loaded. All in turns, on one thread. The first
candidate of ours is told apart, since it looks at the experts' magnitudes for all that follow. What asking costs is
the same for all: it is measured once a size, on the validation questions of the simulated clinic.
"""

from __future__ import annotations

import argparse
import copy
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import machine, median_spread, table
from benchmarks.merge import Bench, mergekit_command, open_bench, run_checked
from benchmarks.merge_compare import steps_of
from benchmarks.merge_models import FOLDER, ROOT, SHAPES
from mediflow.clinic.benchmarks import TOPICS, validation_rows
from medsmith.records import write_jsonl
from merge_recipes.recipe import check_recipe, load_recipe, names_of, resolve

METHODS = ("task_arithmetic", "ties", "breadcrumbs")
OURS, INSIDE, PROCESS = "into_model", "mergekit inside, and load", "mergekit-yaml, and load"
RANGES = {"weight": (0.1, 0.6), "density": (0.3, 0.9), "gamma": (0.005, 0.05), "lambda": (0.7, 1.3)}


@dataclass
class Costs:
    """CPU seconds of every candidate, by how it was made, and how far the last one lies from mergekit's."""

    method: str
    spent: dict[str, list[float]] = field(default_factory=lambda: {OURS: [], INSIDE: [], PROCESS: []})
    largest: float = 0.0
    far: float = 0.0
    """The share of entries that are more than one step of bfloat16 apart."""

    def ratio(self, name: str) -> str:
        """How many times ours another way costs, candidate by candidate, without the first."""
        pairs = zip(self.spent[name][1:], self.spent[OURS][1:], strict=True)
        return median_spread([theirs / ours for theirs, ours in pairs], 0)

    def all_of(self, name: str) -> str:
        """The same over all candidates together, ours with its first."""
        return f"{sum(self.spent[name]) / sum(self.spent[OURS]):.0f}"


def main() -> None:
    """Measure every method at every size; print a table each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=list(SHAPES), default=["nano", "0.1b"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--candidates", type=int, default=5, help="at least 2")
    parser.add_argument("--score-dtype", choices=("float32", "bfloat16"), default="float32", help="of the living model")
    parser.add_argument("--questions", type=int, default=100, help="validation questions of each topic; 0: do not ask")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args()
    from medsmith.models import set_threads

    set_threads(1)
    for size in given.size:
        bench = open_bench(size, given.folder, threads=1)
        asked = ask(bench, given.questions, given.score_dtype) if given.questions else None
        costs = [measure(bench, name, given.candidates, given.score_dtype, given.seed) for name in given.methods]
        print(f"\n### {size}, a model in {given.score_dtype}, CPU seconds a candidate\n")
        print(f"{machine()}; 1 thread, {given.candidates} candidates: median (range)\n")
        print(cost_table(costs, asked), flush=True)


def measure(bench: Bench, method: str, candidates: int, dtype: str, seed: int) -> Costs:
    """Make the same candidates in the three ways by turns."""
    from medsmith.models import load_model
    from merge_recipes.merge import merge
    from merge_recipes.stream import Merger

    recipe, rng = load_recipe(ROOT / "merge_recipes" / f"{method}.yml"), random.Random(f"{seed} {method}")
    names = names_of(recipe)
    folders = {name: bench.models[name] for name in names}
    place, path = bench.folder / "candidate", bench.folder / "candidate.yml"
    costs = Costs(method)
    model = load_model(folders["base"], dtype, "cpu")
    # Imports, compiled loops and a first look at the files, on numbers and in a merger of their own.
    first = draw(recipe, rng)
    Merger(folders, "base", threads=1).into_model(first, model)
    _into_empty(place, lambda: merge(first, folders, place, None, 0))
    merger = Merger(folders, "base", threads=1)
    for number in range(candidates):
        candidate = draw(recipe, rng)
        costs.spent[OURS].append(_cpu(lambda: merger.into_model(candidate, model)))  # noqa: B023  # called at once
        inside = _into_empty(place, lambda: merge(candidate, folders, place, None, 0))  # noqa: B023  # called at once
        costs.spent[INSIDE].append(inside + _cpu(lambda: load_model(place, dtype, "cpu")))
        shutil.rmtree(place)
        path.write_text(yaml.safe_dump(resolve(candidate, folders, None), sort_keys=False))
        outside = run_checked(bench, mergekit_command(path, place, threads=1)).cpu
        costs.spent[PROCESS].append(outside + _cpu(lambda: load_model(place, dtype, "cpu")))
        said = ", ".join(f"{name} {spent[-1]:.2f}" for name, spent in costs.spent.items())
        print(f"{bench.size} {method} {number}: {said} CPU s", file=sys.stderr, flush=True)
    costs.largest, costs.far = _distance(model, load_model(place, dtype, "cpu"))
    shutil.rmtree(place)
    return costs


def draw(recipe: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """The recipe with other numbers, each its own."""
    drawn = copy.deepcopy(dict(recipe))
    for block in [*(entry["parameters"] for entry in drawn["models"]), drawn["parameters"]]:
        block |= {name: round(rng.uniform(*RANGES[name]), 4) for name in block if name in RANGES}
    check_recipe(drawn, "the candidate")
    return drawn


def ask(bench: Bench, questions: int, dtype: str) -> tuple[int, float]:
    """How many validation questions there are, and the CPU seconds of asking a loaded model all of them."""
    from medsmith.models import load_model, load_tokenizer
    from merge_recipes.validation import read_questions, score

    path = bench.folder / "questions.jsonl"
    write_jsonl(path, (row for topic in TOPICS for row in validation_rows(topic, "0", questions)))
    found = read_questions([path])
    model, tokenizer = load_model(bench.models["base"], dtype, "cpu"), load_tokenizer(bench.models["base"])
    score(model, tokenizer, found[:8])
    return len(found), _cpu(lambda: score(model, tokenizer, found))


def cost_table(costs: Sequence[Costs], asked: tuple[int, float] | None) -> str:
    """One line a method."""
    head = [
        "method", "into_model", "its first", INSIDE, "× into_model", "× all", PROCESS, "× into_model", "× all",
        f"{asked[0]} questions" if asked else "questions", "largest difference", "beyond one rounding",
    ]  # fmt: skip
    rows = [
        [
            one.method, median_spread(one.spent[OURS][1:], 3), f"{one.spent[OURS][0]:.3f}",
            median_spread(one.spent[INSIDE]), one.ratio(INSIDE), one.all_of(INSIDE),
            median_spread(one.spent[PROCESS]), one.ratio(PROCESS), one.all_of(PROCESS),
            f"{asked[1]:.1f}" if asked else "", f"{one.largest:.1e}", f"{one.far:.3%}",
        ]
        for one in costs
    ]  # fmt: skip
    return table(head, rows)


def _cpu(work: Callable[[], object]) -> float:
    """The CPU seconds of this process while it works."""
    before = time.process_time()
    work()
    return time.process_time() - before


def _into_empty(place: Path, work: Callable[[], object]) -> float:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return _cpu(work)


def _distance(ours: Any, theirs: Any) -> tuple[float, float]:
    """The largest difference of two models' parameters, and the share beyond one step of bfloat16."""
    largest, far, count = 0.0, 0, 0
    other = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        left, right = (one.detach().double().flatten() for one in (parameter, other[name]))
        size = (left - right).abs()
        steps = steps_of(left.abs().maximum(right.abs()).numpy())
        largest = max(largest, float(size.max()))
        far += int((size.numpy() > steps).sum())
        count += size.numel()
    return largest, far / count


if __name__ == "__main__":
    main()

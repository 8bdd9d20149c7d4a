"""Negative controls of a finished pipeline: each step again with its lesson taken out, which must then gain nothing.

    python -m benchmarks.controls out/embedded
    python -m benchmarks.controls out/embedded --only sft dpo --folder /tmp/controls

* `sft`: every row is given the answer of another row; `sft-task`: of another row of its task, so that the form of
  answers can still be learned and nothing else.
* `dpo`: of every pair the worse answer is preferred; planted errors are counted on pairs of a new draw of the teacher.
* `merge`: in place of one expert, noise as large as what it learned; beside it the merge without that expert.
* `facts`: one expert reads its corpus (and its teacher's rows) with the facts of other diseases and drugs.

Settings, models and seeds are those of the real step, from its run.json. A killed run goes on where it stopped. Writes
controls.json and controls.md: what the real step changed, what the control changed, with paired 95 % intervals.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.controls_data import Change, Kind, write_changed
from benchmarks.measure import table
from eval import statistics
from eval.compare import check_items, samples_of
from eval.metrics import table_of
from eval.results import read_result
from medsmith import run
from medsmith.command import find_command, guard
from medsmith.errors import UserError
from medsmith.intervals import Interval, paired_change
from medsmith.records import Instruction, content_id, read_json, read_parquet, write_json

CONTROLS = ("sft", "sft-task", "dpo", "merge", "facts")
NEW_PAIRS = 300
"""Pairs that planted errors are counted on, at most."""
QUESTIONS = ("medqa", "medication_qa", "icd10cm")
"""Benchmarks that ask for facts; where a suite has none of them, all of its benchmarks are taken."""


@dataclass(frozen=True)
class Row:
    """What a real step changed and what its control changed, in points of 100 of one measure."""

    control: str
    measure: str
    before: float
    real: Interval
    changed: Interval
    expected: str
    holds: bool


class Pipeline:
    """The finished steps of a pipeline folder, by name."""

    def __init__(self, folder: Path) -> None:
        """Read every run.json; UserError where there is none."""
        found = {path.parent: read_json(path) for path in sorted(folder.glob("*/run.json"))}
        if not found:
            raise UserError(
                f"{folder} holds no finished step; run the pipeline first, e.g. medsmith run pipelines/embedded.yml"
            )
        self.folder = folder
        self.records: dict[Path, dict[str, Any]] = {Path(path): dict(record) for path, record in found.items()}

    def one(self, command: str, which: Callable[[Path, dict[str, Any]], bool] = lambda path, record: True) -> Path:
        """The first step (by name) of a command that fits."""
        for path, record in self.records.items():
            if record["command"] == command and which(path, record):
                return path
        raise UserError(f"{self.folder} has no finished step of {command} that this control could repeat")

    def settings(self, step: Path) -> dict[str, Any]:
        """The step's settings without its folder."""
        return {key: value for key, value in self.record(step)["config"].items() if key != "out"}

    def record(self, step: Path) -> dict[str, Any]:
        """run.json of a step; UserError where it is not finished."""
        return self.records.get(step) or run.require_finished(step)

    def evaluations(self, model: Path) -> dict[str, Path]:
        """The evaluations of a model, by suite."""
        return {
            str(record["config"]["suite"]): path
            for path, record in self.records.items()
            if record["command"] == "eval.run" and _same(record["config"]["model"], model)
        }


def main() -> None:
    """Make the controls that are asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path, nargs="?", default=Path("out/embedded"))
    parser.add_argument("--only", nargs="+", choices=CONTROLS, default=list(CONTROLS), metavar="CONTROL")
    parser.add_argument("--folder", type=Path, help="default: PIPELINE-controls")
    parser.add_argument("--expert", default="guidelines", help="the expert of merge and facts (default: guidelines)")
    given = parser.parse_args()
    out = given.folder or Path(f"{given.pipeline}-controls")
    guard(lambda: print(render(run_controls(given.pipeline, out, given.only, given.expert))))


def run_controls(folder: Path, out: Path, only: Sequence[str], expert: str) -> list[Row]:
    """Every control in `only`; their rows."""
    pipeline = Pipeline(folder)
    makers = {
        "sft": lambda: sft_control(pipeline, out, "sft"),
        "sft-task": lambda: sft_control(pipeline, out, "sft-task"),
        "dpo": lambda: dpo_control(pipeline, out),
        "merge": lambda: merge_control(pipeline, out, expert),
        "facts": lambda: facts_control(pipeline, out, expert),
    }
    rows = [row for name in only for row in makers[name]()]
    write_json(out / "controls.json", [asdict(row) for row in rows])
    (out / "controls.md").write_text(render(rows) + "\n", encoding="utf-8")
    return rows


def sft_control(pipeline: Pipeline, out: Path, name: str) -> list[Row]:
    """Fine-tuning on answers of other rows."""
    real = pipeline.one("align.sft")
    settings = pipeline.settings(real)
    kind: Kind = "answers" if name == "sft" else "task_answers"
    if settings["data"]:
        settings["data"] = str(_changed(out / f"{name}-rows", settings["data"], kind))
    else:
        for key, source in settings["mix"].items():
            # What is only rehearsed stays as it is: the lesson is that of the curated rows.
            if (pipeline.records.get(Path(source["data"])) or {}).get("command") == "mediflow.curate":
                source["data"] = str(_changed(out / f"{name}-rows-{key}", source["data"], kind))
    made = step("align.sft", settings, out / name)
    before = Path(settings["model"])
    rows = _by_suite(pipeline, out, name, before, real, made, "no gain", lambda one: one.low <= 0)
    if name == "sft-task":
        rows = [_with(row, "gains less than the real step", row.changed.high < row.real.value) for row in rows]
    return rows


def dpo_control(pipeline: Pipeline, out: Path) -> list[Row]:
    """Preference training the wrong way round."""
    real = pipeline.one("align.dpo")
    settings = pipeline.settings(real)
    pairs = Path(settings["data"])
    settings["data"] = str(_changed(out / "dpo-pairs", pairs, "swapped"))
    made = step("align.dpo", settings, out / "dpo")
    before = Path(settings["model"])
    new = _without_known(read_parquet(new_pairs(pipeline, pairs, out) / "data"), read_parquet(pairs / "data"))
    row = _planted_errors(new, before, real, made, settings["max_tokens"])
    return [row, *_by_suite(pipeline, out, "dpo", before, real, made, "no gain", lambda one: one.low <= 0)]


def new_pairs(pipeline: Pipeline, pairs: Path, out: Path) -> Path:
    """Pairs that nothing was trained on: the pipeline's own steps up to its pairs once more, with the next seed."""
    paired = pipeline.settings(pairs)
    curated = pipeline.settings(Path(paired["curated"]))
    generated = pipeline.settings(Path(curated["generated"]))
    seed = generated["seed"] + 1
    rows = step("mediflow.generate", generated | {"seed": seed}, out / "new-generate")
    # Nobody judges them: the best rows are not asked for.
    sources = {"generated": str(rows), "judged": None, "min_quality": None}
    kept = step("mediflow.curate", curated | sources | {"seed": seed}, out / "new-curate")
    known = {"curated": str(kept), "generated": str(rows) if paired["generated"] else None, "seed": paired["seed"] + 1}
    return step("mediflow.pair", paired | known, out / "new-pair")


def _without_known(new: Sequence[Instruction], known: Sequence[Instruction]) -> list[Instruction]:
    """The new pairs whose question no known pair asks, in an order that says nothing."""
    asked = {(row.instruction, row.input) for row in known}
    return sorted((row for row in new if (row.instruction, row.input) not in asked), key=lambda row: content_id(row.id))


def merge_control(pipeline: Pipeline, out: Path, name: str) -> list[Row]:
    """The merge that was fine-tuned, with noise for one expert, beside the same merge without it."""
    start = pipeline.settings(pipeline.one("align.sft"))["model"]
    real = next((path for path in pipeline.records if _same(path, start)), None)
    if real is None or not pipeline.record(real)["command"].startswith("merge_recipes."):
        raise UserError(
            f"{pipeline.folder}: fine-tuning did not start from a merge ({start}); leave merge out of --only"
        )
    models = {name: str(path) for name, path in pipeline.settings(real)["models"].items()}
    recipe = _read_recipe(real / "recipe.yml")
    base = recipe["base_model"]
    listed = [one["model"] for one in recipe["models"]]
    if name not in listed:
        raise UserError(f"the merge {real} has no expert {name!r}; it has {', '.join(listed)}")
    wanted = {"source": Path(models[name]), "base": Path(models[base])}
    noise = write_changed(Change(out=out / "merge-expert", kind="noise", **wanted))
    common = {"dtype": pipeline.settings(real).get("dtype"), "seed": pipeline.settings(real)["seed"]}
    with_noise = _merge(out / "merge-noise", recipe, models | {name: str(noise)}, common)
    left = {key: path for key, path in models.items() if key != name}
    without = _merge(out / "merge-without", _without(recipe, name), left, common)
    return _by_suite(
        pipeline, out, "merge", without, real, with_noise, f"no gain over no {name}", lambda one: one.low <= 0
    )


def facts_control(pipeline: Pipeline, out: Path, name: str) -> list[Row]:
    """One expert on a corpus in which every disease and drug has the facts of another."""
    real = pipeline.one("experts.train", lambda path, record: path.name.endswith(name))
    settings = pipeline.settings(real)
    corpus = pipeline.settings(Path(settings["documents"] or ""))
    if not corpus.get("corpus"):
        raise UserError(f"{real} read no corpus file whose facts could be exchanged; give another --expert")
    world = pipeline.settings(pipeline.one("mediflow.simulate"))["world"]
    changed = _changed(out / "facts-file", corpus["corpus"], "renamed_corpus", world)
    settings["documents"] = str(
        step("experts.corpora", corpus | {"corpus": str(changed / "corpus.jsonl")}, out / "facts-corpus")
    )
    if settings.get("rows"):
        settings["rows"] = str(_changed(out / "facts-rows", settings["rows"], "renamed_rows", world))
    made = step("experts.train", settings, out / "facts")
    before = Path(settings["base"])
    return _by_suite(pipeline, out, "facts", before, real, made, "no gain", lambda one: one.low <= 0, questions_on=name)


# --- steps -----------------------------------------------------------------------------------------------------------


def step(command: str, settings: Mapping[str, Any], out: Path) -> Path:
    """Run a command in a process of its own, unless it is finished with these settings; its folder.

    Raises:
        UserError: the command failed.
    """
    found = find_command(command)
    config = found.config(**{**settings, "out": out})
    if run.is_current(command, config):
        return out
    recipe = out.with_name(f"{out.name}.yml")
    write_json(recipe, {**settings, "out": str(out)})  # JSON is YAML
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    called = [sys.executable, "-m", command, str(recipe)]
    ended = subprocess.run(called, env=environment, stdout=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise UserError(f"{command} into {out} failed (its message is above); mend that and run the controls again")
    return out


def _changed(out: Path, source: str | Path, kind: Kind, world: str = "clinic") -> Path:
    return write_changed(Change(out=out, source=Path(source), kind=kind, world=world))


def _merge(out: Path, recipe: Mapping[str, Any], models: Mapping[str, str], common: Mapping[str, Any]) -> Path:
    file = out.with_name(f"{out.name}-recipe.yml")
    write_json(file, dict(recipe))
    return step("merge_recipes.build", {"recipe": str(file), "models": dict(models), **common}, out)


def _without(recipe: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**recipe, "models": [one for one in recipe["models"] if one["model"] != name]}


def _read_recipe(path: Path) -> dict[str, Any]:
    from merge_recipes.recipe import load_recipe

    return dict(load_recipe(path))


def _same(one: str | Path, other: str | Path) -> bool:
    return Path(one).resolve() == Path(other).resolve()


# --- measures --------------------------------------------------------------------------------------------------------


def _by_suite(
    pipeline: Pipeline,
    out: Path,
    name: str,
    before: Path,
    real: Path,
    made: Path,
    expected: str,
    holds: Callable[[Interval], bool],
    questions_on: str | None = None,
) -> list[Row]:
    """A row for each suite that the real step was evaluated on; what was not evaluated on it is now."""
    suites = pipeline.evaluations(real)
    if not suites:
        raise UserError(f"{pipeline.folder} holds no evaluation of {real}; the control has nothing to be compared with")
    rows = []
    for suite, evaluation in suites.items():
        settings = pipeline.settings(evaluation)
        folders = []
        for role, model in (("before", before), ("control", made)):
            known = pipeline.evaluations(model).get(suite)
            if known is None or pipeline.settings(known)["benchmarks"] != settings["benchmarks"]:
                asked = settings | {"model": str(model), "name": f"{name} {role}", "corpora": {}}
                known = step("eval.run", asked, out / f"eval-{name}-{role}-{Path(suite).stem}")
            folders.append(known)
        told = difference(folders[0], evaluation, questions_on), difference(folders[0], folders[1], questions_on)
        measure = f"{Path(suite).stem}: " + (f"questions on {questions_on}" if questions_on else "average")
        rows.append(Row(name, measure, told[0][0], told[0][1], told[1][1], expected, holds(told[1][1])))
    return rows


def difference(before: Path, after: Path, questions_on: str | None = None) -> tuple[float, Interval]:
    """The average of the first evaluation and by how much the second is better, in points with a paired interval.

    With `questions_on` only benchmarks that ask for facts count, and of those with slices only that slice.
    """
    entries = read_result(before)["benchmarks"]
    ours, theirs = samples_of(before), samples_of(after)
    names = [name for name in entries if questions_on is None or name in QUESTIONS] or list(entries)
    sliced = [name for name in names if any(row["slice"] == questions_on for row in ours[name].values())]
    pairs = []
    for name in sliced or names:
        check_items(name, ours[name], theirs[name])
        keys = [key for key, row in ours[name].items() if not sliced or row["slice"] == questions_on]
        by_slice = entries[name]["slice_mean"] and not sliced
        a, b = (
            table_of([rows[name][key] for key in keys], entries[name]["metric"], by_slice) for rows in (ours, theirs)
        )
        pairs.append((a, b))
    found = statistics.overall(pairs)
    return 100 * found.before, _points(found.difference.value, found.difference.low, found.difference.high)


def _planted_errors(new: Sequence[Instruction], before: Path, real: Path, made: Path, max_tokens: int) -> Row:
    """How often the sound answer of a new pair is likelier than the flawed one, by token; as long as trained ones."""
    from align.preferences import measure
    from align.prepare import count_tokens
    from medsmith.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(str(before))
    lengths = count_tokens(new, tokenizer, pairs=True)
    pairs = [pair for pair, tokens in zip(new, lengths, strict=True) if tokens <= max_tokens][:NEW_PAIRS]
    scored = [measure(load_model(str(model)), tokenizer, pairs) for model in (before, real, made)]
    right = [[float(one.prefers_chosen) for one in side] for side in scored]
    groups = [row.instruction for row in pairs]
    told, changed = (_points(*paired_change(right[0], side, groups)) for side in right[1:])
    value = 100 * sum(right[0]) / len(pairs)
    return Row("dpo", f"sound over flawed, {len(pairs)} new pairs", value, told, changed, "a loss", changed.high < 0)


def _points(value: float, low: float, high: float) -> Interval:
    return Interval(100 * value, 100 * low, 100 * high)


def _with(row: Row, expected: str, holds: bool) -> Row:
    return Row(row.control, row.measure, row.before, row.real, row.changed, expected, holds)


def render(rows: Sequence[Row]) -> str:
    """The table for people."""
    shown = [
        [
            row.control,
            row.measure,
            f"{row.before:.1f}",
            _signed(row.real),
            _signed(row.changed),
            row.expected,
            "yes" if row.holds else "**no**",
        ]
        for row in rows
    ]
    head = ["control", "measure", "before", "real step", "control", "expected of the control", "holds"]
    return table(head, shown)


def _signed(one: Interval) -> str:
    return f"{one.value:+.1f} [{one.low:+.1f}, {one.high:+.1f}]"


if __name__ == "__main__":
    main()

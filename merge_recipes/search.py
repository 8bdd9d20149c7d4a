"""Search a merge recipe's numbers: merge candidates, score them on validation data, keep the best.

    python -m merge_recipes.search merge_recipes/searches/slerp.yml out=… models.base=… models.expert=… validation=[…]

Writes the best model (a model folder with recipe.yml), `trials.jsonl` (one row a candidate, best first), `best.json`
(the choice, the runner-up, and whether the two really differ), `history.png`, and with several objectives
`front.jsonl`. The journal `raw/trials.jsonl` makes a killed search go on where it stopped, and one with a larger budget
repeat nothing: the sampler is asked again from the start and hears what the journal says.

The best of many candidates looks better on the questions that chose it than it is: report it on test data.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError
from merge_recipes.objectives import DIRECTIONS, ObjectiveName, compare, front_of, measure
from merge_recipes.samplers import SamplerName
from merge_recipes.space import Axis, Space
from merge_recipes.validation import Question, read_questions, tally

LOG = logging.getLogger(__name__)

SCRATCH = ".trial"
DEFAULT_BUDGET = 100


class Config(config.Config):
    """A recipe, its models, the numbers to try and the data to try them on."""

    libraries: ClassVar[tuple[str, ...]] = ("mergekit", "numba", "optuna", "torch", "transformers")
    foreign: ClassVar[dict[str, str]] = {"grid": "`grid` is called `space` now; a list of values stays as it is"}

    recipe: Path = Field(description="a mergekit recipe with a first value for every number that is searched")
    models: dict[str, ModelRef] = Field(description="the folder or hub id of each name in the recipe")
    space: Space = Field(
        description="what to try, by place in the recipe (`parameters.t`, `models.*.parameters.weight` all at once, "
        "`models.clinical.parameters.weight`): a list of values, or {low, high} with step, log, each (a number for "
        "every model), layers (so many over the depth), filters (one for each part of tensor names)"
    )
    validation: list[Path] = Field(description="files or folders of multiple-choice questions")
    documents: list[Path] = Field([], description="held-out documents (*.jsonl with `text`), for the objective loss")
    suite: dict[str, Any] = Field(
        {}, description="settings of eval.run (suite, benchmarks, …), for the objective suite"
    )
    objectives: list[ObjectiveName] = Field(
        ["average"],
        min_length=1,
        description="average, margin, datasets_gained, unevenness, loss, suite; of several "
        "the first decides on the front, then the next",
    )
    sampler: SamplerName | None = Field(
        None, description="grid, random, tpe, cma_es or nsga2; default: grid where all is lists, else tpe"
    )
    budget: int | None = Field(
        None, ge=1, description=f"at most so many candidates; default: all of a grid, else {DEFAULT_BUDGET}"
    )
    minutes: float | None = Field(None, gt=0, description="stop asking after so many minutes")
    batch: int = Field(1, ge=1, description="candidates proposed at once, before any of them is known")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="merge and save in this type; default: the recipe's"
    )
    score_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="score candidates in this type; bfloat16 is 2.4 times faster on a CPU with AMX"
    )
    engine: Literal["auto", "stream", "mergekit"] = Field("auto", description="as of merge_recipes.build")
    workers: int = execution(1, "processes that measure candidates; with GPUs one each; useful up to `batch`")
    spread: Literal["local", "ray"] = execution("local", "where the workers are: this machine, or a Ray cluster")
    ray_address: str | None = execution(None, "of the Ray cluster; default: RAY_ADDRESS")
    device: str = execution("auto", "where candidates are scored: auto, cpu or cuda")
    batch_tokens: int = execution(8192, "tokens scored at once")
    threads: int | None = execution(None, "threads a worker; default: OMP_NUM_THREADS, else all cores")


@dataclass
class Trial:
    """A candidate: what was chosen, its recipe, and the journal's row of it."""

    number: int
    id: str
    values: dict[str, Any]
    recipe: dict[str, Any]
    row: dict[str, Any] = field(default_factory=dict)
    objectives: tuple[float, ...] | None = None


def main(settings: Config) -> Path:
    """Search, then build the best recipe as merge_recipes.build would."""
    from medsmith.models import set_threads
    from merge_recipes.licences import find_licences
    from merge_recipes.parents import prepare
    from merge_recipes.recipe import load_recipe
    from merge_recipes.result import Engine, build, looks_itself
    from merge_recipes.space import axes_of, check_corners

    recipe = load_recipe(settings.recipe)
    questions = read_questions(settings.validation)
    axes = axes_of(recipe, settings.space)
    check_corners(recipe, settings.space, axes, str(settings.recipe))
    _check_objectives(settings)
    with run.start(settings, "merge_recipes.search") as this:
        set_threads(settings.threads)
        finite = not looks_itself(recipe, settings.engine)
        folders = prepare(recipe, settings.models, settings.dtype, settings.out, copies=2, finite=finite)
        this.facts["licences"] |= find_licences(settings.models, folders)
        try:
            trials, parents = _run_trials(settings, recipe, axes, folders, questions, this.identity)
        finally:
            shutil.rmtree(settings.out / SCRATCH, ignore_errors=True)
        base = parents[recipe["base_model"]]
        ranked, failed = rank(trials, settings.objectives)
        best = summarise(ranked, base, questions, settings)
        best["parents"] = {name: tally(row["right"], questions).mean for name, row in parents.items()}
        engine = Engine(settings.engine, threads=settings.threads)
        facts = build(ranked[0].recipe, folders, settings.out, settings.dtype, settings.seed, engine)
        this.facts |= facts | {"search": {key: best[key] for key in ("values", "mean", "verdict", "parents")}}
        _write(settings, best, ranked, failed, questions)
        return this.finish(trials=len(trials), scored=len(ranked), failed=len(failed), questions=len(questions))


def _check_objectives(settings: Config) -> None:
    if len(set(settings.objectives)) != len(settings.objectives):
        raise UserError(f"objectives: {', '.join(settings.objectives)} names one twice")
    for name, given in (("loss", settings.documents), ("suite", settings.suite)):
        if (name in settings.objectives) != bool(given):
            key = "documents" if name == "loss" else "suite"
            raise UserError(f"the objective {name} and the setting {key} go together; give both or neither")


def _run_trials(
    settings: Config,
    recipe: Mapping[str, Any],
    axes: list[Axis],
    folders: Mapping[str, Path],
    questions: Sequence[Question],
    identity: Mapping[str, Any],
) -> tuple[list[Trial], dict[str, dict[str, Any]]]:
    """(every candidate in the order of asking, the journal's row of every parent)."""
    from medsmith.journal import Journal
    from medsmith.progress import Bar
    from medsmith.records import read_jsonl
    from merge_recipes.candidates import Bench, crew
    from merge_recipes.samplers import build_sampler
    from merge_recipes.space import combinations, starting_values

    name: SamplerName = settings.sampler or ("grid" if all(axis.choices for axis in axes) else "tpe")
    directions = [DIRECTIONS[objective] for objective in settings.objectives]
    first = starting_values(recipe, settings.space, axes)
    sampler = build_sampler(name, axes, directions, settings.seed, settings.batch, first, settings.budget)
    budget = settings.budget or DEFAULT_BUDGET
    if name == "grid":
        every = len(combinations(axes))
        budget = min(settings.budget or every, every)
    documents = [str(row["text"]) for path in settings.documents for row in read_jsonl(path)]
    bench = Bench(
        tuple(folders.items()), recipe["base_model"], tuple(questions), tuple(documents), settings.dtype,
        settings.score_dtype, settings.device, settings.batch_tokens, settings.seed, settings.engine,
        json.dumps(settings.suite, default=str) if settings.suite else "", settings.out / SCRATCH, settings.threads,
    )  # fmt: skip
    with (
        Journal(settings.out / "raw" / "trials.jsonl") as journal,
        Bar("merge search", total=len(folders) + budget, unit="models") as bar,
        crew(settings.workers, settings.spread, settings.ray_address, settings.device) as team,
    ):
        search = _Search(
            settings, recipe, _context(settings, identity, questions, documents), journal, bar, bench, team
        )
        parents = search.measure_parents(list(folders))
        return search.measure_candidates(sampler, budget, parents[recipe["base_model"]], questions), parents


class _Search:
    """The loop of asking, measuring and telling."""

    def __init__(
        self, settings: Config, recipe: Mapping[str, Any], context: Any, journal: Any, bar: Any, bench: Any, team: Any
    ) -> None:
        self.settings, self.recipe, self.context = settings, recipe, context
        self.journal, self.bar, self.bench, self.team = journal, bar, bench, team
        self.began = time.monotonic()
        self.spent = {"making": 0.0, "measuring": 0.0, "candidates": 0}

    def measure_parents(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The journal's row of every parent, for reference; what is missing is measured."""
        from medsmith.records import content_id
        from merge_recipes.candidates import Job

        keys = {name: content_id("parent", name, self.context) for name in names}
        missing = [name for name in names if keys[name] not in self.journal.rows]
        for start in range(0, len(missing), self.settings.workers):
            some = missing[start : start + self.settings.workers]
            for name, found in zip(some, self.team(self.bench, [Job("", name) for name in some]), strict=True):
                if "error" in found.row:
                    raise UserError(f"models.{name}: {found.row['error']}")
                self.journal.append({"id": keys[name], "parent": name, **found.row})
        for name in names:
            self.bar.advance(note=name)
        return {name: self.journal.rows[keys[name]] for name in names}

    def measure_candidates(
        self, sampler: Any, budget: int, base: Mapping[str, Any], questions: Sequence[Question]
    ) -> list[Trial]:
        """Ask in rounds until the budget or the time is used up."""
        trials: list[Trial] = []
        best = ""
        while len(trials) < budget and not self._late():
            asked = sampler.ask(min(self.settings.batch, budget - len(trials)))
            if not asked:
                break
            round_ = [self._trial(len(trials) + place, values) for place, values in enumerate(asked)]
            self._measure(round_)
            for trial in round_:
                trial.row = dict(self.journal.rows[trial.id])
                if "error" not in trial.row:
                    names = self.settings.objectives
                    trial.objectives = tuple(measure(name, trial.row, base, questions) for name in names)
            sampler.tell([(trial.values, trial.objectives) for trial in round_])
            trials += round_
            scored = [trial for trial in trials if trial.objectives]
            if scored:
                best = f"best {order(scored, self.settings.objectives)[0].objectives[0]:.4f}"  # type: ignore[index]
            self.bar.advance(len(round_), note=best)
        if self.spent["candidates"]:
            count = self.spent["candidates"]
            LOG.info(
                "%d candidates measured, each %.2f s to make and %.2f s to measure",
                count, self.spent["making"] / count, self.spent["measuring"] / count,
            )  # fmt: skip
        return trials

    def _late(self) -> bool:
        return self.settings.minutes is not None and time.monotonic() - self.began > 60 * self.settings.minutes

    def _trial(self, number: int, values: dict[str, Any]) -> Trial:
        from medsmith.records import content_id
        from merge_recipes.space import candidate

        recipe = candidate(self.recipe, self.settings.space, values)
        return Trial(number, content_id(self.context, recipe), values, recipe)

    def _measure(self, trials: Sequence[Trial]) -> None:
        """Measure what the journal does not have, each recipe once."""
        from merge_recipes.candidates import Job

        new = {trial.id: trial for trial in trials if trial.id not in self.journal.rows}
        found = self.team(self.bench, [Job(json.dumps(trial.recipe)) for trial in new.values()]) if new else []
        for trial, measured in zip(new.values(), found, strict=True):
            self.journal.append({"id": trial.id, "values": trial.values, **measured.row})
            self.spent["making"] += measured.making
            self.spent["measuring"] += measured.measuring
            self.spent["candidates"] += 1


def order(trials: Sequence[Trial], objectives: Sequence[str]) -> list[Trial]:
    """Best first: the front before what is beaten, then by the objectives in turn; of equals the one asked first."""
    directions = [DIRECTIONS[name] for name in objectives]
    values = {trial.number: trial.objectives for trial in trials if trial.objectives}
    front = set(front_of(values, directions)) if len(objectives) > 1 else set()

    def key(trial: Trial) -> tuple[Any, ...]:
        assert trial.objectives, "only what was scored is ordered"
        signed = [
            -v if direction == "maximize" else v for v, direction in zip(trial.objectives, directions, strict=True)
        ]
        return (trial.number not in front, *signed, trial.number)

    return sorted(trials, key=key)


def rank(trials: Sequence[Trial], objectives: Sequence[str]) -> tuple[list[Trial], list[Trial]]:
    """(the scored candidates, best first; the failed ones). Each recipe once: the first that was asked of it.

    Raises:
        UserError: every candidate failed.
    """
    once = list({trial.id: trial for trial in reversed(trials)}.values())[::-1]
    scored = [trial for trial in once if trial.objectives is not None]
    failed = [trial for trial in once if trial.objectives is None]
    if not scored:
        raise UserError(f"every candidate failed; the first: {failed[0].row['error']}")
    return order(scored, objectives), failed


def summarise(
    ranked: Sequence[Trial], base: Mapping[str, Any], questions: Sequence[Question], settings: Config
) -> dict[str, Any]:
    """best.json: the best values and whether they differ from the runner-up by more than the items' chance."""
    winner, objective = ranked[0], settings.objectives[0]
    score = tally(winner.row["right"], questions)
    summary: dict[str, Any] = {"values": winner.values, "mean": score.mean, "topics": score.topics}
    summary["objectives"] = _objectives(winner, settings.objectives)
    summary |= {"sampler": settings.sampler or "default", "trials": len(ranked), "questions": len(questions)}
    summary |= {"runner_up": None, "no_real_difference": 0, "verdict": "only one combination was tried"}
    if len(ranked) > 1:
        gaps = [compare(objective, winner.row, other.row, questions, settings.seed) for other in ranked[1:]]
        second, gap = ranked[1], gaps[0]
        unlike = sum(a != b for a, b in zip(winner.row["right"], second.row["right"], strict=True))
        summary["runner_up"] = {
            "values": second.values,
            "mean": tally(second.row["right"], questions).mean,
            "objectives": _objectives(second, settings.objectives),
            "difference": gap.value,
            "low": gap.low,
            "high": gap.high,
            "answers_that_differ": unlike,
        }
        summary["no_real_difference"] = sum(not one.is_real for one in gaps)
        summary["verdict"] = "the best differs from the runner-up" if gap.is_real else "no real difference"
    against = compare(objective, winner.row, base, questions, settings.seed) if objective != "suite" else None
    if against:
        summary["over_base"] = {"difference": against.value, "low": against.low, "high": against.high}
    return summary


def _objectives(trial: Trial, names: Sequence[str]) -> dict[str, float | None]:
    """By name; None for what is infinite, which JSON does not know."""
    assert trial.objectives, "scored"
    return {
        name: round(value, 6) if abs(value) < float("inf") else None
        for name, value in zip(names, trial.objectives, strict=True)
    }


def _write(
    settings: Config, best: Mapping[str, Any], ranked: list[Trial], failed: list[Trial], questions: Sequence[Question]
) -> None:
    from medsmith.records import write_json, write_jsonl
    from merge_recipes.history import draw

    rows = []
    for trial in ranked:
        score = tally(trial.row["right"], questions)
        found = {"number": trial.number, "values": trial.values, **vars(score)}
        rows.append(found | {"objectives": _objectives(trial, settings.objectives)})
    rows += [{"number": trial.number, "values": trial.values, "error": trial.row["error"]} for trial in failed]
    write_jsonl(settings.out / "trials.jsonl", rows)
    write_json(settings.out / "best.json", best)
    if len(settings.objectives) > 1:
        directions = [DIRECTIONS[name] for name in settings.objectives]
        front = set(front_of({trial.number: trial.objectives or () for trial in ranked}, directions))
        write_jsonl(settings.out / "front.jsonl", [row for row in rows if row["number"] in front])
    draw(rows, settings.objectives[0], DIRECTIONS[settings.objectives[0]], settings.out / "history.png")
    for trial in ranked[:3]:
        LOG.info("%s  %s", _objectives(trial, settings.objectives), trial.values)
    equal, others = best["no_real_difference"], len(ranked) - 1
    LOG.info("%s; %d of %d others cannot be told from the best", best["verdict"], equal, others)


def _context(settings: Config, identity: Mapping[str, Any], questions: Sequence[Question], documents: list[str]) -> Any:
    """What decides a score beside the recipe: weights, data, types, library versions; not how files are named."""
    from medsmith.records import content_id

    weights = {name: value for name, value in identity["inputs"].items() if name.startswith("models.")}
    return [
        weights,
        identity["settings"]["models"],
        {name: version for name, version in identity["libraries"].items() if name != "optuna"},
        content_id([vars(question) for question in questions], documents, json.dumps(settings.suite, default=str)),
        [settings.dtype, settings.score_dtype, settings.engine, settings.seed],
    ]


if __name__ == "__main__":
    run_command(main, Config)

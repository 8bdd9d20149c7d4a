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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import Block, ModelRef, execution
from medsmith.errors import UserError
from merge_recipes.objectives import DIRECTIONS, ObjectiveName
from merge_recipes.outcome import Trial, rank, summarise, write_outcome
from merge_recipes.samplers import SamplerName, build_sampler, choose_sampler
from merge_recipes.space import Axis, Space, axes_of, candidate, check_corners, low_corner, size_of, starting_values
from merge_recipes.validation import Question, read_questions, read_texts

LOG = logging.getLogger(__name__)

SCRATCH = ".trial"
DEFAULT_BUDGET = 100


class Suite(Block):
    """An evaluation suite, for the objective suite: run as a command of its own for every candidate."""

    file: Path = Field(description="the suite's YAML, as in eval/suites")
    benchmarks: dict[str, Path] = Field(description="the file or folder of each of its benchmarks: never a test set")
    limit: int | None = Field(None, ge=1, description="at most so many items of every benchmark")


class Config(config.Config):
    """A recipe, its models, the numbers to try and the data to try them on."""

    libraries: ClassVar[tuple[str, ...]] = ("mergekit", "numba", "optuna", "cmaes", "torch", "transformers")
    foreign: ClassVar[dict[str, str]] = {"grid": "`grid` is called `space` now; a list of values stays as it is"}

    recipe: Path = Field(description="a mergekit recipe with a first value for every number that is searched")
    models: dict[str, ModelRef] = Field(description="the folder or hub id of each name in the recipe")
    space: Space = Field(
        description="what to try, by place in the recipe (`parameters.t`, `models.*.parameters.weight` all at once, "
        "`models.clinical.parameters.weight`): a list of values, or {low, high} with step, log, each (a number for "
        "every model), layers (so many over the depth), filters (one for each part of tensor names)"
    )
    validation: list[Path] = Field(description="files or folders of multiple-choice questions; never test data")
    documents: list[Path] = Field(
        [], description="held-out documents (*.jsonl with `text`) for the objective loss; not those of the evaluation"
    )
    suite: Suite | None = Field(None, description="an evaluation suite, for the objective suite")
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
    minutes: float | None = Field(None, gt=0, description="ask for no more after so many minutes")
    batch: int = Field(1, ge=1, description="candidates proposed at once, before any of them is known")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="merge and save in this type; default: the recipe's"
    )
    score_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="score candidates in this type; bfloat16 is 2.4 times faster on a CPU with AMX"
    )
    engine: Literal["auto", "stream", "mergekit"] = Field("auto", description="as of merge_recipes.build")
    workers: int = execution(1, "processes that measure candidates, on GPUs in turn; useful up to `batch`")
    spread: Literal["local", "ray"] = execution("local", "where the workers are: this machine, or a Ray cluster")
    ray_address: str | None = execution(None, "of the Ray cluster; default: RAY_ADDRESS")
    device: str = execution("auto", "where candidates are scored: auto, cpu or cuda; over Ray, cuda takes a GPU each")
    batch_tokens: int | None = execution(None, "tokens scored at once; default: what measured best on the device")
    threads: int | None = execution(None, "threads a worker; default: OMP_NUM_THREADS, else all cores")


def main(settings: Config) -> Path:
    """Search, then build the best recipe as merge_recipes.build would."""
    from medsmith.models import set_threads
    from merge_recipes.licences import find_licences
    from merge_recipes.parents import prepare
    from merge_recipes.recipe import load_recipe
    from merge_recipes.result import Engine, build, looks_itself

    recipe = load_recipe(settings.recipe)
    questions = read_questions(settings.validation)
    axes = axes_of(recipe, settings.space)
    check_corners(recipe, settings.space, axes, str(settings.recipe))
    _check(settings)
    with run.start(settings, "merge_recipes.search") as this:
        set_threads(settings.threads)
        finite = not looks_itself(recipe, settings.engine)
        # A corner of the space, since what the space puts into the recipe (a filter, say) has to fit the models too.
        corner = candidate(recipe, settings.space, low_corner(axes))
        folders = prepare(corner, settings.models, settings.dtype, settings.out, copies=2, finite=finite)
        this.state_licences("documents", {})  # chosen by, not made of
        this.facts["licences"] |= find_licences(settings.models, folders)
        try:
            trials, parents = _search(settings, recipe, axes, folders, questions, this.identity)
        finally:
            shutil.rmtree(settings.out / SCRATCH, ignore_errors=True)
        ranked, failed = rank(trials, settings.objectives)
        best = summarise(ranked, parents, recipe["base_model"], questions, settings.objectives, settings.seed)
        best |= {"sampler": choose_sampler(settings.sampler, axes), "asked": len(trials)}
        engine = Engine(settings.engine, threads=settings.threads)
        facts = build(ranked[0].recipe, folders, settings.out, settings.dtype, settings.seed, engine)
        this.facts |= facts | {"search": {key: best[key] for key in ("values", "mean", "verdict", "parents")}}
        write_outcome(settings.out, best, ranked, failed, questions, settings.objectives)
        counts = {"trials": len(trials), "scored": len(ranked), "failed": len(failed)}
        repeated = len(trials) - len(ranked) - len(failed)
        return this.finish(**counts, repeated=repeated, questions=len(questions))


def _check(settings: Config) -> None:
    if settings.workers < 1:
        raise UserError(f"workers={settings.workers}; give at least 1")
    if len(set(settings.objectives)) != len(settings.objectives):
        raise UserError(f"objectives: {', '.join(settings.objectives)} names one twice")
    for name, key, given in (("loss", "documents", settings.documents), ("suite", "suite", settings.suite)):
        if (name in settings.objectives) != bool(given):
            raise UserError(f"the objective {name} and the setting {key} go together; give both or neither")


def _search(
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
    from medsmith.records import write_json
    from merge_recipes.candidates import Bench, crew
    from merge_recipes.trials import Loop, context_of

    name = choose_sampler(settings.sampler, axes)
    first = starting_values(recipe, settings.space, axes)
    directions = [DIRECTIONS[objective] for objective in settings.objectives]
    sampler = build_sampler(name, axes, directions, settings.seed, settings.batch, first, settings.budget)
    budget = (
        min(settings.budget or size_of(axes), size_of(axes)) if name == "grid" else settings.budget or DEFAULT_BUDGET
    )
    documents = tuple(read_texts(settings.documents))
    bench = Bench(
        tuple(folders.items()), recipe["base_model"], tuple(questions), documents, settings.dtype,
        settings.score_dtype, settings.device, settings.batch_tokens, settings.seed, settings.engine,
        _suite_settings(settings), (settings.out / SCRATCH).resolve(), settings.threads,
    )  # fmt: skip
    chosen = {key: getattr(settings, key) for key in ("dtype", "score_dtype", "engine")}
    limit = settings.suite and settings.suite.limit
    context = context_of(identity, [*map(vars, questions), documents, limit], chosen, settings.seed)
    with (
        Journal(settings.out / "raw" / "trials.jsonl") as journal,
        Bar("merge search", total=len(folders) + budget, unit="models") as bar,
        crew(bench, settings.workers, settings.spread, settings.ray_address) as team,
    ):
        loop = Loop(
            recipe, settings.space, settings.objectives, questions, context, journal, bar, team, settings.minutes
        )
        parents = loop.measure_parents(list(folders))
        trials = loop.measure_candidates(sampler, budget, settings.batch, parents[recipe["base_model"]])
    if loop.spent.candidates:
        spent = loop.spent.each()
        write_json(settings.out / "log" / "search.json", spent)
        LOG.info(
            "%d candidates measured, each %.2f s to make and %.2f s to measure",
            spent["candidates"], spent["seconds_to_make_each"], spent["seconds_to_measure_each"],
        )  # fmt: skip
    return trials, parents


def _suite_settings(settings: Config) -> str:
    """What eval.run is told, as JSON; empty without a suite."""
    if settings.suite is None:
        return ""
    places = {name: str(path.resolve()) for name, path in settings.suite.benchmarks.items()}
    given = {"suite": str(settings.suite.file.resolve()), "benchmarks": places, "limit": settings.suite.limit}
    own = {name: getattr(settings, name) for name in ("device", "threads", "seed")}
    return json.dumps(given | own | {"dtype": settings.score_dtype})


if __name__ == "__main__":
    run_command(main, Config)

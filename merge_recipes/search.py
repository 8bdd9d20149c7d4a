"""Search a merge recipe's numbers: merge every combination, score it on validation questions, keep the best.

    python -m merge_recipes.search merge_recipes/searches/slerp.yml out=… models.base=… models.expert=… validation=[…]

Writes the best model (a model folder with recipe.yml), `trials.jsonl` (one row a combination, best first) and
`best.json`: the choice, the runner-up, and whether the two really differ. The journal `raw/trials.jsonl` makes a killed
search go on where it stopped, and a search with a wider grid or budget repeat nothing.

The best of many trials looks better on the questions that chose it than it is: report it on test data.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import ModelRef, execution
from medsmith.errors import UserError
from merge_recipes.validation import Question, difference, read_questions, score, tally

LOG = logging.getLogger(__name__)

TRIAL = ".trial"


class Config(config.Config):
    """A recipe, its models, the numbers to try and the questions to try them on."""

    libraries: ClassVar[tuple[str, ...]] = ("mergekit", "torch", "transformers")

    recipe: Path = Field(description="a mergekit recipe with a first value for every number that is searched")
    models: dict[str, ModelRef] = Field(description="the folder or hub id of each name in the recipe")
    grid: dict[str, list[Any]] = Field(
        description="values to try, by place in the recipe: `parameters.t`, `models.*.parameters.weight` (all at "
        "once), `models.clinical.parameters.weight`"
    )
    validation: list[Path] = Field(description="files or folders of multiple-choice questions")
    budget: int | None = Field(
        None, ge=1, description="try at most so many combinations, drawn by the seed; default: all of the grid"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="merge and save in this type; default: the recipe's"
    )
    score_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="score trials in this type; bfloat16 is 2.4 times faster on a CPU with AMX"
    )
    device: str = execution("auto", "where trials are scored: auto, cpu or cuda")
    batch_tokens: int = execution(8192, "tokens scored at once")
    threads: int | None = execution(None, "torch threads; default: OMP_NUM_THREADS, else all cores")


@dataclass(frozen=True)
class Trial:
    """One combination of values; `number` is its place in the grid."""

    id: str
    number: int
    values: dict[str, Any]
    recipe: dict[str, Any]


def main(settings: Config) -> Path:
    """Search, then build the best recipe as merge_recipes.build would."""
    from medsmith.models import set_threads
    from medsmith.records import write_json, write_jsonl
    from merge_recipes.parents import prepare
    from merge_recipes.recipe import load_recipe
    from merge_recipes.result import build

    recipe = load_recipe(settings.recipe)
    questions = read_questions(settings.validation)
    with run.start(settings, "merge_recipes.search") as this:
        set_threads(settings.threads)
        folders = prepare(recipe, settings.models, settings.dtype, settings.out, copies=2)
        trials = plan_trials(recipe, settings, _context(this.identity, questions))
        answers = _answer(settings, trials, folders, questions, _context(this.identity, questions))
        ranked, failed = rank(trials, answers, questions)
        best = summarise(ranked, questions, settings.seed)
        best["parents"] = {name: tally(answers[name]["right"], questions).mean for name in folders}
        facts = build(trials[ranked[0]["number"]].recipe, folders, settings.out, settings.dtype, settings.seed)
        this.facts |= facts | {"search": {key: best[key] for key in ("values", "mean", "verdict", "parents")}}
        write_jsonl(settings.out / "trials.jsonl", [*ranked, *failed])
        write_json(settings.out / "best.json", best)
        for row in ranked[:3]:
            LOG.info("%.4f  %s", row["mean"], row["values"])
        LOG.info("%s", best["verdict"])
        return this.finish(trials=len(trials), scored=len(ranked), failed=len(failed), questions=len(questions))


def plan_trials(recipe: Mapping[str, Any], settings: Config, context: Any) -> dict[int, Trial]:
    """The trials by number, in the grid's order; every recipe is checked before the first merge.

    `context`: whatever else decides a trial's score. With a budget smaller than the grid, the trials with the lowest
    hash of seed and values: a larger budget adds to them.
    """
    from medsmith.records import content_id
    from merge_recipes.recipe import assign, check_recipe, combinations

    trials = []
    for number, values in enumerate(combinations(settings.grid)):
        changed = dict(recipe)
        for path, value in values.items():
            changed = assign(changed, path, value)
        shown = ", ".join(f"{path}={value}" for path, value in values.items())
        check_recipe(changed, f"{settings.recipe} with {shown}")
        key = content_id(context, changed, settings.dtype, settings.score_dtype, settings.seed)
        trials.append(Trial(key, number, values, changed))
    if settings.budget is not None and settings.budget < len(trials):
        LOG.info("budget: %d of %d combinations", settings.budget, len(trials))
        drawn = sorted(trials, key=lambda trial: content_id(settings.seed, trial.values))[: settings.budget]
        trials = sorted(drawn, key=lambda trial: trial.number)
    return {trial.number: trial for trial in trials}


def rank(
    trials: Mapping[int, Trial], answers: Mapping[Any, dict[str, Any]], questions: Sequence[Question]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of trials.jsonl: the scored ones, best mean first, and the failed ones with their error.

    Equal means keep the grid's order, so the value that was listed first (the smaller share) wins.

    Raises:
        UserError: every trial failed.
    """
    scored, failed = [], []
    for number, trial in trials.items():
        row: dict[str, Any] = {"number": number, "values": trial.values}
        if "error" in answers[number]:
            failed.append(row | {"error": answers[number]["error"]})
        else:
            scored.append(row | vars(tally(answers[number]["right"], questions)))
    assert len(scored) + len(failed) == len(trials), "a trial is scored or has failed"
    if not scored:
        raise UserError(f"every trial failed; the first: {failed[0]['error']}")
    return sorted(scored, key=lambda row: (-row["mean"], row["number"])), failed


def summarise(ranked: Sequence[dict[str, Any]], questions: Sequence[Question], seed: int) -> dict[str, Any]:
    """best.json: the best values and whether they differ from the runner-up by more than the questions' chance."""
    winner = ranked[0]
    summary: dict[str, Any] = {key: winner[key] for key in ("values", "mean", "topics")}
    summary |= {"trials": len(ranked), "questions": len(questions), "runner_up": None}
    summary["verdict"] = "only one combination was tried"
    if len(ranked) > 1:
        second = ranked[1]
        gap = difference(winner["right"], second["right"], questions, seed)
        unlike = sum(a != b for a, b in zip(winner["right"], second["right"], strict=True))
        summary["runner_up"] = {key: second[key] for key in ("values", "mean")} | {
            "difference": gap.value,
            "low": gap.low,
            "high": gap.high,
            "answers_that_differ": unlike,
        }
        summary["verdict"] = "the best differs from the runner-up" if gap.is_real else "no real difference"
    return summary


def _context(identity: Mapping[str, Any], questions: Sequence[Question]) -> Any:
    """What decides a score beside the recipe: weights, questions, library versions; not how files are named."""
    from medsmith.records import content_id

    weights = {name: value for name, value in identity["inputs"].items() if name.startswith("models.")}
    return [
        weights,
        identity["settings"]["models"],
        identity["libraries"],
        content_id([vars(question) for question in questions]),
    ]


def _answer(
    settings: Config,
    trials: Mapping[int, Trial],
    folders: Mapping[str, Path],
    questions: Sequence[Question],
    context: Any,
) -> dict[Any, dict[str, Any]]:
    """The journal's row of every parent (by name, for reference) and every trial (by number); missing ones are made."""
    from medsmith.journal import Journal
    from medsmith.models import choose_device, load_model, load_tokenizer
    from medsmith.progress import Bar
    from medsmith.records import content_id
    from merge_recipes.merge import merge

    device = choose_device(settings.device)
    tokenizer = load_tokenizer(next(iter(folders.values())))
    scratch = settings.out / TRIAL

    def answer(folder: Path) -> str:
        model = load_model(folder, settings.score_dtype, device)
        return score(model, tokenizer, questions, settings.batch_tokens).right

    def answer_merged(trial: Trial) -> dict[str, Any]:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            merge(trial.recipe, folders, scratch, settings.dtype, settings.seed)
            return {"right": answer(scratch)}
        except UserError as error:  # these numbers make no model; the others may
            return {"error": str(error).replace(str(scratch), "the merge")}
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    answers: dict[Any, dict[str, Any]] = {}
    with (
        Journal(settings.out / "raw" / "trials.jsonl") as journal,
        Bar("merge search", total=len(folders) + len(trials), unit="models") as bar,
    ):
        for name, folder in folders.items():
            key = content_id("parent", name, context, settings.score_dtype)
            if key not in journal.rows:
                journal.append({"id": key, "parent": name, "right": answer(folder)})
            answers[name] = journal.rows[key]
            bar.advance(note=name)
        for number, trial in trials.items():
            if trial.id not in journal.rows:
                journal.append({"id": trial.id, "values": trial.values} | answer_merged(trial))
            answers[number] = row = journal.rows[trial.id]
            bar.advance(note=row.get("error") or f"{tally(row['right'], questions).mean:.3f}")
    return answers


if __name__ == "__main__":
    run_command(main, Config)

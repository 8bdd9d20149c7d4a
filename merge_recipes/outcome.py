"""What came of a search: candidates in their order, the best beside the others, and the files that say so.

"No real difference" is an answer: the best of many candidates is compared with each other one by the paired
differences of their items, since it was chosen for the largest mean. The items are validation data; what the chosen
model is worth is for test data to say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from merge_recipes.objectives import DIRECTIONS, compare, front_of, items_named
from merge_recipes.validation import Difference, Question, tally

LOG = logging.getLogger(__name__)


@dataclass
class Trial:
    """A candidate: what was chosen, its recipe, and the journal's row of it."""

    number: int
    id: str
    values: dict[str, Any]
    recipe: dict[str, Any]
    row: dict[str, Any] = field(default_factory=dict)
    objectives: tuple[float, ...] | None = None


def order(trials: Sequence[Trial], objectives: Sequence[str]) -> list[Trial]:
    """Best first: the front before what is beaten, then by the objectives in turn; of equals the one asked first."""
    directions = [DIRECTIONS[name] for name in objectives]
    values = {trial.number: trial.objectives for trial in trials if trial.objectives}
    front = set(front_of(values, directions)) if len(objectives) > 1 else set()

    def key(trial: Trial) -> tuple[Any, ...]:
        assert trial.objectives, "only what was scored is ordered"
        pairs = zip(trial.objectives, directions, strict=True)
        signed = [-value if direction == "maximize" else value for value, direction in pairs]
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
    ranked: Sequence[Trial],
    parents: Mapping[str, Mapping[str, Any]],
    base: str,
    questions: Sequence[Question],
    objectives: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """best.json: the best values, and whether they differ from the runner-up by more than the items' chance."""
    winner, first = ranked[0], objectives[0]
    score = tally(winner.row["right"], questions)
    gaps = compare(first, winner.row, [trial.row for trial in ranked[1:]], questions, seed)
    summary: dict[str, Any] = {
        "values": winner.values,
        "mean": score.mean,
        "topics": score.topics,
        "objectives": named(winner, objectives),
        "candidates": len(ranked),
        "questions": len(questions),
        "compared_by": items_named(first),
        "runner_up": None,
        "no_real_difference": sum(not gap.is_real for gap in gaps),
        "verdict": "only one combination was tried",
    }
    if gaps:
        second, gap = ranked[1], gaps[0]
        summary["runner_up"] = {
            "values": second.values,
            "mean": tally(second.row["right"], questions).mean,
            "objectives": named(second, objectives),
            **_shown(gap),
            "answers_that_differ": sum(a != b for a, b in zip(winner.row["right"], second.row["right"], strict=True)),
        }
        summary["verdict"] = "the best differs from the runner-up" if gap.is_real else "no real difference"
    (over,) = compare(first, winner.row, [parents[base]], questions, seed)
    summary["over_base"] = _shown(over)
    summary["parents"] = {name: tally(row["right"], questions).mean for name, row in parents.items()}
    return summary


def named(trial: Trial, names: Sequence[str]) -> dict[str, float | None]:
    """A candidate's objectives by name; None for what is infinite, which JSON does not know."""
    assert trial.objectives, "scored"
    return {
        name: round(value, 6) if math.isfinite(value) else None
        for name, value in zip(names, trial.objectives, strict=True)
    }


def write_outcome(
    out: Path,
    best: Mapping[str, Any],
    ranked: Sequence[Trial],
    failed: Sequence[Trial],
    questions: Sequence[Question],
    objectives: Sequence[str],
) -> None:
    """Write best.json, trials.jsonl, history.png and, of several objectives, front.jsonl."""
    from medsmith.records import write_json, write_jsonl
    from merge_recipes.history import draw

    rows = []
    for trial in ranked:
        score = tally(trial.row["right"], questions)
        found = {"number": trial.number, "values": trial.values, **vars(score)}
        rows.append(found | {"objectives": named(trial, objectives)})
    lost = [{"number": trial.number, "values": trial.values, "error": trial.row["error"]} for trial in failed]
    write_jsonl(out / "trials.jsonl", [*rows, *lost])
    write_json(out / "best.json", best)
    directions = [DIRECTIONS[name] for name in objectives]
    if len(objectives) > 1:
        front = set(front_of({trial.number: trial.objectives or () for trial in ranked}, directions))
        write_jsonl(out / "front.jsonl", [row for row in rows if row["number"] in front])
    draw(rows, objectives[0], directions[0], out / "history.png")
    for trial in ranked[:3]:
        LOG.info("%s  %s", named(trial, objectives), trial.values)
    LOG.info(
        "%s; %d of %d others cannot be told from the best", best["verdict"], best["no_real_difference"], len(ranked) - 1
    )


def _shown(gap: Difference) -> dict[str, float]:
    return {"difference": gap.value, "low": gap.low, "high": gap.high}

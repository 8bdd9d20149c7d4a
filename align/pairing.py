"""The best of a model's answers against the worst, where they differ enough. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from medsmith.records import Instruction, content_id

ON_POLICY = "own answer"
"""The error type of these pairs: none was brought in."""


class Scored(NamedTuple):
    """An answer and what it earned."""

    text: str
    score: float


class Limits(NamedTuple):
    """What makes a pair."""

    margin: float
    """The least difference of scores."""
    least: float
    """The least score of the better answer."""
    max_length_ratio: float


def make_pair(row: Instruction, answers: Sequence[Scored], limits: Limits) -> Instruction | str:
    """The row with its best answer as output and its worst as rejected_output, or why there is none.

    Of equally good answers the one that most of the samples gave is taken, then the shorter: length earns nothing.
    """
    if len(answers) < 2:
        return "fewer than two whole answers with a score"
    times = Counter(one.text for one in answers)
    ranked = sorted(answers, key=lambda one: (-one.score, -times[one.text], len(one.text), one.text))
    best = ranked[0]
    worst = min(answers, key=lambda one: (one.score, -times[one.text], len(one.text), one.text))
    if best.score - worst.score < limits.margin:
        return "tie: the scores differ by less than margin"
    if best.score < limits.least:
        return "the best answer scores less than least"
    if abs(log_ratio(best.text, worst.text)) > math.log(limits.max_length_ratio):
        return "one answer is longer than max_length_ratio allows"
    made = replace(row, id=content_id(row.id, best.text, worst.text), output=best.text, rejected_output=worst.text)
    return replace(made, error_type=ON_POLICY)


def log_ratio(chosen: str, rejected: str) -> float:
    """How much longer the rejected answer is, as the logarithm of the ratio of characters."""
    return math.log(len(rejected.strip()) / len(chosen.strip()))


def describe(
    scored: Mapping[str, Sequence[Scored]], pairs: Sequence[Instruction], dropped: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the card should say: scores, how lengths lie, and why rows gave no pair."""
    every = [one.score for answers in scored.values() for one in answers]
    bests = [max(one.score for one in answers) for answers in scored.values() if answers]
    ratios = [log_ratio(pair.output, pair.rejected_output) for pair in pairs]
    return {
        "answers": len(every),
        "mean_score": _mean(every),
        "mean_best": _mean(bests),
        # 0: neither side is longer. Training learns length where this is far from it.
        "mean_log_length_ratio": _mean(ratios),
        "reasons": dict(sorted(Counter(row["reason"] for row in dropped).items())),
        "error_types": dict(Counter(pair.error_type for pair in pairs).most_common()),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 6) if values else None

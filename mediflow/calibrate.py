"""Can a judge tell? An answer gets one planted error, is judged again, and the two judgements are compared.

Pure functions; `mediflow.judge` makes the calls. A judge that scores broken rows like sound ones measures style, and
nobody would see it from its scores alone.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mediflow.agreement import krippendorff_alpha
from mediflow.pairing.flaws import RULES, apply_rule
from medsmith.intervals import Interval, wilson
from medsmith.records import content_id

CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")


class PlantedError(NamedTuple):
    """The rows of one instruction with one wrong output, at `place`, and the rule that made it wrong."""

    rows: list[dict[str, Any]]
    place: int
    rule: str


class Verdict(NamedTuple):
    """An instruction's mean scores without and with the error."""

    instruction_id: str
    rule: str
    sound: Mapping[str, float]
    broken: Mapping[str, float]


def calibration_order(instruction_id: str, seed: int) -> str:
    """Instructions with the smallest of these are calibrated on: a draw that does not depend on their order."""
    return content_id("calibrate", seed, instruction_id)


def plant_error(rows: Sequence[dict[str, Any]], seed: int) -> PlantedError | None:
    """The rows with the output of one of them made wrong by a rule of `flaws`; None where no rule has a hold.

    Rules are tried in an order drawn by the seed, so that none is favoured where several apply.
    """
    rng = random.Random(f"calibrate {seed} {rows[0]['instruction_id']}")
    for rule in rng.sample(sorted(RULES), len(RULES)):
        for place in rng.sample(range(len(rows)), len(rows)):
            text = apply_rule(rule, rows[place]["output"], rng)
            if text is not None:
                changed = [row | {"output": text} if at == place else row for at, row in enumerate(rows)]
                return PlantedError(changed, place, rule)
    return None


def summarise_calibration(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """By criterion: how often the broken rows scored lower, the same, higher, with the mean difference.

    `told` is lower among all (a judge that always gives one score tells 0 %); `by_rule` is the same of quality alone.
    """
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        groups[verdict.rule].append(verdict)
    return {
        "instructions": len(verdicts),
        "criteria": {name: _compare(verdicts, name) for name in CRITERIA} if verdicts else {},
        "by_rule": {rule: _compare(groups[rule], "quality") for rule in sorted(groups)},
    }


def _compare(verdicts: Sequence[Verdict], criterion: str) -> dict[str, Any]:
    changes = [verdict.broken[criterion] - verdict.sound[criterion] for verdict in verdicts]
    lower, higher = sum(change < 0 for change in changes), sum(change > 0 for change in changes)
    told: Interval = wilson(lower, len(changes))
    return {
        "n": len(changes),
        "lower": lower,
        "same": len(changes) - lower - higher,
        "higher": higher,
        "told": [round(value, 4) for value in told],
        "mean_change": round(sum(changes) / len(changes), 4),
    }


def sample_agreement(samples: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float | None]:
    """By criterion, the agreement of a judge with itself: `samples` are the judgements of each instruction."""
    return {
        name: krippendorff_alpha(([sample[name]["score"] for sample in one] for one in samples), "interval")
        for name in CRITERIA
    }

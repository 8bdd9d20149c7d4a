"""The length of rejected over chosen answers: measured, and balanced so that it says nothing about which is better."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Any

from pydantic import Field

from mediflow.curate import Dropped
from medsmith.config import Block
from medsmith.records import Instruction


class Balance(Block):
    """How far the two sides may differ, in one pair and on the whole."""

    answers: bool = Field(
        True,
        description="each short answer of a task is rejected as often as it is chosen, within one: right answers of "
        "other rows are swapped in, pairs too many dropped",
    )
    max_ratio: float = Field(4.0, gt=1, description="pairs with one answer so many times longer are dropped")
    tolerance: float = Field(
        0.02,
        ge=0,
        description="how far the mean log ratio may lie from 0 afterwards, and as a share of all pairs, how many more "
        "may be longer than shorter",
    )
    max_dropped: float = Field(
        0.25,
        ge=0,
        le=1,
        description="the largest share of pairs that balancing lengths may drop; there it stops short",
    )


def log_ratio(pair: Instruction) -> float:
    """log(characters of the rejected answer / characters of the chosen one)."""
    return math.log(len(pair.rejected_output) / len(pair.output))


def balance_lengths(
    pairs: Sequence[Instruction], settings: Balance, even: Set[str] = frozenset()
) -> tuple[list[Instruction], list[Dropped]]:
    """Drop extremes, then as many of the side that has too many or weighs too much until both are even.

    Even means: rejected answers are longer about as often as shorter, and the mean log ratio is near 0. Pairs in
    `even` (by id), whose answers are balanced one by one, stay. Order is kept. Both may stay off where evening would
    cost more than `max_dropped`.
    """
    ratios = {number: log_ratio(pair) for number, pair in enumerate(pairs) if pair.id not in even}
    limit = math.log(settings.max_ratio)
    reasons = {number: "length_extreme" for number, ratio in ratios.items() if abs(ratio) > limit}
    left = {number: ratio for number, ratio in ratios.items() if number not in reasons}
    for number in _to_even(left, settings, [pair.id for pair in pairs]):
        reasons[number] = "length_balance"
    kept = [pair for number, pair in enumerate(pairs) if number not in reasons]
    dropped = [
        Dropped(pairs[number], reason, f"rejected/chosen {math.exp(ratios[number]):.3f}")
        for number, reason in sorted(reasons.items())
    ]
    return kept, dropped


def _to_even(ratios: Mapping[int, float], settings: Balance, ids: Sequence[str]) -> list[int]:
    """The pairs to drop: first of the side with more pairs, then one of each side at a time."""
    longer = sorted((n for n in ratios if ratios[n] > 0), key=lambda n: (abs(ratios[n]), ids[n]))
    shorter = sorted((n for n in ratios if ratios[n] < 0), key=lambda n: (abs(ratios[n]), ids[n]))
    total = math.fsum(ratios.values())
    budget = int(settings.max_dropped * len(ratios))
    gone: list[int] = []

    def drop(side: list[int], place: int) -> None:
        nonlocal total
        number = side.pop(place)
        gone.append(number)
        total -= ratios[number]

    while len(gone) < budget:
        count = len(ratios) - len(gone)
        more = longer if len(longer) > len(shorter) else shorter
        if abs(len(longer) - len(shorter)) > max(1.0, settings.tolerance * count):
            # Its farthest where the mean leans its way, else its nearest: the mean is to gain by it.
            drop(more, -1 if (total > 0) == (more is longer) else 0)
            continue
        if abs(total) <= settings.tolerance * count or len(gone) + 2 > budget:
            break
        heavy, light = (longer, shorter) if total > 0 else (shorter, longer)
        # The most uneven pair that does not tip the balance over, with the most even one of the other side.
        least = abs(ratios[light[0]]) if light else 0.0
        place = bisect_right(heavy, abs(total) + least + 1e-9, key=lambda n: abs(ratios[n])) - 1
        if place < 0 or abs(ratios[heavy[place]]) <= least:
            break
        drop(heavy, place)
        if light:
            drop(light, 0)
    return gone


def summarise_lengths(pairs: Sequence[Instruction]) -> dict[str, Any]:
    """Pairs, mean log ratio, geometric mean, and how many are longer and shorter, of all and by error type."""
    by_type: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        by_type[pair.error_type].append(log_ratio(pair))
    every = [ratio for ratios in by_type.values() for ratio in ratios]
    return {**_summary(every), "by_error_type": {name: _summary(by_type[name]) for name in sorted(by_type)}}


def _summary(ratios: Sequence[float]) -> dict[str, Any]:
    # fsum: the same figures whatever the order of the pairs.
    mean = math.fsum(ratios) / len(ratios) if ratios else 0.0
    sides = {"longer": sum(ratio > 0 for ratio in ratios), "shorter": sum(ratio < 0 for ratio in ratios)}
    return {"pairs": len(ratios), "mean_log": round(mean, 6), "geometric_mean": round(math.exp(mean), 6), **sides}

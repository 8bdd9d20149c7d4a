"""The length of rejected over chosen answers: measured, and balanced so that it says nothing about which is better."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from mediflow.curate import Dropped
from medsmith.config import Block
from medsmith.records import Instruction


class Balance(Block):
    """How far lengths may differ, in one pair and on the whole."""

    max_ratio: float = Field(4.0, gt=1, description="pairs with one answer so many times longer are dropped")
    tolerance: float = Field(0.02, ge=0, description="how far the mean log ratio may lie from 0 afterwards")
    max_dropped: float = Field(
        0.25,
        ge=0,
        le=1,
        description="the largest share of pairs that balancing may drop; there it stops short",
    )


def log_ratio(pair: Instruction) -> float:
    """log(characters of the rejected answer / characters of the chosen one)."""
    return math.log(len(pair.rejected_output) / len(pair.output))


def balance_lengths(pairs: Sequence[Instruction], settings: Balance) -> tuple[list[Instruction], list[Dropped]]:
    """Drop extremes, then pairs of the heavier side, the most uneven first, until the mean log ratio is near 0.

    Order is kept. The mean may stay off where that would cost more than `max_dropped`.
    """
    ratios = [log_ratio(pair) for pair in pairs]
    limit = math.log(settings.max_ratio)
    reasons = {number: "length_extreme" for number, ratio in enumerate(ratios) if abs(ratio) > limit}
    left = [number for number in range(len(pairs)) if number not in reasons]
    total = sum(ratios[number] for number in left)
    heavier = 1.0 if total > 0 else -1.0
    uneven = sorted(
        (number for number in left if ratios[number] * heavier > 0), key=lambda n: (-abs(ratios[n]), pairs[n].id)
    )
    count = len(left)
    budget = int(settings.max_dropped * len(left))
    for number in uneven[:budget]:
        if abs(total) <= settings.tolerance * count or total * heavier <= 0:
            break
        # A drop that would tip the balance over is passed by for a smaller one.
        if abs(ratios[number]) > abs(total) + 1e-9:
            continue
        reasons[number] = "length_balance"
        total -= ratios[number]
        count -= 1
    kept = [pair for number, pair in enumerate(pairs) if number not in reasons]
    dropped = [
        Dropped(pairs[number], reason, f"rejected/chosen {math.exp(ratios[number]):.3f}")
        for number, reason in sorted(reasons.items())
    ]
    return kept, dropped


def summarise_lengths(pairs: Sequence[Instruction]) -> dict[str, Any]:
    """Pairs, mean log ratio and geometric mean, of all and by error type."""
    by_type: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        by_type[pair.error_type].append(log_ratio(pair))
    every = [ratio for ratios in by_type.values() for ratio in ratios]
    return {**_summary(every), "by_error_type": {name: _summary(by_type[name]) for name in sorted(by_type)}}


def _summary(ratios: Sequence[float]) -> dict[str, Any]:
    # fsum: the same figures whatever the order of the pairs.
    mean = math.fsum(ratios) / len(ratios) if ratios else 0.0
    return {"pairs": len(ratios), "mean_log": round(mean, 6), "geometric_mean": round(math.exp(mean), 6)}

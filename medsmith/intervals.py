"""A share with its interval: for counts of things that are right or wrong."""

from __future__ import annotations

import math
from typing import NamedTuple

from medsmith.errors import UserError

Z = 1.959963984540054  # the normal's 97.5 % point


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """`61.3 % (54.0 to 68.1)`."""
        return f"{self.value:.1%} ({100 * self.low:.1f} to {100 * self.high:.1f})".replace("%", " %")


def wilson(successes: float, n: int) -> Interval:
    """A share and its Wilson interval: for right-or-wrong items that are independent."""
    if n < 1 or not 0 <= successes <= n:
        raise UserError(f"no share of {successes} in {n} items; there must be items, and no more successes than items")
    share = successes / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))

"""A share with its interval: for counts of things that are right or wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def paired_change(
    before: Sequence[float],
    after: Sequence[float],
    groups: Sequence[str],
    seed: int = 0,
    resamples: int = 4000,
    sizes: Sequence[float] | None = None,
) -> Interval:
    """The change of a mean over the same items, with the percentiles of a bootstrap over whole groups.

    With `sizes` each value is a sum over so many (tokens of a document), and the mean is over all of them.
    """
    import numpy as np

    if not len(before) == len(after) == len(groups) > 0:
        raise UserError(f"{len(before)} values before, {len(after)} after, {len(groups)} groups; there must be as many")
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    changes = np.bincount(index, np.asarray(after, dtype=float) - np.asarray(before, dtype=float), len(names))
    counts = np.bincount(index, None if sizes is None else np.asarray(sizes, dtype=float), len(names))
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(names), size=len(names)) for _ in range(resamples))
    low, high = np.percentile([changes[drawn].sum() / counts[drawn].sum() for drawn in draws], (2.5, 97.5))
    return Interval(float(changes.sum() / counts.sum()), float(low), float(high))

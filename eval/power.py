"""Which difference between two models an evaluation can find, said before it is made, from numbers of items alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from medsmith.errors import UserError

POWER = 0.8
TURNING = 0.3
"""The share of items on which two models differ, where nothing better is known; 0.05 of two that are nearly alike."""


def detectable(groups: Sequence[int], turning: float = TURNING, power: float = POWER) -> float:
    """The smallest true difference of the average over benchmarks that a paired test at 5 % finds with this power.

    `groups` are independent items (documents, patients) by benchmark; of one benchmark it is that benchmark's. A right
    or wrong item that turns with the chance `turning` has a difference of at most sqrt(turning) as its deviation; a
    graded one less, so for graded scores this is on the safe side.
    """
    if not groups or min(groups) < 1:
        raise UserError("no items, so nothing is detectable; give at least one item of every benchmark")
    spread = math.sqrt(sum(turning / n for n in groups)) / len(groups)
    normal = NormalDist()
    return spread * (normal.inv_cdf(0.975) + normal.inv_cdf(power))

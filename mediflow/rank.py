"""An order of rows such that every beginning of it is spread over the strata, the best of each first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence


def order_by_quality(qualities: Sequence[float | None], ids: Sequence[str]) -> list[int]:
    """Numbers of the rows, best first; a row that nobody judged comes last, and the id (a hash) breaks ties."""
    return sorted(range(len(ids)), key=lambda number: (-(qualities[number] or 0.0), ids[number]))


def order_stratified(qualities: Sequence[float | None], ids: Sequence[str], strata: Sequence[Hashable]) -> list[int]:
    """Numbers of the rows in an order whose first K hold each stratum in proportion, its best rows first.

    A larger K only adds rows. With one stratum this is the order by quality.
    """
    sizes = Counter(strata)
    seen: dict[Hashable, int] = defaultdict(int)
    places = []
    for number in order_by_quality(qualities, ids):
        stratum = strata[number]
        places.append(((seen[stratum] + 0.5) / sizes[stratum], -(qualities[number] or 0.0), ids[number], number))
        seen[stratum] += 1
    return [place[-1] for place in sorted(places)]

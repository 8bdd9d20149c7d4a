"""An order of rows such that every beginning of it is spread over the strata, the best of each first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.int64]


def order_by_quality(qualities: Sequence[float | None] | NDArray[np.float64], ids: Sequence[str] | Any) -> Order:
    """Numbers of the rows, best first; a row that nobody judged comes last, and the id (a hash) breaks ties."""
    import polars

    frame = polars.DataFrame({"quality": np.nan_to_num(np.array(qualities, dtype=np.float64)), "id": ids})
    order: Order = (
        frame.with_row_index()
        .sort("quality", "id", descending=[True, False], maintain_order=True)["index"]
        .to_numpy()
        .astype(np.int64)
    )
    return order


def order_stratified(
    qualities: Sequence[float | None] | NDArray[np.float64], ids: Sequence[str] | Any, strata: Sequence[Any] | Any
) -> Order:
    """Numbers of the rows in an order whose first K hold each stratum in proportion, its best rows first.

    A larger K only adds rows. With one stratum this is the order by quality. `strata` is one hashable value or one
    integer a row.
    """
    by_quality = order_by_quality(qualities, ids)
    if not len(by_quality):
        return by_quality
    numbers = strata if isinstance(strata, np.ndarray) else _numbered(strata)
    own = numbers[by_quality]
    grouped = np.argsort(own, kind="stable")
    sizes = np.bincount(own)
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    seen = np.empty(len(own), dtype=np.int64)
    seen[grouped] = np.arange(len(own)) - firsts[own[grouped]]
    # The order by quality is what equal places keep.
    return by_quality[np.argsort((seen + 0.5) / sizes[own], kind="stable")]


def _numbered(strata: Sequence[Any]) -> Order:
    known: dict[Any, int] = {}
    return np.array([known.setdefault(stratum, len(known)) for stratum in strata], dtype=np.int64)

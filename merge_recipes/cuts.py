"""What the sparse methods leave of an expert's change: the magnitudes that are kept, or what DARE draws."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np

from merge_recipes.inputs import Cut, Inputs, Memo, Ordered
from merge_recipes.layout import ALL, BINS
from merge_recipes.native import loops
from merge_recipes.numbers import Numbers

KEEP, CUT, DRAW, DROP = 0, 1, 2, 3
"""The modes of a cut; see kernels.sparse."""


def draw_key(seed: int, model: str, tensor: str) -> int:
    """The key of DARE's draws: of seed, model and tensor alone, so that neither order nor threads change a mask."""
    digest = hashlib.sha256(f"{seed}\n{model}\n{tensor}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def ranks_of(method: str, size: int, density: float, gamma: float | None) -> tuple[int, int] | None:
    """The ranks, by rising magnitude, that stay: from the first up to, not with, the second. None: all.

    As mergekit counts them: the magnitude methods keep at least one element of a positive density; BreadCrumbs cuts
    off the largest `gamma` first, less where the density would not be reached.
    """
    if density >= 1:
        return None
    kept = int(density * size)
    if gamma is None:
        if density <= 0:
            return (0, 0)
        return (size - max(1, kept), size)
    bottom = max(0, size - kept - int(gamma * size))
    return (bottom, bottom + kept)


def _find_cut(inputs: Inputs, expert: int, method: str, density: float, gamma: float | None) -> Cut:
    """The cut that leaves just the wanted ranks; from the memo where it was looked for before."""
    ranks = ranks_of(method, inputs.size, density, gamma)
    if ranks is None or ranks == (0, inputs.size):
        return (KEEP, 0, 0, 0, 0)
    if ranks[0] >= ranks[1]:
        return (DROP, 0, 0, 0, 0)
    if inputs.memos is None:
        return _place_cut(inputs, expert, ranks, _count_ranks(inputs, expert, ranks))
    memo = inputs.memos.setdefault(inputs.names[expert], Memo())
    if memo.sizes is None:
        sizes = np.empty(inputs.size, np.uint32)
        inputs.note(expert, loops().magnitudes(*inputs.source(expert), sizes))
        memo.sizes = Ordered.of(sizes)
    if (density, gamma) not in memo.cuts:
        memo.cuts[density, gamma] = _place_cut(inputs, expert, ranks, memo.sizes.at)
    return memo.cuts[density, gamma]


Rank = Callable[[int], tuple[int, int, int]]
"""A rank's magnitude; see Ordered.at."""


def _count_ranks(inputs: Inputs, expert: int, ranks: tuple[int, int]) -> Rank:
    """The magnitudes of the ranks next to the wanted ones, by counting: in two passes, with nothing sorted or kept."""
    wanted = [rank for rank in (ranks[0] - 1, ranks[1]) if 0 <= rank < inputs.size]
    counts = np.zeros(BINS + 1, np.int64)
    inputs.note(expert, loops().histogram(*inputs.source(expert), counts))
    zeros, upto = int(counts[BINS]), np.cumsum(counts[:BINS])
    bins = {rank: int(np.searchsorted(upto, rank, side="right")) for rank in wanted if rank >= zeros}
    fine = np.zeros((2, 65536), np.int64)
    if bins:
        loops().refine(*inputs.source(expert), min(bins.values()), max(bins.values()), fine[0], fine[1])

    def at(rank: int) -> tuple[int, int, int]:
        if rank < zeros:
            return 0, 0, zeros
        number = bins[rank]
        before = int(upto[number - 1]) if number else 0
        inside = fine[0 if number == min(bins.values()) else 1]
        running = before + np.cumsum(inside)
        lower = int(np.searchsorted(running, rank, side="right"))
        return (number << 16) | lower, int(running[lower]) - int(inside[lower]), int(inside[lower])

    return at


def _place_cut(inputs: Inputs, expert: int, ranks: tuple[int, int], at: Rank) -> Cut:
    """The cut between the wanted ranks and their neighbours: of equal magnitudes the first in the tensor are kept."""
    first, last = ranks
    low, low_place, high, high_place = 0, inputs.size, ALL, 0

    def place(magnitude: int, equal: int, kept: int) -> int:
        # Of changes of zero it is all one which are kept.
        return (
            inputs.size if kept == equal or magnitude == 0 else loops().locate(*inputs.source(expert), magnitude, kept)
        )

    if first > 0:
        low, smaller, equal = at(first - 1)
        low_place = place(low, equal, min(smaller + equal, last) - first)
    if last < inputs.size:
        high, smaller, equal = at(last)
        same = first > 0 and high == low
        high_place = low_place if same else place(high, equal, last - max(smaller, first))
    return (CUT, low, low_place, high, high_place)


def rescaling(inputs: Inputs, expert: int, cut: Cut, key: int) -> float:
    """What brings the sum of magnitudes back to what it was before the cut (mergekit's l1 rescaling)."""
    if cut[0] == KEEP:
        return 1.0
    sums = np.zeros(3)
    inputs.note(expert, loops().norms(*inputs.source(expert), np.array(cut, np.int64), key, sums))
    return 1.0 if sums[0] < 1e-7 or sums[1] < 1e-7 else float(sums[0] / sums[1])


def find_cuts(method: str, numbers: Numbers, inputs: Inputs) -> tuple[list[Cut], list[int]]:
    """What is left of each expert's change before signs are elected, and the keys of its draws."""
    cuts, keys = [], []
    for expert, name in enumerate(inputs.names):
        own = numbers.own[name]
        density = float(own.get("density", 1.0))
        key = draw_key(inputs.seed, name, inputs.base.name) if method.startswith("dare") else 0
        if method == "task_arithmetic":
            cut: Cut = (KEEP, 0, 0, 0, 0)
        elif method.startswith("dare"):
            # 32 bits are drawn; kept is what is not above the last number of the share.
            last = min(2**32 - 1, math.ceil(density * 2**32) - 1)
            cut = (KEEP, 0, 0, 0, 0) if density >= 1 else (DROP, 0, 0, 0, 0) if last < 0 else (DRAW, last, 0, 0, 0)
        else:
            gamma = float(own["gamma"]) if method.startswith("breadcrumbs") else None
            cut = _find_cut(inputs, expert, method, density, gamma)
        cuts.append(cut)
        keys.append(key)
    return cuts, keys

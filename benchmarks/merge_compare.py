"""How far two merges of the same models lie apart, read as memory maps, a stretch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.merge_models import CHUNK, to_float32
from merge_recipes.arithmetic import ranks_of
from merge_recipes.numbers import layer_of, numbers_for
from merge_recipes.recipe import names_of
from merge_recipes.weights import Tensor, Weights

CUT_BY_MAGNITUDE = ("ties", "breadcrumbs", "breadcrumbs_ties")


@dataclass
class Gap:
    """What differs between two merges in bfloat16."""

    entries: int = 0
    largest: float = 0.0
    """The largest absolute difference."""
    roundings_there: float = 0.0
    """The same in steps of bfloat16 at that number (the larger of the two)."""
    most_roundings: float = 0.0
    """The most such steps anywhere: near zero, where numbers cancel, steps are tiny and can be many."""
    differ: int = 0
    far: int = 0
    """Entries that differ by more than one step."""
    not_at_a_cut: int | None = None
    """Of these, the ones where no expert's change is of the very magnitude at which its changes were cut off. There
    any of the equal ones may stay, and two right merges differ. None: not looked at."""


@dataclass
class Kept:
    """What a merge that drops by chance did to the base."""

    alone: int = 0
    """Entries that exactly one expert had changed; of them, how many are not the base's any more: the keep rate."""
    alone_kept: int = 0
    entries: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def rate(self) -> float:
        """The share of the changes of one expert alone that the merge took over."""
        return self.alone_kept / self.alone if self.alone else float("nan")

    @property
    def mean(self) -> float:
        """Of the merged change."""
        return self.total / self.entries

    @property
    def deviation(self) -> float:
        """Of the merged change."""
        return float(np.sqrt(self.squares / self.entries - self.mean**2))


def compare(first: Path, second: Path, recipe: Mapping[str, Any], folders: Mapping[str, Path], cuts: bool) -> Gap:
    """The gap between two merges by `recipe`; with `cuts`, whether it is explained by equal magnitudes at a cut."""
    one, other = Weights(first), Weights(second)
    assert one.shapes == other.shapes, f"{first} and {second} hold other tensors"
    parents = {name: Weights(folders[name]) for name in names_of(recipe)}
    layers = 1 + max((layer_of(name) or 0 for name in one), default=0)
    cuts = cuts and recipe["merge_method"] in CUT_BY_MAGNITUDE
    gap = Gap(not_at_a_cut=0 if cuts else None)
    for name in one:
        far = _compare_tensor(one[name], other[name], gap)
        if cuts and len(far):
            gap.not_at_a_cut = (gap.not_at_a_cut or 0) + _not_at_a_cut(recipe, parents, name, layers, far)
    return gap


def look_at_drops(merged: Path, recipe: Mapping[str, Any], folders: Mapping[str, Path]) -> Kept:
    """Keep rate and moments of a DARE merge, from its output alone."""
    names = names_of(recipe)
    weights = {name: Weights(folders[name]) for name in names}
    base, found = weights[recipe["base_model"]], Weights(merged)
    kept = Kept()
    for name in found:
        for part in _stretches(found[name].data.size):
            origin, after = base[name].data[part], found[name].data[part]
            changed = sum(
                (weights[expert][name].data[part] != origin).astype(np.uint8)
                for expert in names
                if expert != recipe["base_model"]
            )
            alone = changed == 1
            kept.alone += int(np.count_nonzero(alone))
            kept.alone_kept += int(np.count_nonzero(alone & (after != origin)))
            change = to_float32(after).astype(np.float64) - to_float32(origin)
            kept.entries += change.size
            kept.total += float(change.sum())
            kept.squares += float(change @ change)
    return kept


def steps_of(size: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The distance of neighbouring numbers of bfloat16 at these magnitudes (float64)."""
    exponent = np.floor(np.log2(np.maximum(size, 2.0**-126)))
    return np.asarray(np.exp2(exponent - 7))


def _compare_tensor(one: Tensor, other: Tensor, gap: Gap) -> np.ndarray[Any, Any]:
    """Add a tensor to the gap; return the places that are more than one step apart."""
    assert one.dtype == other.dtype == "BF16", f"{one.name} is {one.dtype} and {other.dtype}"
    far: list[np.ndarray[Any, Any]] = []
    for part in _stretches(one.data.size):
        places = np.flatnonzero(one.data[part] != other.data[part])
        left = to_float32(one.data[part][places]).astype(np.float64)
        right = to_float32(other.data[part][places]).astype(np.float64)
        size = np.abs(left - right)
        steps = size / steps_of(np.maximum(np.abs(left), np.abs(right)))
        gap.differ += int(np.count_nonzero(size))  # 0 and -0 are other bits and the same number
        if not places.size:
            continue
        top = int(size.argmax())
        if size[top] > gap.largest:
            gap.largest, gap.roundings_there = float(size[top]), float(steps[top])
        gap.most_roundings = max(gap.most_roundings, float(steps.max()))
        far.append(part.start + places[steps > 1])
    gap.entries += one.data.size
    found = np.concatenate(far) if far else np.empty(0, np.intp)
    gap.far += found.size
    return found


def _not_at_a_cut(
    recipe: Mapping[str, Any], parents: Mapping[str, Weights], name: str, layers: int, far: np.ndarray[Any, Any]
) -> int:
    """How many of the places `far` of a tensor hold no change that is just as large as one at the edge of a cut."""
    method = recipe["merge_method"]
    numbers = numbers_for(recipe, name, layer_of(name), layers)
    base = parents[recipe["base_model"]][name].float32()
    explained = np.zeros(far.size, bool)
    for expert in names_of(recipe):
        if expert == recipe["base_model"]:
            continue
        own = numbers.own[expert]
        gamma = float(own["gamma"]) if method.startswith("breadcrumbs") else None
        ranks = ranks_of(method, base.size, float(own["density"]), gamma)
        if ranks is None:
            continue
        size = np.abs(parents[expert][name].float32() - base)
        here = size[far]
        # Of each cut, the last that goes and the first that stays, or the other way round.
        edges = [(rank - 1, rank) for rank in ranks if 0 < rank < size.size]
        if not edges:
            continue
        size.partition(sorted({rank for edge in edges for rank in edge}))
        for below, above in edges:
            if size[below] == size[above]:
                explained |= here == size[above]
    return int(np.count_nonzero(~explained))


def _stretches(size: int) -> Iterator[slice]:
    return (slice(start, min(size, start + CHUNK)) for start in range(0, size, CHUNK))

"""How far two merges of the same models lie apart, read as memory maps, a stretch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.merge_models import CHUNK, to_float32
from merge_recipes.cuts import ranks_of
from merge_recipes.numbers import layer_of, numbers_for
from merge_recipes.recipe import names_of
from merge_recipes.weights import Tensor, Weights

Array = np.ndarray[Any, Any]

CUT_BY_MAGNITUDE = ("ties", "breadcrumbs", "breadcrumbs_ties")
WEIGHS_BY_NORMS = ("nuslerp", "model_stock", "multislerp")
ELECTS_SIGNS = ("ties", "breadcrumbs_ties")
CLOSE = 2.0**-20
"""Beside the numbers that were added: what float32 may be off by after some additions, in whatever order."""

UNSEEN = 1e-4
"""By what share weights that come from norms in float32 may differ where too few places tell by how much they do."""


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
    unexplained: int | None = None
    """Of these, the ones where two right merges in float32 would not differ. They may at four kinds of places: where an
    expert's change is as large as the one at which its changes are cut off, so that any of the equal ones may stay;
    where opposite changes weigh the same, so that rounding elects the sign; where the base and the changes cancel, so
    that the step of bfloat16 is smaller than the rounding of float32; and where it comes from the tensor's weights, see
    `factor`. None: not looked at."""
    factor: float = 0.0
    """Of the methods that weigh changes by their norms: by what share the two merges weigh an expert's change of a
    tensor differently, at most. A norm that is summed in float32 is off by more, the larger the tensor."""


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


def compare(first: Path, second: Path, recipe: Mapping[str, Any], folders: Mapping[str, Path], explain: bool) -> Gap:
    """The gap between two merges by `recipe`; `explain`: both were computed in float32, see Gap.unexplained."""
    one, other = Weights(first), Weights(second)
    assert one.shapes == other.shapes, f"{first} and {second} hold other tensors"
    parents = {name: Weights(folders[name]) for name in names_of(recipe)}
    layers = 1 + max((layer_of(name) or 0 for name in one), default=0)
    gap = Gap(unexplained=0 if explain else None)
    for name in one:
        places, sizes = _compare_tensor(one[name], other[name], gap)
        if explain and len(places):
            if recipe["merge_method"] in WEIGHS_BY_NORMS:
                factor, reach = _factor(recipe, parents, one[name], other[name], places)
                gap.factor = max(gap.factor, factor)
                sizes = np.maximum(0, sizes - reach)
            found = _unexplained(recipe, parents, name, layers, places, sizes)
            gap.unexplained = (gap.unexplained or 0) + found
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


def steps_of(size: Array) -> Array:
    """The distance of neighbouring numbers of bfloat16 at these magnitudes (float64)."""
    exponent = np.floor(np.log2(np.maximum(size, 2.0**-126)))
    return np.asarray(np.exp2(exponent - 7))


def _compare_tensor(one: Tensor, other: Tensor, gap: Gap) -> tuple[Array, Array]:
    """Add a tensor to the gap; return the places that are more than one step apart, and how far."""
    assert one.dtype == other.dtype == "BF16", f"{one.name} is {one.dtype} and {other.dtype}"
    places, sizes = [np.empty(0, np.intp)], [np.empty(0)]
    for part in _stretches(one.data.size):
        unlike = np.flatnonzero(one.data[part] != other.data[part])
        left, right = (to_float32(tensor.data[part][unlike]).astype(np.float64) for tensor in (one, other))
        size = np.abs(left - right)
        steps = size / steps_of(np.maximum(np.abs(left), np.abs(right)))
        gap.differ += int(np.count_nonzero(size))  # 0 and -0 are other bits and the same number
        if not unlike.size:
            continue
        top = int(size.argmax())
        if size[top] > gap.largest:
            gap.largest, gap.roundings_there = float(size[top]), float(steps[top])
        gap.most_roundings = max(gap.most_roundings, float(steps.max()))
        places.append(part.start + unlike[steps > 1])
        sizes.append(size[steps > 1])
    gap.entries += one.data.size
    found = np.concatenate(places)
    gap.far += found.size
    return found, np.concatenate(sizes)


def _factor(
    recipe: Mapping[str, Any], parents: Mapping[str, Weights], one: Tensor, other: Tensor, places: Array
) -> tuple[float, Array]:
    """How differently two merges weigh the experts' changes of a tensor, as a share; what that moves at each place.

    Both are found by least squares over the places, where steps are small beside the changes. Few places cannot tell.
    """
    base_name = recipe["base_model"]
    base, left, right = (
        tensor.float32()[places].astype(np.float64) for tensor in (parents[base_name][one.name], one, other)
    )
    experts = [name for name in names_of(recipe) if name != base_name]
    changes = np.stack([parents[name][one.name].float32()[places] - base for name in experts], axis=1)
    if len(places) < 10 * len(experts):
        return 0.0, UNSEEN * np.abs(changes).sum(axis=1)
    weights = np.linalg.lstsq(changes, right - base)[0]
    gaps = np.abs(np.linalg.lstsq(changes, left - right)[0])
    # One step more: both results are rounded.
    reach = np.abs(changes) @ gaps + steps_of(np.maximum(np.abs(left), np.abs(right)))
    return float(np.max(gaps / np.abs(weights))), reach


def _unexplained(
    recipe: Mapping[str, Any], parents: Mapping[str, Weights], name: str, layers: int, places: Array, sizes: Array
) -> int:
    """How many of these places of a tensor have no right to differ so much; see Gap.unexplained."""
    method, base_name = recipe["merge_method"], recipe["base_model"]
    base = parents[base_name][name].float32()
    explained = sizes <= CLOSE * np.abs(base[places].astype(np.float64))
    if method not in CUT_BY_MAGNITUDE:
        return int(np.count_nonzero(~explained))
    numbers = numbers_for(recipe, name, layer_of(name), layers)
    vote, weight = np.zeros(len(places)), np.zeros(len(places))
    for expert in names_of(recipe):
        if expert == base_name:
            continue
        own, change = numbers.own[expert], parents[expert][name].float32() - base
        kept, tied = _kept(method, own, change, places)
        explained |= tied
        here = change[places].astype(np.float64) * kept * float(own["weight"])
        vote += here
        weight += np.abs(here)
    if method in ELECTS_SIGNS:
        explained |= (weight > 0) & (np.abs(vote) <= CLOSE * weight)
    return int(np.count_nonzero(~explained))


def _kept(method: str, own: Mapping[str, Any], change: Array, places: Array) -> tuple[Array, Array]:
    """Of an expert's changes at these places, which stay, and for which that is open: as large as one that goes."""
    gamma = float(own["gamma"]) if method.startswith("breadcrumbs") else None
    first, last = ranks_of(method, change.size, float(own["density"]), gamma) or (0, change.size)
    if first >= last:
        return np.zeros(len(places), bool), np.zeros(len(places), bool)
    size = np.abs(change)
    here = size[places]
    size.partition(sorted({max(0, first - 1), first, last - 1, min(last, size.size - 1)}))
    kept = (here >= size[first]) & (here <= size[last - 1])
    tied = np.zeros(len(places), bool)
    for below, above in ((first - 1, first), (last - 1, last)):
        if below >= 0 and above < size.size and size[below] == size[above]:
            tied |= here == size[above]
    return kept, tied


def _stretches(size: int) -> Iterator[slice]:
    return (slice(start, min(size, start + CHUNK)) for start in range(0, size, CHUNK))

"""Numbers of experts' changes that add up: tensor by tensor, then over layers, module kinds and the whole model.

A *change* (task vector) is expert - base. Changes are computed in float32 and summed in float64, a stretch of a tensor
at a time; only the search for the largest magnitudes of a tensor holds one array of the tensor's length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from merge_recipes.numbers import layer_of
from merge_recipes.weights import Tensor

FLOATS = {"BF16": 8, "F16": 11, "F32": 24, "F64": 53}
"""Stored types that hold weights, with their binary digits; buffers of whole numbers are not looked at."""

STRETCH = 65_536
"""Elements at a time: the changes of five experts stay in the cache."""

Array = np.ndarray[Any, Any]

NORMS, EMBEDDINGS, HEAD = "norms", "embeddings", "head"
MODULES = ("q", "k", "v", "o", "gate", "up", "down")
"""How the modules of a layer begin, in the order in which a forward pass meets them."""


class Place(NamedTuple):
    """Where a tensor stands: its layer, or None outside of layers, and the kind of its module."""

    layer: int | None
    kind: str


def place_of(tensor_name: str) -> Place:
    """The place of a tensor, by its name alone: Llama, Qwen, Phi and what is named like them.

    Weight and bias of a module are one kind, all norms are one, and so are the experts of a mixture in one layer.
    """
    layer = layer_of(tensor_name)
    parts = tensor_name.split(".")
    module = [part for part in parts[:-1] or parts if not part.isdigit()]
    last = module[-1]
    if "norm" in last or last.startswith("ln_"):
        return Place(layer, NORMS)
    if layer is not None:
        inside = parts.index(str(layer)) + 1
        return Place(layer, ".".join(part for part in parts[inside:-1] if not part.isdigit()) or last)
    if last in ("lm_head", "embed_out", "output"):
        return Place(None, HEAD)
    return Place(None, EMBEDDINGS if "embed" in last or last in ("wte", "wpe") else last)


def kind_order(kind: str) -> tuple[Any, ...]:
    """The key that sorts kinds as a forward pass meets them: attention, feed-forward; then norms, then the rest."""
    outside = (NORMS, EMBEDDINGS, HEAD)
    if kind in outside:
        return (2, outside.index(kind), kind)
    last = kind.rpartition(".")[2]
    known = (number for number, beginning in enumerate(MODULES) if last.startswith(beginning))
    return ("mlp" in kind, next(known, len(MODULES)), kind)


@dataclass(frozen=True)
class Tally:
    """Sums over the elements of some tensors; those of tensors that share no element add up.

    Vectors have a place for each expert, matrices for each pair. What needs a recipe is zero without one.
    """

    size: int
    base: float
    """Of the base's squares."""
    products: Array
    """Of the products of two experts' changes; the diagonal: squared norms."""
    magnitude: Array
    """Of the absolute changes."""
    outvoted: Array
    """Of the absolute changes whose sign is not that of the sum of all experts' changes (where that is 0: of half)."""
    largest: Array
    """The largest absolute change."""
    changed: Array
    """How many elements both changed."""
    conflicts: Array
    """How many both changed in opposite directions."""
    top: Array
    """How many are among the largest changes of both."""
    top_smaller: Array
    """The smaller of the two experts' numbers of largest changes, tensor by tensor."""
    top_chance: Array
    """How many would be shared if each expert's largest changes lay anywhere in their tensor."""
    kept: Array
    """How many changed elements a recipe keeps, before any vote; NaN where it knows no such thing."""
    onto: Array
    """Of the products of the merge's change and each expert's."""
    merged: float
    """Of the merge's squared change."""

    def __add__(self, other: Tally) -> Tally:
        """The numbers of both."""
        added = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        return Tally(**added | {"largest": np.maximum(self.largest, other.largest)})


def tally_tensor(
    base: Tensor, experts: Sequence[Tensor], top: float, merged: Array | None = None, kept: Array | None = None
) -> Tally:
    """Measure the tensors of one name. `merged`: the merge's values, flat; `kept`: see Tally."""
    size, count = base.data.size, len(experts)
    cuts = np.array([_cut(base, expert, top) for expert in experts], np.float32)[:, None]
    squares, merged_squares = 0.0, 0.0
    products, shared = np.zeros((count, count)), np.zeros((3, count, count), np.int64)
    magnitude, agreement, onto, largest = np.zeros((4, count))
    for part in _stretches(size):
        origin = _values(base, part)
        changes = np.stack([_values(expert, part) for expert in experts]) - origin
        sizes, exact = np.abs(changes), changes.astype(np.float64)
        products += exact @ exact.T
        magnitude += sizes.sum(axis=1, dtype=np.float64)
        agreement += exact @ np.sign(exact.sum(axis=0))
        np.maximum(largest, sizes.max(axis=1), out=largest)
        rising, falling = _packed(changes > 0), _packed(changes < 0)
        chosen = _packed((sizes >= cuts) & (sizes > 0))
        opposite = _shared(rising, falling)
        shared += _shared(rising | falling), opposite + opposite.T, _shared(chosen)
        squares += float(np.square(origin, dtype=np.float64).sum())
        if merged is not None:
            change = (merged[part] - origin).astype(np.float64)
            onto += exact @ change
            merged_squares += float(change @ change)
    changed, conflicts, both_top = shared
    tops = np.diag(both_top)
    return Tally(
        size=size, base=squares, products=products, magnitude=magnitude, outvoted=(magnitude - agreement) / 2,
        largest=largest, changed=changed, conflicts=conflicts, top=both_top, top_smaller=np.minimum.outer(tops, tops),
        top_chance=np.outer(tops, tops) / size, kept=np.zeros(count) if kept is None else kept,
        onto=onto, merged=merged_squares,
    )  # fmt: skip


def count_changes(base: Tensor, values: Array) -> int:
    """How many of the flat values are not the base's."""
    return sum(int(np.count_nonzero(values[part] != _values(base, part))) for part in _stretches(len(values)))


def summarise(tally: Tally, names: Sequence[str], predicted: bool) -> dict[str, Any]:
    """What a tally says, in plain values: norms to six digits, shares and cosines to six decimals.

    None stands for what is not defined: the cosine of an expert that changed nothing, a share of no elements.
    """
    squares = np.diag(tally.products)
    found: dict[str, Any] = {
        "parameters": tally.size,
        "base_norm": _number(tally.base**0.5),
        "outvoted": _share(tally.outvoted.sum(), tally.magnitude.sum()),
        "experts": {},
        "cosine": _matrix(tally.products, np.sqrt(np.outer(squares, squares))),
        "sign_conflict": _matrix(tally.conflicts, tally.changed),
        "top_overlap": _matrix(tally.top, tally.top_smaller),
        "top_chance": _matrix(tally.top_chance, tally.top_smaller),
    }
    for number, name in enumerate(names):
        found["experts"][name] = one = {
            "norm": _number(squares[number] ** 0.5),
            "relative": _number((squares[number] / tally.base) ** 0.5) if tally.base else None,
            "changed": _share(tally.changed[number, number], tally.size),
            "largest": _number(tally.largest[number]),
            "outvoted": _share(tally.outvoted[number], tally.magnitude[number]),
            "top": _share(tally.top[number, number], tally.size),
        }
        if predicted:
            one |= {
                "kept": _share(tally.kept[number], tally.changed[number, number]),
                "projection": _share(tally.onto[number], squares[number]),
                "merged_cosine": _share(tally.onto[number], (squares[number] * tally.merged) ** 0.5),
            }
    if predicted:
        found["merged"] = {
            "norm": _number(tally.merged**0.5),
            "relative": _number((tally.merged / tally.base) ** 0.5) if tally.base else None,
        }
    return found


def _stretches(size: int) -> Iterator[slice]:
    return (slice(begin, begin + STRETCH) for begin in range(0, size, STRETCH))


def _values(tensor: Tensor, part: slice) -> Array:
    return replace(tensor, data=tensor.data[part]).float32()


def _cut(base: Tensor, expert: Tensor, top: float) -> float:
    """The magnitude from which on a change is among the largest `top` share of the tensor.

    Changes of just this magnitude all count, so that the choice among equals, of which half precision has many, makes
    no two experts more alike than they are. An element that did not change never counts.
    """
    size = base.data.size
    wanted = max(1, int(top * size))
    magnitudes = np.empty(size, np.float32)
    for part in _stretches(size):
        np.abs(_values(expert, part) - _values(base, part), out=magnitudes[part])
    magnitudes.partition(size - wanted)
    return float(magnitudes[size - wanted])


def _packed(mask: Array) -> Array:
    """A row of truths as 64 bits a word."""
    bits = np.packbits(mask, axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


def _shared(left: Array, right: Array | None = None) -> Array:
    """For each row of the one and each of the other: how many bits both have."""
    both = left[:, None, :] & (left if right is None else right)[None, :, :]
    return np.asarray(np.bitwise_count(both).sum(axis=2, dtype=np.int64))


def _number(value: float) -> float:
    return float(f"{value:.6g}")


def _share(part: float, whole: float) -> float | None:
    # Adding zero makes a negative zero a plain one.
    return None if not whole or np.isnan(part) else round(float(part) / float(whole), 6) + 0.0


def _matrix(part: Array, whole: Array) -> list[list[float | None]]:
    return [[_share(*pair) for pair in zip(*rows, strict=True)] for rows in zip(part, whole, strict=True)]

"""Merge methods on one tensor, for a processor: from a recipe's numbers to calls of the compiled loops (kernels.py).

One rule for all: what is stored is read, everything is computed in float32 (sums over a tensor in float64), and the
result is rounded once, to the output's type. mergekit does the same where a recipe says `dtype: float32` and
`out_dtype`; where `dtype` itself is half precision it rounds after every operation, weights included, and is off by
several roundings. Two more things are pinned here that mergekit leaves open:

* of changes of equal magnitude at a cut, those that come first in the tensor are kept (mergekit's sort is not stable);
* models are taken in order of their names, so that the order in a recipe decides nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medsmith.errors import UserError
from merge_recipes.layout import ALL, BFLOAT16, BINS, FLOAT16, FLOAT32
from merge_recipes.native import loops
from merge_recipes.numbers import Numbers
from merge_recipes.weights import Tensor

KINDS = {"F32": FLOAT32, "BF16": BFLOAT16, "F16": FLOAT16}
"""Stored types that the loops read and write."""

KEEP, CUT, DRAW, DROP = 0, 1, 2, 3
"""The modes of a cut; see kernels.sparse."""

Cut = tuple[int, int, int, int, int]


@dataclass
class Place:
    """Where a merged tensor goes: an address with room for `size` elements of a kind."""

    address: int
    kind: int


@dataclass
class Memo:
    """What one expert's change in one tensor was found to be, kept between the candidates of a search."""

    sizes: Ordered | None = None
    cuts: dict[tuple[float, float | None], Cut] = field(default_factory=dict)


@dataclass(frozen=True)
class Ordered:
    """The magnitudes of a change in order, as bits: each once with how many there are up to it, or all of them.

    Of an expert in half precision few magnitudes differ, of one in float32 nearly all do.
    """

    values: np.ndarray[Any, np.dtype[np.uint32]]
    upto: np.ndarray[Any, np.dtype[np.int64]] | None

    @classmethod
    def of(cls, sizes: np.ndarray[Any, np.dtype[np.uint32]]) -> Ordered:
        """Sort the magnitudes, in place."""
        sizes.sort()
        last = np.flatnonzero(np.append(sizes[1:] != sizes[:-1], True))
        if 3 * len(last) < len(sizes):
            return cls(sizes[last], last + 1)
        return cls(sizes, None)

    def at(self, rank: int) -> tuple[int, int, int]:
        """(the magnitude's bits, how many are smaller, how many are just as large) of a rank."""
        if self.upto is not None:
            place = int(np.searchsorted(self.upto, rank, side="right"))
            smaller = int(self.upto[place - 1]) if place else 0
            return int(self.values[place]), smaller, int(self.upto[place]) - smaller
        value = self.values[rank]
        smaller = int(np.searchsorted(self.values, value, side="left"))
        return int(value), smaller, int(np.searchsorted(self.values, value, side="right")) - smaller


@dataclass
class Inputs:
    """The tensors of one name: the base's, and the experts' in order of their names."""

    base_name: str
    base: Tensor
    experts: dict[str, Tensor]
    seed: int = 0
    memos: dict[str, Memo] | None = None
    """By expert; filled and read where a search keeps it."""

    def __post_init__(self) -> None:
        self.size = self.base.data.size
        self.base_address = self.base.data.ctypes.data
        self.base_kind = KINDS[self.base.dtype]
        self.names = sorted(self.experts)
        self.addresses = np.array([self.experts[name].data.ctypes.data for name in self.names], np.int64)
        self.kinds = np.array([KINDS[self.experts[name].dtype] for name in self.names], np.int64)
        self.flaws = np.zeros(len(self.names) + 1, np.int64)

    def source(self, expert: int) -> tuple[int, int, int, int, int]:
        """(base address, base kind, address, kind, size) of one expert's change."""
        return (self.base_address, self.base_kind, int(self.addresses[expert]), int(self.kinds[expert]), self.size)

    def note(self, expert: int, bad: int) -> None:
        """Take down what a pass over one expert's change found not finite; see kernels._load_change."""
        self.flaws[expert] += bad & 1
        self.flaws[-1] += bad >> 1
        self.require_finite()

    def require_finite(self) -> None:
        """UserError where a pass has met a number that is not finite, with the model's name."""
        for name, flaws in zip([*self.names, self.base_name], self.flaws, strict=True):
            if flaws:
                folder = (self.experts.get(name) or self.base).file.parent
                raise UserError(
                    f"'{name}': the weights '{self.base.name}' are not all finite ({folder}); make that model again"
                )


def merge_tensor(method: str, numbers: Numbers, inputs: Inputs, place: Place) -> None:
    """Merge one tensor into its place.

    Raises:
        UserError: an input or the result is not finite, or these numbers have no meaning for these weights.
    """
    if inputs.size == 0:
        return
    bad = METHODS[method](numbers, inputs, place)
    inputs.require_finite()
    if bad:
        raise UserError(
            f"the merged weights '{inputs.base.name}' are not all finite; use smaller weights or out_dtype float32"
        )


def _linear(numbers: Numbers, inputs: Inputs, place: Place) -> int:

    order = sorted([*inputs.names, inputs.base_name])
    given = [name for name in order if name in numbers.own]
    tensors = {**inputs.experts, inputs.base_name: inputs.base}
    weights = np.array([numbers.own[name]["weight"] for name in given], np.float64)
    addresses = np.array([tensors[name].data.ctypes.data for name in given], np.int64)
    kinds = np.array([KINDS[tensors[name].dtype] for name in given], np.int64)
    divisor = float(weights.sum()) if numbers.shared["normalize"] else 1.0
    flaws = np.zeros(len(given) + 1, np.int64)
    bad = loops().combine(
        0, 0, len(given), addresses, kinds, weights, divisor, 1.0, inputs.size, place.address, place.kind, flaws,
        experts=len(given),
    )  # fmt: skip
    columns = [*inputs.names, inputs.base_name]
    for name, count in zip(given, flaws, strict=False):
        inputs.flaws[columns.index(name)] += count
    return bad


def _combine(inputs: Inputs, place: Place, weights: Sequence[float], divisor: float = 1.0, scale: float = 1.0) -> int:
    """base + scale * (weights * changes) / divisor."""
    return loops().combine(
        inputs.base_address, inputs.base_kind, len(inputs.names), inputs.addresses, inputs.kinds,
        np.array(weights, np.float64), divisor, scale, inputs.size, place.address, place.kind, inputs.flaws,
        experts=len(inputs.names),
    )  # fmt: skip


def _plain(inputs: Inputs, place: Place, weights: Mapping[str, float]) -> int:
    """The weighted sum of the models themselves, the base one of them; flaws as for every method."""
    return _linear(Numbers({"normalize": False}, {name: {"weight": w} for name, w in weights.items()}), inputs, place)


def _gram(inputs: Inputs) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The scalar products of the experts' changes."""
    products = np.zeros((len(inputs.names), len(inputs.names)))
    loops().gram(
        inputs.base_address, inputs.base_kind, len(inputs.names), inputs.addresses, inputs.kinds, inputs.size,
        products, inputs.flaws, experts=len(inputs.names),
    )  # fmt: skip
    inputs.require_finite()
    return products


def slerp_shares(t: float, base_norm: float, expert_norm: float, product: float) -> tuple[float, float]:
    """What SLERP takes of the base and of the expert; (nearly) parallel tensors are interpolated linearly.

    mergekit's bounds: norms up to 1e-8 count as one, |cosine| above 0.9995 as parallel.
    """
    cosine = product / (base_norm if base_norm > 1e-8 else 1.0) / (expert_norm if expert_norm > 1e-8 else 1.0)
    cosine = min(1.0, max(-1.0, cosine))
    if abs(cosine) > 0.9995:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _slerp(numbers: Numbers, inputs: Inputs, place: Place) -> int:

    (expert,) = inputs.names
    products = np.zeros((2, 2))
    addresses = np.array([inputs.addresses[0], inputs.base_address], np.int64)
    kinds = np.array([inputs.kinds[0], inputs.base_kind], np.int64)
    flaws = np.zeros(3, np.int64)
    loops().gram(0, 0, 2, addresses, kinds, inputs.size, products, flaws, experts=2)
    inputs.flaws += flaws[:2]
    inputs.require_finite()
    base, other = slerp_shares(
        float(numbers.shared["t"]), math.sqrt(products[1, 1]), math.sqrt(products[0, 0]), products[0, 1]
    )
    return _plain(inputs, place, {inputs.base_name: base, expert: other})


def nuslerp_shares(t: float, products: np.ndarray[Any, Any]) -> tuple[float, float]:
    """What NuSLERP takes of two changes, from their scalar products."""
    first, second = (max(math.sqrt(products[k, k]), 1e-7) for k in (0, 1))
    cosine = min(1.0, max(-1.0, products[0, 1] / first / second))
    # mergekit asks whether 1 - cos^2 <= 1e-16, which in its float32 means: the cosine is one. Opposite changes would
    # else be blown up by a sine of nearly zero.
    if 1.0 - cosine * cosine <= 6e-8:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _nuslerp(numbers: Numbers, inputs: Inputs, place: Place) -> int:
    weights = [float(numbers.own[name]["weight"]) for name in inputs.names]
    total = sum(weights)
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    return _combine(inputs, place, nuslerp_shares(t, _gram(inputs)))


def stock_share(products: np.ndarray[Any, Any]) -> float:
    """How far model stock goes from the base to the mean of the models (Jang et al. 2024, equation 6)."""
    count = len(products)
    lengths = np.sqrt(np.diag(products))
    cosines = [
        min(1.0, max(-1.0, products[j, k] / max(lengths[j] * lengths[k], 1e-6)))
        for j in range(count)
        for k in range(j + 1, count)
    ]
    cosine = float(np.mean(cosines))
    denominator = 1.0 + (count - 1) * cosine
    return 0.0 if abs(denominator) < 1e-6 else count * cosine / denominator


def _model_stock(numbers: Numbers, inputs: Inputs, place: Place) -> int:
    share = stock_share(_gram(inputs))
    return _combine(inputs, place, [share / len(inputs.names)] * len(inputs.names))


def multislerp_shares(
    weights: Sequence[float], products: np.ndarray[Any, Any], normalize: bool, eps: float, tensor: str
) -> list[float]:
    """What multi-SLERP takes of each change.

    mergekit steps into the tangent space at the weighted mean of the directions and back; the step is zero, since the
    mean's own tangent is. What remains is the mean direction at the weighted mean of the lengths.

    Raises:
        UserError: the directions cancel one another.
    """
    w = np.array(weights, np.float64)
    if normalize:
        w = w / w.sum()
    lengths = np.sqrt(np.diag(products))
    if not lengths.any():
        return [0.0] * len(w)  # a tensor that no expert changed: mergekit gives up here from three experts on
    directions = w / (lengths + eps)
    mean = math.sqrt(max(0.0, float(directions @ products @ directions)))
    if mean < eps:
        if len(w) == 2:
            return [float(value) for value in w]
        raise UserError(
            f"multislerp: the experts' changes of '{tensor}' cancel one another at these weights; use other weights"
        )
    return [float(value) for value in directions / mean * float(lengths @ w)]


def _multislerp(numbers: Numbers, inputs: Inputs, place: Place) -> int:
    weights = [float(numbers.own[name]["weight"]) for name in inputs.names]
    if len(weights) == 1:
        return _plain(inputs, place, {inputs.names[0]: 1.0})
    shared = numbers.shared
    normalize, eps = bool(shared["normalize_weights"]), float(shared["eps"])
    return _combine(inputs, place, multislerp_shares(weights, _gram(inputs), normalize, eps, inputs.base.name))


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
    counts = np.zeros(BINS, np.int64)
    inputs.note(expert, loops().histogram(*inputs.source(expert), counts))
    upto = np.cumsum(counts)
    bins = [int(np.searchsorted(upto, rank, side="right")) for rank in wanted]
    fine = np.zeros((2, 65536), np.int64)
    loops().refine(*inputs.source(expert), bins[0], bins[-1], fine[0], fine[1])

    def at(rank: int) -> tuple[int, int, int]:
        number = bins[wanted.index(rank)]
        before = int(upto[number - 1]) if number else 0
        inside = fine[0 if number == bins[0] else 1]
        running = before + np.cumsum(inside)
        lower = int(np.searchsorted(running, rank, side="right"))
        return (number << 16) | lower, int(running[lower]) - int(inside[lower]), int(inside[lower])

    return at


def _place_cut(inputs: Inputs, expert: int, ranks: tuple[int, int], at: Rank) -> Cut:
    """The cut between the wanted ranks and their neighbours: of equal magnitudes the first in the tensor are kept."""
    first, last = ranks
    low, low_place, high, high_place = 0, inputs.size, ALL, 0

    def place(magnitude: int, equal: int, kept: int) -> int:
        return inputs.size if kept == equal else loops().locate(*inputs.source(expert), magnitude, kept)

    if first > 0:
        low, smaller, equal = at(first - 1)
        low_place = place(low, equal, min(smaller + equal, last) - first)
    if last < inputs.size:
        high, smaller, equal = at(last)
        same = first > 0 and high == low
        high_place = low_place if same else place(high, equal, last - max(smaller, first))
    return (CUT, low, low_place, high, high_place)


def _rescale(inputs: Inputs, expert: int, cut: Cut, key: int) -> float:
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


def _sparse(method: str) -> Callable[[Numbers, Inputs, Place], int]:
    """Task arithmetic in all its forms: changes, cut, weighted, summed with or without an election of signs."""
    elect = method in {"ties", "dare_ties", "breadcrumbs_ties"}

    def run(numbers: Numbers, inputs: Inputs, place: Place) -> int:

        weights = [float(numbers.own[name]["weight"]) for name in inputs.names]
        normalize, scale = bool(numbers.shared["normalize"]), float(numbers.shared["lambda"])
        cuts, keys = find_cuts(method, numbers, inputs)
        if not elect and all(cut[0] == KEEP for cut in cuts):
            total = sum(weights)
            return _combine(inputs, place, weights, total if normalize and abs(total) >= 1e-8 else 1.0, scale)
        rescale = bool(numbers.shared["rescale"])
        scales = [
            _rescale(inputs, expert, cut, key) if rescale else 1.0
            for expert, (cut, key) in enumerate(zip(cuts, keys, strict=True))
        ]
        return loops().sparse(
            inputs.base_address, inputs.base_kind, len(inputs.names), inputs.addresses, inputs.kinds,
            np.array(weights), np.array(scales), np.array(cuts, np.int64), np.array(keys, np.int64), int(elect),
            int(normalize), scale, inputs.size, place.address, place.kind, inputs.flaws, experts=len(inputs.names),
        )  # fmt: skip

    return run


SPARSE = ("task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties")

METHODS: dict[str, Callable[[Numbers, Inputs, Place], int]] = {
    "linear": _linear,
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "model_stock": _model_stock,
    "multislerp": _multislerp,
    **{method: _sparse(method) for method in SPARSE},
}
"""The methods that are proven equal to mergekit's, by tests/test_merge_recipes_stream.py."""

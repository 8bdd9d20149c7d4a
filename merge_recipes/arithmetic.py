"""Merge methods on one tensor, for a processor: from a recipe's numbers to calls of the compiled loops (kernels.py).

One rule for all: what is stored is read, everything is computed in float32 (sums over a tensor in float64), and the
result is rounded once, to the output's type. mergekit does the same where a recipe says `dtype: float32` and
`out_dtype`; where `dtype` itself is half precision it rounds after every operation, weights included, and is off by
several roundings. Two more things are pinned here that mergekit leaves open:

* of changes of equal magnitude at a cut, those that come first in the tensor are kept (mergekit's sort is not stable);
* models are taken in order of their names, so that the order in a recipe decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medsmith.errors import UserError
from merge_recipes.cuts import KEEP, find_cuts, rescaling
from merge_recipes.inputs import KINDS, Inputs, Place
from merge_recipes.native import loops
from merge_recipes.numbers import Numbers


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


def _gram(inputs: Inputs, wide: bool = False) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The scalar products of the experts' changes; see kernels.gram."""
    products = np.zeros((len(inputs.names), len(inputs.names)))
    loops().gram(
        inputs.base_address, inputs.base_kind, len(inputs.names), inputs.addresses, inputs.kinds, inputs.size,
        int(wide), products, inputs.flaws, experts=len(inputs.names),
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
    loops().gram(0, 0, 2, addresses, kinds, inputs.size, 0, products, flaws, experts=2)
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
    return _combine(inputs, place, nuslerp_shares(t, _gram(inputs, wide=True)))


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
    return _combine(
        inputs, place, multislerp_shares(weights, _gram(inputs, wide=True), normalize, eps, inputs.base.name)
    )


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
            rescaling(inputs, expert, cut, key) if rescale else 1.0
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

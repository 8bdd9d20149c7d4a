"""The arithmetic of arithmetic.py in plain torch, for a GPU: the same rules, the same draws, a tensor at a time.

On a GPU a whole tensor is sorted in less time than it takes to be read, so nothing here is clever. On `device="cpu"`
it is the readable reference that the compiled loops are tested against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from typing import Any

import torch

from medsmith.errors import UserError
from merge_recipes.arithmetic import multislerp_shares, nuslerp_shares, slerp_shares, stock_share
from merge_recipes.cuts import draw_key, ranks_of
from merge_recipes.inputs import Inputs
from merge_recipes.numbers import Numbers
from merge_recipes.weights import Tensor

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

Resident = MutableMapping[tuple[str, str], torch.Tensor]


def merge_on_device(
    method: str, numbers: Numbers, inputs: Inputs, device: str, resident: Resident | None = None
) -> torch.Tensor:
    """One merged tensor in float32, flat, on the device.

    `resident` keeps what was read on the device, by model and tensor, for the next merge of the same models.

    Raises:
        UserError: an input or the result is not finite.
    """
    base = _read(inputs.base_name, inputs.base, device, resident)
    experts = [_read(name, inputs.experts[name], device, resident) for name in inputs.names]
    merged = METHODS[method](numbers, inputs, base, experts)
    if not torch.isfinite(merged).all():
        raise UserError(f"the merged weights '{inputs.base.name}' are not all finite; use smaller weights")
    return merged


def _read(model: str, tensor: Tensor, device: str, resident: Resident | None) -> torch.Tensor:
    if resident is not None and (model, tensor.name) in resident:
        return resident[model, tensor.name].float()
    # A copy, since torch takes no read-only memory; it is the one that the device is filled from.
    stored = torch.from_numpy(tensor.data.copy()).view(TORCH[tensor.dtype]).to(device)
    values = stored.float()
    if not torch.isfinite(values).all():
        raise UserError(
            f"'{model}': the weights '{tensor.name}' are not all finite ({tensor.file.parent}); make that model again"
        )
    if resident is not None:
        resident[model, tensor.name] = stored
    return values


def _weights(numbers: Numbers, inputs: Inputs) -> list[float]:
    return [float(numbers.own[name]["weight"]) for name in inputs.names]


def _sum(weights: list[float], tensors: list[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros_like(tensors[0])
    for weight, tensor in zip(weights, tensors, strict=True):
        total += torch.tensor(weight, dtype=torch.float32, device=tensor.device) * tensor
    return total


def _gram(tensors: list[torch.Tensor]) -> Any:
    wide = torch.stack([tensor.double() for tensor in tensors])
    return (wide @ wide.T).cpu().numpy()


def _changes(base: torch.Tensor, experts: list[torch.Tensor]) -> list[torch.Tensor]:
    return [expert - base for expert in experts]


def _linear(numbers: Numbers, inputs: Inputs, base: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
    tensors = dict(zip(inputs.names, experts, strict=True)) | {inputs.base_name: base}
    given = [name for name in sorted(tensors) if name in numbers.own]
    weights = [float(numbers.own[name]["weight"]) for name in given]
    total = _sum(weights, [tensors[name] for name in given])
    # By a tensor: a plain number's reciprocal would be multiplied with, which is another rounding.
    return total / base.new_tensor(sum(weights)) if numbers.shared["normalize"] else total


def _slerp(numbers: Numbers, inputs: Inputs, base: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
    products = _gram([base, experts[0]])
    lengths = math.sqrt(products[0, 0]), math.sqrt(products[1, 1])
    shares = slerp_shares(float(numbers.shared["t"]), *lengths, products[0, 1])
    return _sum(list(shares), [base, experts[0]])


def _nuslerp(numbers: Numbers, inputs: Inputs, base: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
    weights = _weights(numbers, inputs)
    t = 0.5 if abs(sum(weights)) < 1e-6 else weights[1] / sum(weights)
    changes = _changes(base, experts)
    return base + _sum(list(nuslerp_shares(t, _gram(changes))), changes)


def _model_stock(numbers: Numbers, inputs: Inputs, base: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
    changes = _changes(base, experts)
    return base + _sum([stock_share(_gram(changes)) / len(changes)] * len(changes), changes)


def _multislerp(numbers: Numbers, inputs: Inputs, base: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
    if len(experts) == 1:
        return experts[0]
    changes, shared = _changes(base, experts), numbers.shared
    shares = multislerp_shares(
        _weights(numbers, inputs),
        _gram(changes),
        bool(shared["normalize_weights"]),
        float(shared["eps"]),
        inputs.base.name,
    )
    return base + _sum(shares, changes)


def _first_of(equal: torch.Tensor, count: int) -> torch.Tensor:
    """Of the places that are marked, the first so many."""
    return equal & (equal.cumsum(0) <= count)


def keep_ranks(change: torch.Tensor, ranks: tuple[int, int]) -> torch.Tensor:
    """Where a change's magnitude is of these ranks; of equal ones at a cut the first are kept."""
    first, last = ranks
    size = change.abs()
    kept = torch.ones_like(size, dtype=torch.bool)
    if first >= last:
        return ~kept
    order = size.sort().values
    if first > 0:
        low = order[first - 1]
        equal = size == low
        upto = int((size <= low).sum())
        kept &= (size > low) | _first_of(equal, min(upto, last) - first)
    if last < len(size):
        high = order[last]
        equal = size == high
        ties = _first_of(equal, last - max(int((size < high).sum()), first))
        kept &= (size < high) | ties
    return kept


def draw(size: int, density: float, key: int, device: str) -> torch.Tensor:
    """Which elements DARE keeps: the draws of blocks.mask, a murmur hash of the element's number and the key."""
    last = math.ceil(density * 2**32) - 1
    word = 2**32 - 1

    def mix(h: torch.Tensor, between: int) -> torch.Tensor:
        h = h ^ (h >> 16)
        h = (h * 0x85EBCA6B + between) & word
        h = h ^ (h >> 13)
        h = (h * 0xC2B2AE35) & word
        return h ^ (h >> 16)

    number = torch.arange(size, dtype=torch.int64, device=device)
    first = mix(number >> 32, 0) ^ (key & word)
    return mix((number & word) ^ first, (key >> 32) & word) <= last


def _sparse(method: str) -> Callable[[Numbers, Inputs, torch.Tensor, list[torch.Tensor]], torch.Tensor]:
    elect = method in {"ties", "dare_ties", "breadcrumbs_ties"}

    def cut(own: dict[str, Any], inputs: Inputs, name: str, change: torch.Tensor) -> torch.Tensor:
        density = float(own.get("density", 1.0))
        if method == "task_arithmetic" or density >= 1:
            return change
        if method.startswith("dare"):
            key = draw_key(inputs.seed, name, inputs.base.name)
            return change * draw(len(change), density, key, str(change.device))
        gamma = float(own["gamma"]) if method.startswith("breadcrumbs") else None
        ranks = ranks_of(method, len(change), density, gamma)
        return change if ranks is None else change * keep_ranks(change, ranks)

    def run(numbers: Numbers, inputs: Inputs, base: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
        weights, shared = _weights(numbers, inputs), numbers.shared
        terms = []
        for name, weight, change in zip(inputs.names, weights, _changes(base, experts), strict=True):
            left = cut(numbers.own[name], inputs, name, change)
            if shared["rescale"] and left is not change:
                before, after = float(change.double().abs().sum()), float(left.double().abs().sum())
                left = left if before < 1e-7 or after < 1e-7 else left * (before / after)
            terms.append(left * weight)
        total = _sum([1.0] * len(terms), terms)
        if elect:
            sign = torch.where(total >= 0, 1.0, -1.0)
            agree = [term.sign() == sign for term in terms]
            total = _sum([1.0] * len(terms), [term * keep for term, keep in zip(terms, agree, strict=True)])
            divisor = _sum(weights, [keep.float() for keep in agree])
            divisor[divisor == 0] = 1.0
        else:
            divisor = torch.tensor(sum(weights) if abs(sum(weights)) >= 1e-8 else 1.0, device=base.device)
        if shared["normalize"]:
            total = total / divisor.float()
        return base + total * shared["lambda"]

    return run


METHODS: dict[str, Callable[[Numbers, Inputs, torch.Tensor, list[torch.Tensor]], torch.Tensor]] = {
    "linear": _linear,
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "model_stock": _model_stock,
    "multislerp": _multislerp,
    **{
        method: _sparse(method)
        for method in ("task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties")
    },
}
"""The methods of arithmetic.METHODS."""

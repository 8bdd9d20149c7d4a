"""What tests of merging share: tensors of every kind, and both engines on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from merge_recipes.arithmetic import merge_tensor
from merge_recipes.inputs import KINDS, Inputs, Place
from merge_recipes.numbers import Numbers
from merge_recipes.weights import Tensor

STORED = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
WEIGHTS = (0.5, 0.3, 0.2, 0.9)
SHAPE = (37, 101)


def named(count: int) -> list[str]:
    return [f"m{number}" for number in range(count)]


def tensor(values: torch.Tensor, name: str = "w") -> Tensor:
    """A torch tensor as if it had been mapped from a file."""
    stored = STORED[values.dtype]
    bits = values.contiguous().view(-1)
    data = bits.numpy() if stored == "F32" else bits.view(torch.uint16).numpy()
    return Tensor(name, stored, tuple(values.shape), data, Path("model") / "model.safetensors")


def inputs(base: torch.Tensor, experts: Sequence[torch.Tensor] | Mapping[str, torch.Tensor], seed: int = 0) -> Inputs:
    given = experts if isinstance(experts, Mapping) else dict(zip(named(len(experts)), experts, strict=True))
    return Inputs("base", tensor(base), {name: tensor(expert) for name, expert in given.items()}, seed)


def stream(
    method: str, numbers: Numbers, base: torch.Tensor, experts: Any, out: torch.dtype = torch.float32, seed: int = 0
) -> torch.Tensor:
    """The streaming engine's merge of one tensor."""
    merged = torch.empty(base.shape, dtype=out)
    place = Place(merged.data_ptr(), KINDS[STORED[out]])
    merge_tensor(method, numbers, inputs(base, experts, seed), place)
    return merged


def mergekit(
    method: str,
    numbers: Numbers,
    base: torch.Tensor,
    experts: Sequence[torch.Tensor],
    out: torch.dtype = torch.float32,
    work: torch.dtype = torch.float32,
) -> torch.Tensor:
    """mergekit's merge of one tensor, computed in `work`."""
    from mergekit import merge_methods
    from mergekit.merge_methods.base import TensorGroup

    names = ["base", *named(len(experts))]
    group = TensorGroup.from_tensors([base, *experts], ids=names, base_index=0, name="w")
    run = merge_methods.get(method)
    parameters: dict[str, Any] = {p.name: numbers.shared[p.name] for p in run.spec.shared_parameters}
    for parameter in run.spec.input_parameters:
        mine = [name for name in names if name != "base" or parameter.scope.value == "input"]
        parameters[parameter.name] = {name: numbers.own[name][parameter.name] for name in mine}
    (merged,) = run((group,), parameters=parameters, dtype=work, out_dtype=out)
    return merged


def numbers(method: str, experts: int, base_weight: float = 1.0, **changes: Any) -> Numbers:
    """Some numbers for a method: weights that differ, half of all changes kept."""
    shared = {
        "normalize": False, "lambda": 1.0, "rescale": method.startswith("dare"), "int8_mask": False, "t": 0.3,
        "nuslerp_row_wise": False, "nuslerp_flatten": True, "filter_wise": False, "normalize_weights": True,
        "eps": 1e-8,
    }  # fmt: skip
    own = {
        name: {"weight": weight, "density": 0.5, "gamma": 0.1}
        for name, weight in zip(named(experts), WEIGHTS, strict=False)
    }
    for name in own:
        own[name] |= {key: value for key, value in changes.items() if key in {"density", "gamma", "weight"}}
    shared |= {key: value for key, value in changes.items() if key in shared}
    return Numbers(shared, {**own, "base": {"weight": base_weight}} if method == "linear" else own)


def family(kind: str, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A base and four experts: `near` as fine-tuning makes them, or one of the cases that break things."""
    draw = torch.Generator().manual_seed(seed)

    def noise(scale: float, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
        return torch.randn(shape, generator=draw) * scale

    base = noise(0.05)
    if kind == "near":
        experts = [base + noise(1e-3) for _ in range(4)]
    elif kind == "random":
        experts = [noise(0.05) for _ in range(4)]
    elif kind == "equal":  # every change the same: all of them stand at the cut
        experts = [base + 0.01 for _ in range(4)]
    elif kind == "ties":  # seven different changes
        experts = [base + torch.randint(-3, 4, SHAPE, generator=draw) * 0.01 for _ in range(4)]
    elif kind == "zeros":
        base = torch.zeros(SHAPE)
        experts = [noise(0.01) * (torch.rand(SHAPE, generator=draw) < 0.5) for _ in range(4)]
    elif kind == "one":
        base = noise(0.05, (1,))
        experts = [base + noise(1e-3, (1,)) for _ in range(4)]
    elif kind == "parallel":
        change = noise(0.01)
        experts = [base + change * factor for factor in (1, 2, 0.5, 3)]
    else:
        raise AssertionError(kind)
    return base.to(dtype), [expert.to(dtype) for expert in experts]


FAMILIES = ("near", "random", "equal", "ties", "zeros", "one", "parallel")


def roundings(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance between neighbouring numbers of a type at each value."""
    step = {torch.float32: 23, torch.bfloat16: 7, torch.float16: 10}[dtype]
    least = {torch.float32: -149, torch.bfloat16: -133, torch.float16: -24}[dtype]
    exponent = torch.floor(torch.log2(values.double().abs().clamp(min=2.0**-160)))
    return torch.exp2(torch.clamp(exponent - step, min=least))

"""The numbers of a recipe for one tensor: filters chosen, gradients interpolated, defaults filled in.

As mergekit reads them: a model's own value comes before one for all, of filtered values the first that fits, and a
list is a gradient over the layers. tests/test_merge_recipes_numbers.py compares with mergekit's own reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from medsmith.errors import UserError
from merge_recipes.methods import METHODS, Kind, Method, Parameter, Value

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")

SMALLEST_SUM = 1e-6
"""Below it, weights that are divided by their sum are divided by rounding errors."""


@dataclass(frozen=True)
class Numbers:
    """Every parameter's value for one tensor: those for the whole merge, and each model's own.

    A model that has none of its own (the base of most methods) is not among `own`; neither is a parameter without a
    value (passthrough's scale).
    """

    shared: dict[str, Value]
    own: dict[str, dict[str, Value]]


def layer_of(tensor_name: str) -> int | None:
    """The layer that a tensor belongs to, or None (embedding, last norm, output layer)."""
    found = _LAYER.search(tensor_name)
    return int(found[1]) if found else None


def numbers_for(recipe: Mapping[str, Any], tensor_name: str, layer: int | None, layers: int) -> Numbers:
    """The numbers by which a recipe with `models` (no slices) merges one tensor of a model with so many layers.

    Raises:
        UserError: a required parameter has no value for this tensor: none of its filters fits.
    """
    method = METHODS[recipe["merge_method"]]
    base = recipe["base_model"]
    # What a gradient is at outside of layers, and that a single layer stands at its end, is mergekit's choice.
    place = 0.0 if layer is None else layer / (layers - 1) if layers > 1 else 1.0
    everywhere = recipe.get("parameters") or {}

    def values(parameters: Iterable[Parameter], blocks: tuple[Mapping[str, Any], ...], model: str) -> dict[str, Value]:
        found = {}
        for parameter in parameters:
            try:
                value = _value(parameter, blocks, tensor_name, place)
            except ValueError as error:
                raise UserError(f"{tensor_name}: '{parameter.name}': {error}") from None
            if value is not None:
                found[parameter.name] = value
            elif parameter.required:
                whose = f" for '{model}'" if model else ""
                raise UserError(
                    f"{tensor_name}: no value of '{parameter.name}'{whose} reaches this tensor; add one without a "
                    "filter at the end of its list"
                )
        return found

    shared = values(method.shared, (everywhere,), "")
    without_base = tuple(one for one in method.own if one.scope == "input")
    own = {}
    for name, block in _inputs(recipe):
        if parameters := without_base if name == base else method.own:
            own[name] = values(parameters, (block, everywhere), name)
    return Numbers(shared, {name: found for name, found in own.items() if found})


def check_numbers(recipe: Mapping[str, Any], tensor_names: Iterable[str]) -> None:
    """See that a recipe with `models` has numbers for each tensor of a model, and that they make sense together.

    Raises:
        UserError: the first tensor for which a parameter has no value, or for which `conflict` finds one.
    """
    names = list(tensor_names)
    layers = 1 + max((layer_of(name) or 0 for name in names), default=0)
    method = METHODS[recipe["merge_method"]]
    for name in names:
        found = conflict(method, numbers_for(recipe, name, layer_of(name), layers))
        if found:
            raise UserError(f"{name}: {found}")


def conflict(method: Method, numbers: Numbers) -> str | None:
    """What is wrong with numbers that are right one by one, or None.

    Weights that cancel out are divided by nothing: linear and multislerp give NaN, the others silently something else.
    DELLA draws between density - epsilon and density + epsilon, and mergekit gives up where those are no probabilities.
    """
    weights = [own["weight"] for own in numbers.own.values() if "weight" in own]
    normalized = any(numbers.shared.get(name) for name in ("normalize", "normalize_weights"))
    # With all weights zero, the sum of changes is zero whatever it is divided by, and the merge is the base.
    nothing_added = method.adds_changes and not any(weights)
    if weights and (normalized or method.name == "nuslerp") and abs(sum(weights)) < SMALLEST_SUM and not nothing_added:
        return f"the weights sum to {sum(weights):.3g} and are divided by their sum; let them sum to more, or less"
    for name, own in numbers.own.items():
        density, epsilon = own.get("density", 1.0), own.get("epsilon", 0.0)
        if 0 < density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
            return f"'{name}': density {density:g} ± epsilon {epsilon:g} leaves 0 to 1; choose a smaller epsilon"
    return None


def _inputs(recipe: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each model with its own parameters; mergekit adds the base at the end where it is not listed."""
    inputs = [(entry["model"], entry.get("parameters") or {}) for entry in recipe["models"]]
    base = recipe["base_model"]
    return inputs if any(name == base for name, _ in inputs) else [*inputs, (base, {})]


def _value(parameter: Parameter, blocks: tuple[Mapping[str, Any], ...], tensor_name: str, place: float) -> Value | None:
    """A parameter's value from the first block that has one for this tensor; else its default."""
    for block in blocks:
        if parameter.name in block:
            value = _evaluate(parameter.kind, block[parameter.name], tensor_name, place)
            if value is not None:
                return value
    return parameter.default


def _evaluate(kind: Kind, setting: Any, tensor_name: str, place: float) -> Value | None:
    """The value of a setting: a scalar, a gradient, or filtered settings of which the first that fits is taken."""
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return kind.read(setting)
    if not setting:
        return None
    if isinstance(setting[0], dict):  # strict.py has seen to it that all are, and that every scalar is one
        for item in setting:
            part = item.get("filter")
            if part is None or part == "*" or part in tensor_name:
                return _evaluate(kind, item["value"], tensor_name, place)
        return None
    at = place * (len(setting) - 1)
    below = int(at)
    if kind.type is bool:
        return kind.read(setting[below])
    first, second = kind.read(setting[below]), kind.read(setting[min(below + 1, len(setting) - 1)])
    return kind.read((1 - (at - below)) * first + (at - below) * second)

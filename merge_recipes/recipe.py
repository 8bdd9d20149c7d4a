"""Merge recipes: plain mergekit YAML, read strictly.

mergekit ignores a key or parameter that it does not know, and a shared parameter that stands below a model; both leave
a merge that is not the one that was asked for. So everything is checked here against mergekit's own schema and method
registry, and a recipe names its models (`base`, `pubmed`, …) instead of their folders.
"""

from __future__ import annotations

import copy
import difflib
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medsmith.config import read_yaml
from medsmith.errors import UserError

TOKENIZER_KEYS = {"source"}
"""`tokens` and `pad_to_multiple_of` rearrange a vocabulary; models that share one vocabulary need neither."""


def load_recipe(path: Path) -> dict[str, Any]:
    """Read and check a recipe.

    Raises:
        UserError: an unknown key, method or parameter (the nearest one is named), a parameter in a place where mergekit
            would not look, a missing required one, no base_model, or no tokenizer source.
    """
    recipe = read_yaml(path)
    check_recipe(recipe, str(path))
    return recipe


def check_recipe(recipe: Mapping[str, Any], where: str) -> None:
    """Check a recipe that is already read; see load_recipe."""
    from mergekit.config import MergeConfiguration

    _known_keys(recipe, set(MergeConfiguration.model_fields), where, "")
    present = [key for key in ("models", "slices", "modules") if recipe.get(key)]
    if len(present) != 1:
        found = ", ".join(present) or "none"
        raise UserError(f"{where}: give exactly one of models, slices or modules (found: {found})")
    method = _method(recipe.get("merge_method"), where)
    if not isinstance(recipe.get("base_model"), str):
        raise UserError(
            f"{where}: 'base_model' is missing; without it mergekit takes configuration and tokenizer from whichever "
            "model comes first in set order"
        )
    _check_tokenizer(recipe, where)
    entries = list(_entries(recipe, where))
    _check_inputs(method, recipe, entries, where)
    for path, parameters, shared_place, is_base in _parameter_blocks(recipe, entries):
        _check_parameters(method, parameters, f"{where}: {path}", shared_place, is_base)
    _check_required(method, recipe, entries, where)


def names_of(recipe: Mapping[str, Any]) -> list[str]:
    """The names of all models that a recipe uses, the base first, each once, in the order of mention."""
    mentioned = [recipe["base_model"], *(entry["model"] for _, entry in _entries(recipe, "the recipe"))]
    return list(dict.fromkeys(mentioned))


def filters_of(recipe: Mapping[str, Any]) -> set[str]:
    """Every `filter` of a parameter: a part of tensor names."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            if isinstance(value.get("filter"), str):
                found.add(value["filter"])
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(recipe)
    return found - {"*"}


def stacks_layers(recipe: Mapping[str, Any]) -> bool:
    """Whether the output may have another depth than its parents."""
    return not recipe.get("models")


def resolve(recipe: Mapping[str, Any], folders: Mapping[str, Path], dtype: str | None) -> dict[str, Any]:
    """What mergekit is given: absolute folders for names, `dtype` where set, and no tokenizer block.

    The tokenizer block is taken out on purpose: with it (`union`, `base` or a model) mergekit rebuilds the vocabulary,
    cutting the padded embedding to the tokenizer's length, and does not write generation_config.json, so that the model
    no longer stops. Our parents share one tokenizer (parents.py checks it), so mergekit's other way, copying the
    base model's files, is the right one and keeps both.
    """
    resolved = copy.deepcopy(dict(recipe))
    resolved.pop("tokenizer", None)
    resolved.pop("tokenizer_source", None)

    def reference(name: str) -> dict[str, Any]:
        # A mapping, not text: mergekit splits text at "+" (adapter) and "@" (revision), which a path may hold. And
        # absolute: it takes a relative `a/b` for a hub id.
        return {"model": {"path": str(folders[name].resolve())}}

    for _, entry in _entries(resolved, "the recipe"):
        entry["model"] = reference(entry["model"])
    resolved["base_model"] = reference(resolved["base_model"])
    for _, output in _output_slices(resolved):
        if output.get("base_model"):
            output["base_model"] = reference(output["base_model"])
    if dtype:
        resolved["dtype"] = dtype
    return resolved


def assign(recipe: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of the recipe with `value` at a dotted path that exists in it.

    A list is entered by `*` (every entry that has the rest of the path), by number, or by a model's name:
    `parameters.t`, `models.*.parameters.weight`, `models.clinical.parameters.weight`.

    Raises:
        UserError: nothing lies there, with what does.
    """
    changed = copy.deepcopy(dict(recipe))
    found = _assign(changed, path.split("."), value)
    if not found:
        places = sorted(set(_places(recipe)))
        near = difflib.get_close_matches(path, places, n=1, cutoff=0.0)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"grid: the recipe has no '{path}'; {hint}Set a first value there in the recipe")
    return changed


def combinations(grid: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Every choice of one value per path, the last path changing fastest.

    Raises:
        UserError: no path, or a path without values.
    """
    empty = [path for path, values in grid.items() if not values]
    if empty or not grid:
        raise UserError(f"grid: no values for {empty[0]!r}" if empty else "grid: give at least one path with values")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _assign(value: Any, parts: list[str], new: Any) -> int:
    """Set `new` wherever the parts lead to something that exists; how many places that were."""
    part, rest = parts[0], parts[1:]
    if isinstance(value, dict):
        if part not in value:
            return 0
        if rest:
            return _assign(value[part], rest, new)
        value[part] = copy.deepcopy(new)
        return 1
    if isinstance(value, list) and rest:
        chosen = [
            item
            for number, item in enumerate(value)
            if part in ("*", str(number)) or (isinstance(item, dict) and item.get("model") == part)
        ]
        return sum(_assign(item, rest, new) for item in chosen)
    return 0


def _places(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            yield from _places(inner, f"{prefix}{key}.")
    elif isinstance(value, list):
        for item in value:
            yield from _places(item, f"{prefix}*.")


@functools.cache
def _methods() -> dict[str, Any]:
    from mergekit.merge_methods.registry import registered_methods

    return {method.spec.name: method.spec for method in registered_methods()}


def _method(name: Any, where: str) -> Any:
    methods = _methods()
    if name not in methods:
        raise UserError(f"{where}: unknown merge_method {name!r}; {_nearest(str(name), methods)}")
    return methods[name]


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(sorted(known)) or 'nothing'}"


def _known_keys(values: Any, known: set[str], where: str, path: str) -> None:
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: '{path or 'recipe'}' must be `key: value` lines, got {values!r}")
    for key in values:
        if key not in known:
            full = f"{path}.{key}" if path else key
            raise UserError(f"{where}: unknown key '{full}'; {_nearest(str(key), known)}")


def _check_tokenizer(recipe: Mapping[str, Any], where: str) -> None:
    source = recipe.get("tokenizer_source")
    if "tokenizer" in recipe:
        _known_keys(recipe["tokenizer"], TOKENIZER_KEYS, where, "tokenizer")
        source = recipe["tokenizer"].get("source")
    if not isinstance(source, str):
        raise UserError(f"{where}: the tokenizer's source is missing; write `tokenizer: {{source: base}}`")
    known = {"base", "union", *names_of(recipe)}
    if source not in known:
        raise UserError(
            f"{where}: the tokenizer's source '{source}' is no model of the recipe; {_nearest(source, known)}"
        )


def _output_slices(recipe: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, output in enumerate(recipe.get("slices") or []):
        yield f"slices.{number}", output
    for name, module in (recipe.get("modules") or {}).items():
        for number, output in enumerate(module.get("slices") or []):
            yield f"modules.{name}.slices.{number}", output


def _entries(recipe: Mapping[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a `model`, and where it stands; their keys are checked on the way."""
    from mergekit import config

    places: list[tuple[str, Any, type[Any]]] = []
    for path, output in _output_slices(recipe):
        _known_keys(output, set(config.OutputSliceDefinition.model_fields), where, path)
        sources = output.get("sources") or []
        places += [(f"{path}.sources.{n}", item, config.InputSliceDefinition) for n, item in enumerate(sources)]
    for n, item in enumerate(recipe.get("models") or []):
        places.append((f"models.{n}", item, config.InputModelDefinition))
    for name, module in (recipe.get("modules") or {}).items():
        _known_keys(module, set(config.OutputModuleDefinition.model_fields), where, f"modules.{name}")
        for n, item in enumerate(module.get("models") or []):
            places.append((f"modules.{name}.models.{n}", item, config.InputModelDefinition))
    for path, item, cls in places:
        _known_keys(item, set(cls.model_fields), where, path)
        if not item.get("model"):
            raise UserError(f"{where}: '{path}' has no 'model'")
        yield path, item


def _check_inputs(method: Any, recipe: Mapping[str, Any], entries: list[tuple[str, Any]], where: str) -> None:
    from mergekit.merge_methods.base import BasePolicy

    base = recipe["base_model"]
    listed = list(dict.fromkeys(entry["model"] for _, entry in entries))
    contract = method.contract
    if contract.base is BasePolicy.IGNORED and base not in listed and recipe.get("models"):
        # mergekit would add it as one more input, without a weight.
        raise UserError(f"{where}: {method.name} merges its base_model like any other; list '{base}' under models")
    if not recipe.get("models"):
        return
    inputs = len(set(listed) | {base})
    for least, most, count, what in (
        (contract.min_inputs, contract.max_inputs, inputs, "models with the base"),
        (contract.min_non_base, contract.max_non_base, inputs - 1, "models beside the base"),
    ):
        if count < (least or 0) or (most is not None and count > most):
            wanted = f"exactly {least}" if least == most else f"at least {least}"
            raise UserError(f"{where}: {method.name} takes {wanted} {what}, the recipe names {count}")
    if len(listed) != len(entries):
        raise UserError(f"{where}: a model is listed twice under models; give each one entry")


def _parameter_blocks(
    recipe: Mapping[str, Any], entries: list[tuple[str, Any]]
) -> Iterator[tuple[str, Any, bool, bool]]:
    """(path, parameters, whether shared ones count here, whether it is the base model's) of every block."""
    yield "parameters", recipe.get("parameters"), True, False
    for path, output in _output_slices(recipe):
        yield f"{path}.parameters", output.get("parameters"), True, False
    for name, module in (recipe.get("modules") or {}).items():
        yield f"modules.{name}.parameters", module.get("parameters"), True, False
    for path, entry in entries:
        yield f"{path}.parameters", entry.get("parameters"), False, entry["model"] == recipe["base_model"]


def _check_parameters(method: Any, parameters: Any, where: str, shared_place: bool, is_base: bool) -> None:
    from mergekit.merge_methods.base import ParameterScope

    if parameters is None:
        return
    known = {parameter.name: parameter for parameter in method.parameters}
    if not isinstance(parameters, Mapping):
        raise UserError(f"{where} must be `name: value` lines, got {parameters!r}")
    for name, value in parameters.items():
        if name not in known:
            raise UserError(f"{where}: {method.name} has no parameter '{name}'; {_nearest(str(name), known)}")
        scope = known[name].scope
        if not shared_place and scope is ParameterScope.SHARED:
            raise UserError(
                f"{where}: '{name}' is one for the whole merge, mergekit does not look for it here; "
                "move it to the parameters at the end of the recipe"
            )
        if is_base and scope is ParameterScope.NON_BASE:
            raise UserError(f"{where}: '{name}' means nothing for the base model; remove it")
        for scalar in _scalars(value, f"{where}.{name}"):
            _check_scalar(known[name], scalar, f"{where}.{name}")


def _scalars(value: Any, where: str) -> Iterator[Any]:
    """The scalars of a setting: itself, a gradient's, or those of filtered values."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, Mapping):
            _known_keys(item, {"value", "filter"}, where, "")
            yield from _scalars(item.get("value"), where)
        else:
            yield item


def _check_scalar(parameter: Any, value: Any, where: str) -> None:
    try:
        checked = parameter.validate(value)
    except ValueError:
        raise UserError(f"{where}: {value!r} is not a valid value; it needs a {parameter.value_type}") from None
    if parameter.name in {"t", "density", "gamma", "epsilon"} and not 0 <= checked <= 1:
        raise UserError(f"{where}: {value!r} is a share; choose it between 0 and 1")


def _check_required(method: Any, recipe: Mapping[str, Any], entries: list[tuple[str, Any]], where: str) -> None:
    """Required parameters, and `density`: left out it is 1.0, which prunes nothing and makes TIES a plain sum."""
    from mergekit.merge_methods.base import ParameterScope

    sparse = method.name not in {"task_arithmetic"}
    for parameter in method.parameters:
        if not parameter.required and not (parameter.name == "density" and sparse):
            continue
        why = "" if parameter.required else " (mergekit's default of 1.0 prunes nothing; write it if you mean it)"
        if any(
            parameter.name in (block or {}) for _, block, everywhere, _ in _parameter_blocks(recipe, []) if everywhere
        ):
            continue
        if parameter.scope is ParameterScope.SHARED:
            raise UserError(f"{where}: {method.name} needs parameters.{parameter.name}{why}")
        for path, entry in entries:
            exempt = entry["model"] == recipe["base_model"] and parameter.scope is ParameterScope.NON_BASE
            if not exempt and parameter.name not in (entry.get("parameters") or {}):
                raise UserError(f"{where}: {method.name} needs {path}.parameters.{parameter.name}{why}")

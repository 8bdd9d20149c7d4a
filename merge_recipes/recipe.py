"""Merge recipes: plain mergekit YAML, read strictly.

mergekit ignores a key or parameter that it does not know, and a shared parameter that stands below a model; both leave
a merge that is not the one that was asked for. So everything is checked here against what mergekit knows (methods.py),
and a recipe names its models (`base`, `pubmed`, …) instead of their folders.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from medsmith.yaml_files import read_yaml
from merge_recipes import strict
from merge_recipes.methods import METHODS
from merge_recipes.numbers import conflict, numbers_for


def load_recipe(path: Path) -> dict[str, Any]:
    """Read and check a recipe.

    Raises:
        UserError: an unknown key, method or parameter (the nearest one is named), a parameter in a place where mergekit
            would not look, a value that is none, a missing required one, no base_model, or no tokenizer source.
    """
    recipe = read_yaml(path)
    check_recipe(recipe, str(path))
    return recipe


def check_recipe(recipe: Mapping[str, Any], where: str) -> None:
    """Check a recipe that is already read; see load_recipe."""
    strict.check(recipe, where)
    if not recipe.get("models"):
        return
    # Which tensors there are is known only with the models (numbers.check_numbers); here one stands for each filter,
    # at both ends of the layers.
    for part in ("", *sorted(filters_of(recipe))):
        for layer in (0, 1):
            try:
                numbers = numbers_for(recipe, part, layer, layers=2)
            except UserError:  # no value for a tensor that there may not be
                continue
            if found := conflict(METHODS[recipe["merge_method"]], numbers):
                raise UserError(f"{where}: {found}")


def names_of(recipe: Mapping[str, Any]) -> list[str]:
    """The names of all models that a recipe uses, the base first, each once, in the order of mention."""
    groups = strict.groups(recipe, "the recipe")
    mentioned = [recipe["base_model"], *(entry["model"] for group in groups for _, entry in group.entries)]
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

    for group in strict.groups(resolved, "the recipe"):
        for _, entry in group.entries:
            entry["model"] = reference(entry["model"])
    resolved["base_model"] = reference(resolved["base_model"])
    for output in strict.output_slices(resolved, "the recipe"):
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
        raise UserError(f"space: the recipe has no '{path}'; {hint}Set a first value there in the recipe")
    return changed


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

"""Recipes that leave layers of one model out: the slices for a list of layers, and the list for slices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsmith.layers import KEY, compose
from medsmith.records import write_json

PER_LAYER = ("layer_types", "mlp_layer_types")
"""Lists in a configuration with one entry for each layer."""


def recipe_for(kept: Sequence[int], dtype: str | None = None) -> dict[str, Any]:
    """A mergekit recipe that keeps these layers of the model called `base`, in this order."""
    return {
        "merge_method": "passthrough",
        "base_model": "base",
        "tokenizer": {"source": "base"},
        "slices": [
            {"sources": [{"model": "base", "layer_range": [first, end]}]} for first, end in _ranges(kept)
        ],
        **({"dtype": dtype} if dtype else {}),
    }  # fmt: skip


def _ranges(kept: Sequence[int]) -> list[list[int]]:
    """[first, end] of each run of neighbours."""
    found: list[list[int]] = []
    for layer in kept:
        if found and found[-1][1] == layer:
            found[-1][1] += 1
        else:
            found.append([layer, layer + 1])
    return found


def layers_of(recipe: Mapping[str, Any]) -> list[int] | None:
    """The layers that a recipe stacks, as they are numbered in its base; None where other models or modules mix in."""
    if recipe["merge_method"] != "passthrough" or not recipe.get("slices"):
        return None
    sources = [source for output in recipe["slices"] for source in output["sources"]]
    if any(source["model"] != recipe["base_model"] for source in sources):
        return None
    return [layer for source in sources for layer in range(*source["layer_range"])]


def note_kept(recipe: Mapping[str, Any], base: Path, target: Path) -> None:
    """Say in a result's config.json which layers of its base it keeps, where it keeps the base's layers alone."""
    kept = layers_of(recipe)
    if kept is None:
        return
    parent, config = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (base, target))
    depth = parent.get("text_config", parent)["num_hidden_layers"]
    write_json(target / "config.json", {**config, KEY: compose(parent.get(KEY), kept, depth)})

"""Look at experts before they are merged: how far from the base, how alike, where in conflict, what a recipe keeps.

    python -m merge_recipes.inspect out=out/inspect base=… models.pubmed=… models.clinical=… [recipe=…]

Writes `table.md` to read, `table.json` with every number (in all, by layer, by kind of module, by tensor) and
`inspect.png`. One tensor is in work at a time, over mapped files: memory is a few times the largest tensor. Nothing is
loaded as a model, and nothing is scored: that two experts agree in their changes does not say that a merge is good.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from medsmith import config, run
from medsmith.command import run_command
from medsmith.config import ModelRef
from medsmith.errors import UserError
from medsmith.progress import Bar
from medsmith.records import write_json
from merge_recipes.geometry import FLOATS, Array, Tally, count_changes, kind_order, place_of, summarise, tally_tensor
from merge_recipes.stream import Merger
from merge_recipes.weights import Weights

LOG = logging.getLogger(__name__)

BASE = "base"
"""What a recipe must call the base."""

PREDICTING = ".predicting"
"""Where mergekit merges for a prediction; hidden, so that it never counts as a result."""


class Config(config.Config):
    """A base, models that were trained from it, and perhaps a recipe."""

    libraries: ClassVar[tuple[str, ...]] = ("matplotlib", "mergekit", "numba", "numpy")

    base: ModelRef = Field(description="the folder or hub id of the model from which all experts were trained")
    models: dict[str, ModelRef] = Field(min_length=1, description="the folder or hub id of each expert, by name")
    recipe: Path | None = Field(
        None, description="a mergekit recipe: what would it keep of each expert? It calls the base `base`, the experts "
        "as here"
    )  # fmt: skip
    top: float = Field(0.1, gt=0, le=1, description="the share of a tensor's changes that counts as the largest")


class Prediction(NamedTuple):
    """What a recipe makes of one tensor."""

    merged: Array
    """The merged values, flat."""
    kept: Array
    """How many of each expert's changes are left before any vote; NaN where that is not known."""


Predict = Callable[[str], Prediction | None]


def main(settings: Config) -> Path:
    """Check the models, measure tensor by tensor, write tables and picture."""
    from merge_recipes.parents import check_parents, find_folders
    from merge_recipes.pictures import draw
    from merge_recipes.wording import lines_of, to_markdown

    recipe = _read_recipe(settings)
    with run.start(settings, "merge_recipes.inspect") as this:
        folders = find_folders({BASE: settings.base, **settings.models})
        check_parents(folders, BASE)
        opened = Merger(folders, BASE)
        with _prediction(recipe, opened, folders, settings) as predict:
            tallies = measure(opened.weights, settings.top, predict)
        table = tabulate(tallies, list(settings.models), settings.top, recipe)
        table["notes"] = _notes(opened.weights)
        write_json(this.folder / "table.json", table)
        (this.folder / "table.md").write_text(to_markdown(table), encoding="utf-8")
        draw(table, this.folder / "inspect.png")
        for line in [*table["notes"], *lines_of(table)]:
            LOG.info("%s", line)
        return this.finish(models=len(folders), tensors=len(tallies), parameters=table["total"]["parameters"])


def measure(weights: Mapping[str, Weights], top: float, predict: Predict = lambda name: None) -> dict[str, Tally]:
    """The tally of every tensor of weights, by name. The base is among the models as `base`, the rest are experts."""
    experts = [name for name in weights if name != BASE]
    found = {}
    with Bar("inspect", total=len(weights[BASE]), unit="tensors") as bar:
        for name, base in weights[BASE].items():
            if base.dtype in FLOATS and base.data.size:
                tensors = [weights[expert][name] for expert in experts]
                found[name] = tally_tensor(base, tensors, top, *(predict(name) or ()))
            bar.advance(note=name)
    return found


def tabulate(
    tallies: Mapping[str, Tally], experts: Sequence[str], top: float, recipe: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What table.json holds: `total`, `layers`, `kinds`, `cells` (a kind in a layer) and `tensors`, each summarised.

    Matrices have the experts in the order of `experts`; layer None is what stands outside of layers.
    """
    places = {name: place_of(name) for name in tallies}
    layers: dict[Any, Tally] = {}
    kinds: dict[Any, Tally] = {}
    cells: dict[Any, Tally] = {}
    for name, tally in tallies.items():
        place = places[name]
        for group, key in ((layers, place.layer), (kinds, place.kind), (cells, place)):
            group[key] = group[key] + tally if key in group else tally

    def say(tally: Tally) -> dict[str, Any]:
        return summarise(tally, experts, predicted=recipe is not None)

    def depth(layer: int | None) -> float:
        return float("inf") if layer is None else layer

    whole = list(layers.values())
    by_cell = sorted(cells, key=lambda place: (depth(place.layer), kind_order(place.kind)))
    return {
        "experts": list(experts),
        "top": top,
        "recipe": recipe,
        "total": say(sum(whole[1:], start=whole[0])),
        "layers": [{"layer": layer, **say(layers[layer])} for layer in sorted(layers, key=depth)],
        "kinds": [{"kind": kind, **say(kinds[kind])} for kind in sorted(kinds, key=kind_order)],
        "cells": [{**place._asdict(), **say(cells[place])} for place in by_cell],
        "tensors": [{"name": name, **places[name]._asdict(), **say(tallies[name])} for name in sorted(tallies)],
    }


def _read_recipe(settings: Config) -> dict[str, Any] | None:
    from merge_recipes.recipe import load_recipe, names_of

    if BASE in settings.models:
        raise UserError(f"models.{BASE}: the base is given as {BASE}=FOLDER; give the experts alone as models")
    if settings.recipe is None:
        return None
    recipe = load_recipe(settings.recipe)
    if recipe["base_model"] != BASE:
        raise UserError(
            f"{settings.recipe}: base_model is '{recipe['base_model']}', and the base is called '{BASE}' here; write "
            f"base_model: {BASE} in the recipe"
        )
    for name in names_of(recipe)[1:]:
        if name not in settings.models:
            raise UserError(f"the recipe names a model '{name}'; set models.{name}=FOLDER")
    return recipe


@contextmanager
def _prediction(
    recipe: Mapping[str, Any] | None, merger: Merger, folders: Mapping[str, Path], settings: Config
) -> Iterator[Predict]:
    """What the recipe makes of each tensor: by the streaming engine in memory, else by mergekit in a scratch folder."""
    if recipe is None:
        yield lambda name: None
        return
    from merge_recipes.numbers import check_numbers
    from merge_recipes.parents import check_filters, tensor_shapes
    from merge_recipes.recipe import filters_of

    shapes = tensor_shapes(folders[BASE])
    check_filters(filters_of(recipe), shapes)
    if recipe.get("models"):
        check_numbers(recipe, shapes)
    reason = merger.refuses(recipe)
    if reason is None:

        def predict(name: str) -> Prediction:
            kept = _count_kept(merger, recipe, name, settings)
            return Prediction(merger.tensor(recipe, name, settings.seed), kept)

        yield predict
        return
    LOG.info("%s: it merges aside, for this prediction alone", reason)
    unknown = np.full(len(settings.models), np.nan)
    with _merged_aside(recipe, folders, settings) as merged:
        yield lambda name: Prediction(merged[name].float32(), unknown)


def _count_kept(merger: Merger, recipe: Mapping[str, Any], name: str, settings: Config) -> Array:
    """How many changes of each expert a method that thins out leaves: those that it makes of this expert alone."""
    from merge_recipes.methods import METHODS

    counts = np.full(len(settings.models), np.nan)
    if not any(one.name == "density" and not one.idle for one in METHODS[recipe["merge_method"]].own):
        return counts
    entries = {entry["model"]: entry for entry in recipe["models"]}
    for place, expert in enumerate(settings.models):
        if expert in entries:
            entry = {"model": expert, "parameters": {**entries[expert].get("parameters", {}), "weight": 1.0}}
            everywhere = {**recipe.get("parameters", {}), "normalize": False, "rescale": False, "lambda": 1.0}
            alone = {**recipe, "models": [entry], "parameters": everywhere}
            counts[place] = count_changes(merger.weights[BASE][name], merger.tensor(alone, name, settings.seed))
    return counts


@contextmanager
def _merged_aside(recipe: Mapping[str, Any], folders: Mapping[str, Path], settings: Config) -> Iterator[Weights]:
    from merge_recipes.merge import merge
    from merge_recipes.parents import check_room, tensor_shapes

    scratch = settings.out / PREDICTING
    shapes = tensor_shapes(folders[BASE])
    check_room(settings.out, shapes, "float32")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    # In float32, so that the changes of a merge are not hidden by its rounding.
    exact = {key: value for key, value in recipe.items() if key != "out_dtype"}
    try:
        merge(exact, folders, scratch, "float32", settings.seed)
        merged = Weights(scratch)
        differ = sorted(name for name in shapes.keys() | merged.keys() if merged.shapes.get(name) != shapes.get(name))
        if differ:
            raise UserError(
                f"{settings.recipe}: the merge has '{differ[0]}' as {merged.shapes.get(differ[0])}, the base as "
                f"{shapes.get(differ[0])}; only a merge of the base's own shape can be compared with the experts"
            )
        yield merged
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _notes(weights: Mapping[str, Weights]) -> list[str]:
    """What a reader must know to read the numbers rightly."""

    def stored(name: str) -> str:
        """The coarsest type among its weights."""
        return min(
            (tensor.dtype for tensor in weights[name].values() if tensor.dtype in FLOATS), key=FLOATS.__getitem__
        )

    return [
        f"{name} is stored as {stored(name)}, the base as {stored(BASE)}: what rounding did counts as a change"
        for name in weights
        if FLOATS[stored(name)] < FLOATS[stored(BASE)]
    ]


if __name__ == "__main__":
    run_command(main, Config)

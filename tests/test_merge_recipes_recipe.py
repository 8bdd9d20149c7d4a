"""Recipes are read strictly: what mergekit would ignore is refused, with the word that was meant."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsmith.config import load
from medsmith.errors import UserError
from merge_recipes import recipe as recipes
from merge_recipes import search, space

FOLDER = Path(__file__).parents[1] / "merge_recipes"


def breadcrumbs(**changes: Any) -> dict[str, Any]:
    """A small right recipe, with top-level keys changed (None removes one)."""
    whole = {
        "merge_method": "breadcrumbs",
        "base_model": "base",
        "tokenizer": {"source": "base"},
        "models": [
            {"model": "pubmed", "parameters": {"weight": 0.5, "density": 0.5, "gamma": 0.1}},
            {"model": "clinical", "parameters": {"weight": 0.5, "density": 0.5, "gamma": 0.1}},
        ],
        "parameters": {"normalize": False},
        "dtype": "float32",
    } | changes
    return {key: value for key, value in whole.items() if value is not None}


def one_model(**parameters: Any) -> list[dict[str, Any]]:
    return [{"model": "pubmed", "parameters": parameters}]


KARCHER = {"models": [{"model": "base"}, {"model": "a"}]}
LINEAR = {"merge_method": "linear", "parameters": {}}


def two_weights(first: Any, second: Any) -> dict[str, Any]:
    weights = {"pubmed": first, "clinical": second}
    models = [{"model": name, "parameters": {"weight": weight, "density": 1}} for name, weight in weights.items()]
    return {"models": models}


def test_every_recipe_in_the_folder_loads() -> None:
    """Each recipe is right for mergekit, names its base, and every search's grid lies in its recipe."""
    found = sorted(FOLDER.glob("*.yml"))
    assert {path.stem for path in found} >= {"slerp", "task_arithmetic", "ties", "breadcrumbs", "linear", "mediphi"}
    for path in found:
        recipe = recipes.load_recipe(path)
        assert recipes.names_of(recipe)[0] == recipe["base_model"] == "base"
    searches = sorted((FOLDER / "searches").glob("*.yml"))
    assert len(searches) >= 2
    for path in searches:
        values = yaml.safe_load(path.read_text()) | {"out": "x", "models": {"base": "y/z"}, "validation": ["v.jsonl"]}
        settings = load(search.Config, values)
        recipe = recipes.load_recipe(settings.recipe)
        axes = space.axes_of(recipe, settings.space)
        space.check_corners(recipe, settings.space, axes, path.name)
        assert len(axes) >= 1 and len({axis.name for axis in axes}) == len(axes)


def one_slice(**source: Any) -> dict[str, Any]:
    return {"models": None, "slices": [{"sources": [{"model": "base", **source}]}]}


def stacked(*slices: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A passthrough of slices."""
    return {"merge_method": "passthrough", "models": None, "parameters": None, "slices": list(slices), **changes}


def source(model: str = "base", first: int = 0, end: int = 1) -> dict[str, Any]:
    return {"sources": [{"model": model, "layer_range": [first, end]}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # Keys and names
        ({"merge_metod": "ties"}, "unknown key 'merge_metod'; did you mean 'merge_method'?"),
        ({"parametres": {}}, "unknown key 'parametres'; did you mean 'parameters'?"),
        ({"colour": 1}, "unknown key 'colour'; known here: base_model, chat_template, dtype"),
        ({"merge_method": "breadcrumb"}, "unknown merge_method 'breadcrumb'; did you mean 'breadcrumbs'?"),
        ({"merge_method": None}, "unknown merge_method None"),
        ({"merge_method": ["ties"]}, "unknown merge_method ['ties']; did you mean 'ties'?"),
        ({"base_model": None}, "'base_model' is missing"),
        ({"models": [{"modle": "pubmed"}]}, "unknown key 'models.0.modle'; did you mean 'model'?"),
        ({"models": [{"parameters": {}}]}, "'models.0' has no 'model'"),
        ({"models": ["pubmed"]}, "'models.0' must be `key: value` lines, got 'pubmed'"),
        ({"models": {"pubmed": 1}}, "'models' must be a list, got {'pubmed': 1}"),
        ({"models": None}, "exactly one of models, slices or modules (found: none)"),
        ({"slices": [source()]}, "exactly one of models, slices or modules (found: models, slices)"),
        ({"dtype": "flaot32"}, "unknown dtype 'flaot32'; did you mean 'float32'?"),
        ({"out_dtype": "bf16"}, "unknown out_dtype 'bf16'; did you mean 'bfloat16'?"),
        ({"chat_template": 3}, "'chat_template' must be text, got 3"),
        # The tokenizer
        ({"tokenizer": None}, "tokenizer's source is missing"),
        ({"tokenizer": {"source": "bass"}}, "source 'bass' is no model of the recipe; did you mean 'base'?"),
        ({"tokenizer": {"source": "base", "pad_to": 1}}, "unknown key 'tokenizer.pad_to'; known here: source"),
        ({"tokenizer": {"source": "base", "tokens": {}}}, "unknown key 'tokenizer.tokens'; it rearranges a vocabulary"),
        ({"tokenizer_source": "base"}, "either tokenizer or tokenizer_source"),
        # Parameters: names and places
        ({"parameters": {"lamda": 1.0}}, "breadcrumbs has no parameter 'lamda'; did you mean 'lambda'?"),
        ({"models": one_model(weight=0.5, densty=0.5)}, "no parameter 'densty'; did you mean 'density'?"),
        ({"models": one_model(weight=0.5, density=0.5, gama=0.1)}, "no parameter 'gama'; did you mean 'gamma'?"),
        ({"models": one_model(density=0.5)}, "breadcrumbs needs models.0.parameters.weight"),
        (
            {"models": one_model(weight=0.5)},
            "needs models.0.parameters.density (mergekit's default of 1.0 prunes nothing",
        ),
        ({"models": one_model(weight=0.5, density=0.5, normalize=True)}, "'normalize' is one for the whole merge"),
        ({"models": [{"model": "base", "parameters": {"weight": 1.0}}]}, "'weight' means nothing for the base model"),
        ({"parameters": [1]}, "parameters must be `name: value` lines, got [1]"),
        ({"models": [{"model": "pubmed", "parameters": [1]}]}, "models.0.parameters must be `name: value` lines"),
        (
            {"merge_method": "task_arithmetic", "models": one_model(weight=1, density=0.5)},
            "models.0.parameters.density: task_arithmetic drops nothing, so mergekit ignores 'density'",
        ),
        # Parameters: values
        ({"models": one_model(weight="much", density=0.5)}, "'much' is not a valid value; it needs a number"),
        ({"models": one_model(weight=True, density=0.5)}, "True is not a valid value; it needs a number"),
        ({"models": one_model(weight=math.nan, density=0.5)}, "models.0.parameters.weight: nan is not a finite number"),
        ({"models": one_model(weight=0.5, density=0.5, gamma=-math.inf)}, "-inf is not a finite number"),
        ({"models": one_model(weight=None, density=0.5)}, "models.0.parameters.weight: a value is missing"),
        ({"models": one_model(weight=[], density=0.5)}, "models.0.parameters.weight: a value is missing"),
        ({"models": one_model(weight=0.5, density=-0.1)}, "-0.1 is a share; choose it between 0 and 1"),
        ({"models": one_model(weight=0.5, density=[0.5, 1.5])}, "1.5 is a share; choose it between 0 and 1"),
        (
            {"parameters": {"normalize": "often"}},
            "parameters.normalize: 'often' is not a valid value; it needs true or",
        ),
        ({"parameters": {"normalize": 1}}, "1 is not a valid value; it needs true or false"),
        ({"parameters": {"lambda": {"value": "high"}}}, "parameters.lambda: 'high' is not a valid value"),
        (
            {"merge_method": "karcher", "parameters": {"max_iter": 0.5}, **KARCHER},
            "0.5 is not a valid value; it needs a whole",
        ),
        ({"merge_method": "karcher", "parameters": {"max_iter": 0}, **KARCHER}, "0 is out of range; it needs a whole"),
        (
            {"merge_method": "karcher", "parameters": {"tol": -1.0}, **KARCHER},
            "-1.0 is out of range; it needs a number that",
        ),
        # Filters
        (
            {"models": one_model(weight=[{"filtr": "mlp", "value": 1}], density=1)},
            "unknown key 'filtr'; did you mean 'filter'?",
        ),
        ({"models": one_model(weight=[{"filter": "mlp"}], density=1)}, "weight: a value is missing"),
        (
            {"models": one_model(weight=[{"filter": "mlp", "value": 1}, 0.5], density=1)},
            "either plain numbers or filtered",
        ),
        (
            {"models": one_model(weight=[{"filter": 3, "value": 1}], density=1)},
            "a filter is a part of tensors' names, got 3",
        ),
        (
            {"models": one_model(weight=[{"value": 1}, {"filter": "mlp", "value": 2}], density=1)},
            "what follows the one for all is never used",
        ),
        # Numbers that do not go together
        (
            {**two_weights(1.0, -1.0), "parameters": {"normalize": True}},
            "the weights sum to 0 and are divided by their sum",
        ),
        (
            {**two_weights([{"filter": "mlp", "value": -1.0}, {"value": 1.0}], 1.0), "parameters": {"normalize": True}},
            "sum to 0",
        ),
        ({**two_weights([1.0, -1.0], 1.0), "parameters": {"normalize": True}}, "sum to 0"),
        (
            {**LINEAR, "models": [{"model": m, "parameters": {"weight": 0}} for m in ("base", "a")]},
            "the weights sum to 0",
        ),
        (
            {"merge_method": "della", "models": one_model(weight=1, density=0.9, epsilon=0.2)},
            "'pubmed': density 0.9 ± epsilon 0.2 leaves 0 to 1; choose a smaller epsilon",
        ),
        # How many models
        (
            {"merge_method": "slerp", "parameters": {"t": 0.5}, "models": [{"model": "a"}, {"model": "b"}]},
            "exactly 2 models",
        ),
        ({"merge_method": "slerp", "parameters": {}, "models": [{"model": "a"}]}, "slerp needs parameters.t"),
        (
            {"merge_method": "model_stock", "parameters": {}, "models": [{"model": "a"}]},
            "at least 3 models with the base",
        ),
        ({**LINEAR, "models": one_model(weight=1.0)}, "list 'base' under models"),
        ({"models": [*one_model(weight=1, density=1), *one_model(weight=1, density=1)]}, "listed twice under models"),
        # Slices and modules
        (stacked({"sources": []}), "'slices.0' has no 'sources'"),
        (stacked({"source": []}), "unknown key 'slices.0.source'; did you mean 'sources'?"),
        (stacked({**source(), "residual_weight": 0.5}), "'slices.0.residual_weight'; mergekit never reads it"),
        (stacked({"sources": [{"model": "base"}]}), "'slices.0.sources.0.layer_range' must be [FIRST, END]"),
        (stacked(source(first=False, end=True)), "got [False, True]"),
        (
            stacked(source(first=2, end=2)),
            "must be [FIRST, END], the layers from FIRST up to but without END; got [2, 2]",
        ),
        (stacked({"sources": [*source()["sources"], *source("a")["sources"]]}), "exactly 1 models"),
        (
            stacked(source(), {**source(), "parameters": {"scal": 2}}),
            "slices.1.parameters: passthrough has no parameter 'scal'",
        ),
        (
            stacked({**source(), "base_model": "other"}),
            "the base model 'other' must be one of slices.0.sources; list it there",
        ),
        (
            {"models": None, "slices": [source("pubmed")]},
            "the base model 'base' must be one of slices.0.sources; list it there",
        ),
        (
            {**LINEAR, "models": None, "slices": [{"sources": [*source()["sources"], *source("a", 0, 2)["sources"]]}]},
            "slices.0.sources take [1, 2] layers; a slice has the same number from each",
        ),
        (
            {**LINEAR, "models": None, "slices": [{**source(), "parameters": {"weight": 1}}, source()]},
            "linear needs slices.1.sources.0.parameters.weight",
        ),
        ({"models": None, "modules": {"text": {"parameters": {}}}}, "'modules.text' needs either slices or models"),
        ({"models": None, "modules": ["text"]}, "'modules' must be `name: block` lines"),
        (
            {"models": None, "modules": {"text": {"modles": []}}},
            "'modules.text.modles'; did you mean 'models'?",
        ),
    ],
)
def test_what_mergekit_would_ignore_or_fail_on_is_refused(changes: dict[str, Any], message: str) -> None:
    """A misspelt or misplaced key, and a number that is none, end in one line that says what to write."""
    recipes.check_recipe(breadcrumbs(), "r.yml")
    with pytest.raises(UserError) as caught:
        recipes.check_recipe(breadcrumbs(**changes), "r.yml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("r.yml: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"models": one_model(weight="2.0e-1", density="0.5")},
        {"models": one_model(weight=-0.5, density=[1, 0.5], gamma=[{"filter": "mlp", "value": 0}, {"value": 0.1}])},
        {"models": one_model(weight=0.5, density=0.5), "parameters": {"lambda": 0}},
        {"models": one_model(weight=0.0, density=0.0), "parameters": {"normalize": True}},
        {"tokenizer": None, "tokenizer_source": "union", "chat_template": "chatml", "out_dtype": "bfloat16"},
        stacked(source(), source(first=1, end=2), source(first=1, end=2)),
        stacked({**source(), "parameters": {"scale": 0.5}}),
        {**LINEAR, "models": None, "parameters": {"weight": 1}, "slices": [source(), source()]},
        {"models": None, "modules": {"text": {"models": breadcrumbs()["models"], "parameters": {"lambda": 0.5}}}},
    ],
)
def test_what_makes_sense_is_taken(changes: dict[str, Any]) -> None:
    """Numbers as text, ends of ranges, filters, slices and modules are right, for us and for mergekit's schema."""
    from mergekit.config import MergeConfiguration

    recipes.check_recipe(breadcrumbs(**changes), "r.yml")
    MergeConfiguration.model_validate(breadcrumbs(**changes))


GARBAGE = [None, 3, -0.5, "x", "", [], {}, [1], [{"value": 1}], {"a": 1}, True, math.nan, [None], "base"]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a recipe."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


@pytest.mark.parametrize(
    "changes", [{}, stacked(source(), {**source(), "base_model": "base", "parameters": {"scale": 1}})]
)
def test_garbage_is_refused_or_means_something_to_mergekit(changes: dict[str, Any]) -> None:
    """Put anything anywhere: it is refused by one line, or mergekit's own schema takes it too."""
    from mergekit.config import MergeConfiguration

    recipe = breadcrumbs(**changes)
    refused = taken = 0
    for place in places(recipe):
        for garbage in GARBAGE:
            changed = put(recipe, place, garbage)
            try:
                recipes.check_recipe(changed, "r.yml")
            except UserError as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                MergeConfiguration.model_validate(changed)
                taken += 1
    assert refused > taken > 10


def test_values_are_set_by_wildcard_number_and_name() -> None:
    """`*` reaches every entry that has the value, a name only its own; the recipe itself stays as it was."""
    recipe = breadcrumbs(models=[{"model": "base"}, *breadcrumbs()["models"]])

    def weights(changed: dict[str, Any]) -> list[float]:
        return [entry.get("parameters", {}).get("weight", -1) for entry in changed["models"]]

    assert weights(recipes.assign(recipe, "models.*.parameters.weight", 0.2)) == [-1, 0.2, 0.2]
    assert weights(recipes.assign(recipe, "models.clinical.parameters.weight", 0.2)) == [-1, 0.5, 0.2]
    assert weights(recipes.assign(recipe, "models.1.parameters.weight", 0.2)) == [-1, 0.2, 0.5]
    assert weights(recipe) == [-1, 0.5, 0.5]
    with pytest.raises(UserError, match=r"no 'models.\*.parameters.wait'; did you mean 'models.\*.parameters.weight'"):
        recipes.assign(recipe, "models.*.parameters.wait", 0.2)


def test_resolved_recipe_has_absolute_folders_and_keeps_mergekit_off_the_vocabulary(tmp_path: Path) -> None:
    """Paths with + and @ reach mergekit whole; the tokenizer block, which would cut the vocabulary, does not."""
    from mergekit.config import MergeConfiguration

    folders = {name: tmp_path / f"{name}+1@2" for name in ("base", "pubmed", "clinical")}
    resolved = MergeConfiguration.model_validate(recipes.resolve(breadcrumbs(), folders, "bfloat16"))
    assert resolved.base_model is not None and resolved.models is not None
    assert resolved.base_model.model.path == str(tmp_path / "base+1@2")
    assert [entry.model.model.path for entry in resolved.models][0] == str(tmp_path / "pubmed+1@2")
    assert resolved.tokenizer is None and resolved.tokenizer_source is None and resolved.dtype == "bfloat16"

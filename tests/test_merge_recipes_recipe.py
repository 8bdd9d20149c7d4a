"""Recipes are read strictly: what mergekit would ignore is refused, with the word that was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medsmith.config import load
from medsmith.errors import UserError
from merge_recipes import recipe as recipes
from merge_recipes import search

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


def test_every_recipe_in_the_folder_loads() -> None:
    """Each recipe is right for mergekit, names its base, and every search's grid lies in its recipe."""
    found = sorted(FOLDER.glob("*.yml"))
    assert {path.stem for path in found} >= {"slerp", "task_arithmetic", "ties", "breadcrumbs", "linear"}
    for path in found:
        recipe = recipes.load_recipe(path)
        assert recipes.names_of(recipe)[0] == recipe["base_model"] == "base"
    searches = sorted((FOLDER / "searches").glob("*.yml"))
    assert len(searches) >= 2
    for path in searches:
        values = yaml.safe_load(path.read_text()) | {"out": "x", "models": {"base": "y/z"}, "validation": ["v.jsonl"]}
        settings = load(search.Config, values)
        trials = search.plan_trials(recipes.load_recipe(settings.recipe), settings, [])
        assert len({trial.id for trial in trials.values()}) == len(recipes.combinations(settings.grid)) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge_metod": "ties"}, "unknown key 'merge_metod'; did you mean 'merge_method'"),
        ({"merge_method": "breadcrumb"}, "did you mean 'breadcrumbs'"),
        ({"base_model": None}, "'base_model' is missing"),
        ({"tokenizer": None}, "tokenizer's source is missing"),
        ({"tokenizer": {"source": "bass"}}, "did you mean 'base'"),
        ({"tokenizer": {"source": "base", "pad_to": 1}}, "unknown key 'tokenizer.pad_to'"),
        ({"parameters": {"lamda": 1.0}}, "no parameter 'lamda'; did you mean 'lambda'"),
        ({"parameters": {"normalize": "often"}}, "'often' is not a valid value"),
        ({"models": one_model(weight=0.5, density=0.5, gama=0.1)}, "no parameter 'gama'; did you mean 'gamma'"),
        ({"models": one_model(weight=0.5, density=1.5)}, "1.5 is a share; choose it between 0 and 1"),
        ({"models": one_model(density=0.5)}, "needs models.0.parameters.weight"),
        ({"models": one_model(weight=0.5)}, "needs models.0.parameters.density .*default of 1.0 prunes nothing"),
        ({"models": one_model(weight=0.5, density=0.5, normalize=True)}, "'normalize' is one for the whole merge"),
        ({"models": [{"model": "base", "parameters": {"weight": 1.0}}]}, "'weight' means nothing for the base model"),
        ({"models": [{"modle": "pubmed"}]}, "unknown key 'models.0.modle'; did you mean 'model'"),
        ({"models": one_model(weight=[{"filtr": "mlp", "value": 1}], density=1)}, "unknown key 'filtr'"),
        ({"models": None}, "exactly one of models, slices or modules"),
        ({"merge_method": "slerp", "parameters": {"t": 0.5}, "models": [{"model": "a"}, {"model": "b"}]}, "exactly 2"),
        ({"merge_method": "linear", "models": one_model(weight=1.0)}, "list 'base' under models"),
    ],
)
def test_what_mergekit_would_ignore_is_refused(changes: dict[str, Any], message: str) -> None:
    """A misspelt or misplaced key ends in one line that says what to write."""
    recipes.check_recipe(breadcrumbs(), "r.yml")
    with pytest.raises(UserError, match=message) as caught:
        recipes.check_recipe(breadcrumbs(**changes), "r.yml")
    assert "\n" not in str(caught.value)


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


def test_grid_is_every_combination_in_order() -> None:
    """Two paths of two and three values are six combinations, the first values first."""
    found = recipes.combinations({"a": [1, 2], "b": [3, 4, 5]})
    assert found[:2] == [{"a": 1, "b": 3}, {"a": 1, "b": 4}] and len(found) == 6
    with pytest.raises(UserError, match="no values for 'b'"):
        recipes.combinations({"a": [1], "b": []})


def test_resolved_recipe_has_absolute_folders_and_keeps_mergekit_off_the_vocabulary(tmp_path: Path) -> None:
    """Paths with + and @ reach mergekit whole; the tokenizer block, which would cut the vocabulary, does not."""
    from mergekit.config import MergeConfiguration

    folders = {name: tmp_path / f"{name}+1@2" for name in ("base", "pubmed", "clinical")}
    resolved = MergeConfiguration.model_validate(recipes.resolve(breadcrumbs(), folders, "bfloat16"))
    assert resolved.base_model is not None and resolved.models is not None
    assert resolved.base_model.model.path == str(tmp_path / "base+1@2")
    assert [entry.model.model.path for entry in resolved.models][0] == str(tmp_path / "pubmed+1@2")
    assert resolved.tokenizer is None and resolved.tokenizer_source is None and resolved.dtype == "bfloat16"

"""What a search may choose becomes a plain recipe again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medsmith.errors import UserError
from merge_recipes.recipe import check_recipe, load_recipe
from merge_recipes.space import Axis, Range, axes_of, candidate, check_corners, combinations, shown, starting_values

TIES = load_recipe(Path(__file__).parents[1] / "merge_recipes" / "ties.yml")
WEIGHT = "models.*.parameters.weight"
OF_CLINICAL = "models.clinical.parameters.weight"
EXPERTS = ["pubmed", "clinical", "medwiki", "guidelines", "medcode"]


def own(recipe: dict[str, Any], name: str) -> list[Any]:
    return [entry["parameters"][name] for entry in recipe["models"]]


def test_one_number_for_all_or_one_for_each() -> None:
    """`*` sets all models at once; with `each` every model has an axis under its name."""
    together: dict[str, Any] = {WEIGHT: Range(low=0.0, high=1.0)}
    assert [axis.name for axis in axes_of(TIES, together)] == [WEIGHT]
    assert own(candidate(TIES, together, {WEIGHT: 0.3}), "weight") == [0.3] * 5
    each: dict[str, Any] = {WEIGHT: Range(low=0.0, high=1.0, each=True)}
    names = [axis.name for axis in axes_of(TIES, each)]
    assert names == [f"models.{expert}.parameters.weight" for expert in EXPERTS]
    values = {name: number / 10 for number, name in enumerate(names)}
    assert own(candidate(TIES, each, values), "weight") == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert own(TIES, "weight") == [0.5] * 5  # the recipe itself is left alone


def test_layers_become_a_gradient_and_filters_a_list() -> None:
    """Numbers over the depth and one a kind of module stand in the recipe as mergekit writes them."""
    space: dict[str, Any] = {
        "parameters.lambda": Range(low=0.5, high=1.5, layers=3),
        "models.clinical.parameters.density": Range(low=0.1, high=0.9, layers=2, filters=["self_attn", "mlp"]),
    }
    axes = axes_of(TIES, space)
    assert [axis.name for axis in axes][:4] == [
        "parameters.lambda[0]", "parameters.lambda[1]", "parameters.lambda[2]",
        "models.clinical.parameters.density[self_attn][0]",
    ]  # fmt: skip
    values = {axis.name: (50 + number) / 100 for number, axis in enumerate(axes)}
    found = candidate(TIES, space, values)
    assert found["parameters"]["lambda"] == [0.5, 0.51, 0.52]
    assert found["models"][1]["parameters"]["density"] == [
        {"filter": "self_attn", "value": [0.53, 0.54]},
        {"filter": "mlp", "value": [0.55, 0.56]},
        {"value": [0.57, 0.58]},
    ]
    check_recipe(found, "the candidate")
    assert own(found, "density")[0] == own(TIES, "density")[0]


def test_grid_has_every_combination_and_steps() -> None:
    """Lists and stepped ranges multiply, the last axis changing fastest."""
    axes = axes_of(
        TIES, {"parameters.normalize": [True, False], "parameters.lambda": Range(low=0.5, high=1.0, step=0.25)}
    )
    assert combinations(axes) == [
        {"parameters.normalize": flag, "parameters.lambda": value}
        for flag in (True, False)
        for value in (0.5, 0.75, 1.0)
    ]


def test_the_recipes_own_numbers_come_first_where_they_fit() -> None:
    """What stands in the recipe is the first candidate; a number outside of the space, or two for one axis, is none."""
    space: dict[str, Any] = {WEIGHT: Range(low=0.0, high=1.0), "models.*.parameters.density": [0.2, 0.5]}
    axes = axes_of(TIES, space)
    assert starting_values(TIES, space, axes) == {WEIGHT: 0.5, "models.*.parameters.density": 0.5}
    far: dict[str, Any] = {WEIGHT: Range(low=0.6, high=1.0)}
    assert starting_values(TIES, far, axes_of(TIES, far)) is None
    unlike = candidate(TIES, {"models.medcode.parameters.weight": [0.9]}, {"models.medcode.parameters.weight": 0.9})
    assert starting_values(unlike, space, axes) is None


def test_a_place_of_its_own_may_stand_below_one_for_all() -> None:
    """One number for four experts and one for the fifth: the place further down counts."""
    space: dict[str, Any] = {WEIGHT: [0.1, 0.2], OF_CLINICAL: Range(low=0.5, high=1.0)}
    axes = axes_of(TIES, space)
    assert own(candidate(TIES, space, {WEIGHT: 0.1, OF_CLINICAL: 0.7}), "weight") == [0.1, 0.7, 0.1, 0.1, 0.1]
    assert [axis.name for axis in axes] == [WEIGHT, OF_CLINICAL]


def test_steps_end_where_they_reach() -> None:
    """A range ends at its last whole step, and steps are numbers that a person would write."""
    (axis,) = axes_of(TIES, {WEIGHT: Range(low=0.1, high=0.75, step=0.1)})
    assert axis.high == 0.7 and axis.values() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    fits: dict[str, Any] = {WEIGHT: Range(low=0.1, high=0.75, step=0.1)}
    assert starting_values(TIES, fits, axes_of(TIES, fits)) == {WEIGHT: 0.5}
    beside: dict[str, Any] = {WEIGHT: Range(low=0.15, high=0.75, step=0.1)}
    assert starting_values(TIES, beside, axes_of(TIES, beside)) is None
    flag: dict[str, Any] = {"parameters.normalize": [True, False]}
    assert starting_values(TIES, flag, axes_of(TIES, flag)) == {"parameters.normalize": True}
    assert starting_values(TIES, {"parameters.lambda": [True]}, axes_of(TIES, {"parameters.lambda": [True]})) is None


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "give at least one place"),
        ({WEIGHT: []}, "no values for"),
        ({"parameters.lamda": [1]}, "did you mean 'parameters.lambda'"),
        ({WEIGHT: Range(low=1, high=1)}, "from 1 to 1; low must be below high"),
        ({WEIGHT: Range(low=0, high=1, log=True)}, "spread by factor"),
        ({"parameters.lambda": Range(low=0, high=1, each=True)}, "no `\\*` for `each`"),
        ({"models.*.parameters.density": Range(low=0.5, high=1.2)}, "1.2 is a share"),
        ({WEIGHT: [0.1, "much"]}, "weight=much"),
        ({WEIGHT: Range(low=0, high=0.5, step=0.6)}, "a step of 0.6, beyond its bounds"),
        (
            {WEIGHT: Range(low=0, high=1, each=True), OF_CLINICAL: [0.5]},
            f"'{OF_CLINICAL}' stands below '{OF_CLINICAL}'",
        ),
        ({OF_CLINICAL: [0.5], WEIGHT: [0.1]}, "'models.*.parameters.weight' stands below 'models.clinical"),
    ],
)
def test_a_space_that_makes_no_recipe_is_refused(space: dict[str, Any], message: str) -> None:
    """Each with the place and the value."""
    with pytest.raises(UserError, match=message):
        check_corners(TIES, space, axes_of(TIES, space), "here")


def test_too_fine_a_grid_is_a_mistake() -> None:
    """Ten thousand steps of one number are not searched by accident."""
    with pytest.raises(UserError, match="has 10,001 steps; choose a larger step"):
        Axis("w", (), 0.0, 1.0, 1e-4).values()
    with pytest.raises(UserError, match="1,771,561 combinations"):
        combinations([Axis(str(n), (), 0.0, 1.0, 0.1) for n in range(6)])
    assert shown({"a": 0.123456, "b": True}) == "a=0.123, b=True"

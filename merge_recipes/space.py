"""The numbers of a recipe that a search may choose: places in the recipe, and what may stand there.

Every candidate is a plain mergekit recipe again: a number of its own for each expert, a gradient over the layers and
one value a kind of module are all things that mergekit's own YAML can say.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from medsmith.config import Block
from medsmith.errors import UserError
from merge_recipes.recipe import assign, check_recipe

MOST_STEPS = 1000
"""A grid over one number finer than this is a mistake."""

MOST_COMBINATIONS = 1_000_000
"""Nobody waits for a grid of more."""

DIGITS = 12
"""Steps are rounded to so many decimals, so that 0.1 + 2 x 0.1 is 0.3."""


class Range(Block):
    """Numbers between two bounds."""

    low: float = Field(allow_inf_nan=False, description="the smallest value")
    high: float = Field(allow_inf_nan=False, description="the largest value")
    step: float | None = Field(None, gt=0, allow_inf_nan=False, description="only multiples of this above `low`")
    log: bool = Field(False, description="spread evenly by factor, not by difference")
    each: bool = Field(False, description="every model that `*` stands for gets a number of its own")
    layers: int | None = Field(None, ge=2, description="so many numbers over the layers; mergekit interpolates between")
    filters: list[str] | None = Field(
        None, min_length=1, description="a number for each of these parts of tensor names, and one for the rest"
    )


Space = dict[str, list[Any] | Range]


@dataclass(frozen=True)
class Axis:
    """One number that is chosen: from `choices`, or between the bounds of `range`."""

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    def values(self) -> list[Any]:
        """Every value, for a grid.

        Raises:
            UserError: a range without a step, or with one that is far too fine.
        """
        if self.choices:
            return list(self.choices)
        if self.step is None:
            raise UserError(f"space: '{self.name}' has no step; a grid needs one, or use sampler=tpe")
        count = _steps(self.low, self.high, self.step) + 1
        if count > MOST_STEPS:
            raise UserError(f"space: '{self.name}' has {count:,} steps; choose a larger step")
        return [round(self.low + number * self.step, DIGITS) for number in range(count)]

    def fits(self, value: Any) -> bool:
        """Whether a value can be chosen."""
        flag = isinstance(value, bool)  # which Python counts among the numbers
        if self.choices:
            return any(value == choice and flag == isinstance(choice, bool) for choice in self.choices)
        if flag or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-9

    def place_of(self, value: Any) -> Any:
        """Where a value that fits stands among the choices; of a range the value itself."""
        flag = isinstance(value, bool)
        places = (n for n, choice in enumerate(self.choices) if value == choice and flag == isinstance(choice, bool))
        return next(places, value)

    def value_at(self, place: Any) -> Any:
        """The value of a place: the reverse of place_of."""
        return self.choices[place] if self.choices else place


def axes_of(recipe: Mapping[str, Any], space: Space) -> list[Axis]:
    """The numbers to choose, in the order of the space.

    Raises:
        UserError: a place that the recipe does not have, bounds the wrong way round, nothing to choose, or a place
            that is given again further down.
    """
    if not space:
        raise UserError("space: give at least one place in the recipe with values or bounds")
    axes: list[Axis] = []
    for path, choice in space.items():
        assign(recipe, path, 0)  # refuses a place that is not there
        if isinstance(choice, list):
            if not choice:
                raise UserError(f"space: no values for '{path}'")
            axes.append(Axis(path, tuple(choice)))
            continue
        if choice.low >= choice.high:
            raise UserError(f"space: '{path}' goes from {choice.low:g} to {choice.high:g}; low must be below high")
        if choice.log and (choice.low <= 0 or choice.step):
            raise UserError(f"space: '{path}' is spread by factor; that needs low above 0 and no step")
        high = choice.high
        if choice.step:  # the largest value that the steps reach
            high = round(choice.low + _steps(choice.low, high, choice.step) * choice.step, DIGITS)
            if high <= choice.low:
                raise UserError(
                    f"space: '{path}' has a step of {choice.step:g}, beyond its bounds; choose a smaller one"
                )
        for _, names in _parts(recipe, path, choice):
            axes += [Axis(name, (), choice.low, high, choice.step, choice.log) for name in names]
    _refuse_hidden(recipe, space)
    return axes


def _steps(low: float, high: float, step: float) -> int:
    return int((high - low) / step + 1e-9)


def _is_each(choice: list[Any] | Range) -> bool:
    return isinstance(choice, Range) and choice.each


def _refuse_hidden(recipe: Mapping[str, Any], space: Space) -> None:
    """UserError where a number has no effect, since places further down the space take over all that it sets."""
    taken: dict[str, str] = {}
    for path, choice in reversed(space.items()):
        places = _places(recipe, path)
        for place, concrete in [(one, [one]) for one in places] if _is_each(choice) else [(path, places)]:
            if all(one in taken for one in concrete):
                later = taken[concrete[0]]
                raise UserError(f"space: '{later}' stands below '{place}' and takes its place; leave out one of them")
            taken |= {one: path for one in concrete if one not in taken}


def candidate(recipe: Mapping[str, Any], space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with chosen values, by the names of the axes, in their places."""
    changed = dict(recipe)
    for path, choice in space.items():
        if isinstance(choice, list):
            changed = assign(changed, path, values[path])
            continue
        for place, names in _parts(recipe, path, choice):
            numbers = [values[name] for name in names]
            width = choice.layers or 1
            groups = [numbers[start : start + width] for start in range(0, len(numbers), width)]
            settings: list[Any] = [group if choice.layers else group[0] for group in groups]
            if choice.filters:
                named = [
                    {"filter": part, "value": value} for part, value in zip(choice.filters, settings, strict=False)
                ]
                changed = assign(changed, place, [*named, {"value": settings[-1]}])
            else:
                changed = assign(changed, place, settings[0])
    return changed


def starting_values(recipe: Mapping[str, Any], space: Space, axes: list[Axis]) -> dict[str, Any] | None:
    """The recipe's own numbers where all of them lie in the space: the first candidate of a search; else None."""
    values: dict[str, Any] = {}
    for path, choice in space.items():
        parts = [(path, [path])] if isinstance(choice, list) else _parts(recipe, path, choice)
        for place, names in parts:
            found = [value for _, value in _walk(recipe, place.split("."), [])]
            if any(value != found[0] for value in found):
                return None
            values |= dict.fromkeys(names, found[0])
    return values if all(axis.fits(values[axis.name]) for axis in axes) else None


def check_corners(recipe: Mapping[str, Any], space: Space, axes: list[Axis], where: str) -> None:
    """Check recipes at the edges of the space: all low, all high, and each choice of a list.

    Raises:
        UserError: what check_recipe refuses, with the values.
    """
    corners = [_corner(axes, _low), _corner(axes, _high)]
    for axis in axes:
        corners += [corners[0] | {axis.name: value} for value in axis.choices]
    for values in corners:
        check_recipe(candidate(recipe, space, values), f"{where} with {shown(values)}")


def low_corner(axes: list[Axis]) -> dict[str, Any]:
    """The first choice of every list and the lower end of every range."""
    return _corner(axes, _low)


def _corner(axes: list[Axis], end: Callable[[Axis], float]) -> dict[str, Any]:
    return {axis.name: axis.choices[0] if axis.choices else end(axis) for axis in axes}


def size_of(axes: list[Axis]) -> int:
    """How many combinations a grid has."""
    return math.prod(len(axis.values()) for axis in axes)


def combinations(axes: list[Axis]) -> list[dict[str, Any]]:
    """Every choice of one value an axis, the last axis changing fastest.

    Raises:
        UserError: far too many.
    """
    if (size := size_of(axes)) > MOST_COMBINATIONS:
        raise UserError(f"space: the grid has {size:,} combinations; take fewer values, or sampler=random")
    names = [axis.name for axis in axes]
    return [dict(zip(names, row, strict=True)) for row in itertools.product(*(axis.values() for axis in axes))]


def shown(values: Mapping[str, Any]) -> str:
    """Chosen values for people: three digits of every number."""
    return ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )


def _low(axis: Axis) -> float:
    return axis.low


def _high(axis: Axis) -> float:
    return axis.high


def _parts(recipe: Mapping[str, Any], path: str, choice: Range) -> Iterator[tuple[str, list[str]]]:
    """(a place in the recipe, the names of its axes): one, or one for each model that `*` stands for."""
    if choice.each and "*" not in path.split("."):
        raise UserError(f"space: '{path}' has no `*` for `each` to spread over")
    for place in _places(recipe, path) if choice.each else [path]:
        parts = [f"{place}[{part}]" for part in [*choice.filters, "rest"]] if choice.filters else [place]
        if choice.layers:
            parts = [f"{part}[{number}]" for part in parts for number in range(choice.layers)]
        yield place, parts


def _places(recipe: Mapping[str, Any], path: str) -> list[str]:
    """Every place that a path leads to: `*` replaced by a model's name or an entry's number."""
    return list(dict.fromkeys(place for place, _ in _walk(recipe, path.split("."), [])))


def _walk(value: Any, parts: list[str], done: list[str]) -> Iterator[tuple[str, Any]]:
    """(a place, what stands there) for all that a path leads to; as recipe.assign goes."""
    if not parts:
        yield ".".join(done), value
    elif isinstance(value, Mapping):
        if parts[0] in value:
            yield from _walk(value[parts[0]], parts[1:], [*done, parts[0]])
    elif isinstance(value, list):
        for number, item in enumerate(value):
            name = item.get("model") if isinstance(item, Mapping) else None
            if parts[0] in ("*", str(number), name):
                # A name with a dot cannot stand in a path.
                own = name if isinstance(name, str) and "." not in name else str(number)
                yield from _walk(item, parts[1:], [*done, own])

"""Every sampler finds what was planted, and asks the same again when it hears the same."""

from __future__ import annotations

import math
from typing import Any

import pytest

from medsmith.errors import UserError
from merge_recipes.samplers import build_sampler
from merge_recipes.space import Axis

AXES = [Axis("decisive", (), 0.0, 1.0), Axis("noise", (), 0.0, 1.0), Axis("harmless", (), 0.0, 1.0)]
GRID = [Axis(axis.name, (0.0, 0.33, 0.66, 1.0)) for axis in AXES]


def planted(values: dict[str, float]) -> float:
    """One expert decides, one is noise that costs, one does neither."""
    return math.exp(-3 * (values["decisive"] - 0.85) ** 2) - 0.6 * float(values["noise"]) ** 2


def search(name: Any, seed: int, evaluations: int, batch: int = 4, axes: list[Axis] = AXES) -> list[dict[str, Any]]:
    """The values asked, best first."""
    sampler = build_sampler(name, axes, ["maximize"], seed, batch, None, evaluations)
    asked: list[dict[str, Any]] = []
    while len(asked) < evaluations:
        round_ = sampler.ask(min(batch, evaluations - len(asked)))
        sampler.tell([(values, (planted(values),)) for values in round_])
        asked += round_
    return asked


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["random", "tpe", "cma_es", "nsga2"])
def test_finds_the_plant_in_sixty(name: str, seed: int) -> None:
    """Within sixty evaluations: nine tenths of what there is to gain, much of the decisive, little of the noise."""
    best = max(search(name, seed, 60), key=planted)
    assert planted(best) > 0.9 and best["decisive"] > 0.6 and best["noise"] < 0.4


def test_a_coarse_grid_finds_it_too() -> None:
    """Sixty of its sixty-four combinations hold the best but one or the best."""
    best = max(search("grid", 0, 60, axes=GRID), key=planted)
    assert best["decisive"] >= 0.66 and best["noise"] == 0.0


@pytest.mark.parametrize("name", ["tpe", "cma_es"])
def test_learns_from_what_it_hears(name: str) -> None:
    """The last thirty of ninety are better on the mean than the first thirty, which random search's are not."""
    gain = {
        sampler: sum(
            sum(map(planted, asked[60:])) / 30 - sum(map(planted, asked[:30])) / 30
            for asked in (search(sampler, seed, 90) for seed in range(3))
        ) / 3
        for sampler in (name, "random")
    }  # fmt: skip
    assert gain[name] > 0.15 > abs(gain["random"])


@pytest.mark.parametrize("name", ["random", "tpe", "cma_es", "nsga2"])
def test_is_replayed(name: str) -> None:
    """Told the same it asks the same, candidate by candidate; another seed asks for others."""
    assert search(name, 5, 20) == search(name, 5, 20) != search(name, 6, 20)


def test_first_values_come_first_and_failures_are_told() -> None:
    """The recipe's own numbers are tried before any other; what makes no model is skipped over."""
    first = {"decisive": 0.5, "noise": 0.25, "harmless": 0.75}
    for name in ("random", "tpe", "cma_es", "nsga2"):
        sampler = build_sampler(name, AXES, ["maximize"], 0, 1, first, None)
        asked = sampler.ask(1)
        assert asked == [first]
        sampler.tell([(first, None)])
        assert sampler.ask(1) != [first]


def test_several_objectives() -> None:
    """NSGA-II and TPE take two; infinities are heard as the worst there is."""
    for name in ("nsga2", "tpe"):
        sampler = build_sampler(name, AXES, ["maximize", "minimize"], 0, 2, None, None)
        for _ in range(10):
            asked = sampler.ask(2)
            sampler.tell([(values, (planted(values), math.inf)) for values in asked])
    with pytest.raises(UserError, match="one objective; use nsga2 or tpe"):
        build_sampler("cma_es", AXES, ["maximize", "minimize"], 0, 2, None, None)


def test_larger_budget_of_a_grid_adds() -> None:
    """What a small budget draws from a grid is among what a larger one draws."""
    small, large = ({str(values) for values in search("grid", 3, n, axes=GRID)} for n in (10, 25))
    assert len(small) == 10 and len(large) == 25 and small < large


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2"])
def test_lists_may_hold_anything(name: Any) -> None:
    """Numbers, flags, texts and lists are chosen as they stand: 1 is not True, and the first values are tried first."""
    axes = [Axis("a", (1, True, "ties", [0, 1])), Axis("b", (), 0.0, 1.0, 0.25)]
    sampler = build_sampler(name, axes, ["maximize"], 0, 1, {"a": True, "b": 0.5}, None)
    asked = []
    for _ in range(40):
        asked += sampler.ask(1)
        sampler.tell([(asked[-1], (float(asked[-1]["a"] == [0, 1]),))])
    assert asked[0] == {"a": True, "b": 0.5} and asked[0]["a"] is True
    assert {repr(values["a"]) for values in asked} == {"1", "True", "'ties'", "[0, 1]"}
    assert {values["b"] for values in asked} <= {0.0, 0.25, 0.5, 0.75, 1.0}

"""Who proposes the next candidate: a grid, or one of Optuna's samplers. Asked and told in rounds, always in one order.

With the same space, seed and answers the same candidates come in the same order, so that a search that was killed is
replayed from its journal to the point where it stopped.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from medsmith.errors import UserError
from medsmith.records import content_id
from merge_recipes.space import Axis, combinations

LOG = logging.getLogger(__name__)

SamplerName = Literal["grid", "random", "tpe", "cma_es", "nsga2"]

POPULATION = 12
"""Candidates of a generation of NSGA-II: a search of a hundred should see some generations."""


class Sampler(Protocol):
    """Proposes values by axis, and hears how good they were (None: they make no model)."""

    def ask(self, count: int) -> list[dict[str, Any]]:
        """The next values, at most `count`; empty where there are no more."""
        ...

    def tell(self, told: Sequence[tuple[dict[str, Any], tuple[float, ...] | None]]) -> None:
        """How good the values of the last round were, in their order."""
        ...


def choose_sampler(name: SamplerName | None, axes: Sequence[Axis]) -> SamplerName:
    """The sampler that was asked for, else a grid where every number is from a list, else TPE."""
    return name or ("grid" if all(axis.choices for axis in axes) else "tpe")


def build_sampler(
    name: SamplerName,
    axes: list[Axis],
    directions: Sequence[str],
    seed: int,
    batch: int,
    first: dict[str, Any] | None,
    budget: int | None,
) -> Sampler:
    """The sampler of that name; `first` is tried before anything that it proposes itself.

    Raises:
        UserError: the sampler cannot search this space, or not for several objectives.
    """
    if name == "grid":
        return _Grid(axes, seed, budget)
    return _Optuna(name, axes, directions, seed, batch, first)


class _Grid:
    """Every combination in order.

    With a smaller budget those with the lowest hash of seed and values, so that a larger budget adds to them.
    """

    def __init__(self, axes: list[Axis], seed: int, budget: int | None) -> None:
        every = combinations(axes)
        if budget is not None and budget < len(every):
            LOG.info("budget: %d of %d combinations", budget, len(every))
            drawn = sorted(range(len(every)), key=lambda number: content_id(seed, every[number]))[:budget]
            every = [every[number] for number in sorted(drawn)]
        self._left = every

    def ask(self, count: int) -> list[dict[str, Any]]:
        """The next of the grid."""
        asked, self._left = self._left[:count], self._left[count:]
        return asked

    def tell(self, told: Sequence[tuple[dict[str, Any], tuple[float, ...] | None]]) -> None:
        """A grid learns nothing."""


class _Optuna:
    def __init__(
        self,
        name: str,
        axes: list[Axis],
        directions: Sequence[str],
        seed: int,
        batch: int,
        first: dict[str, Any] | None,
    ) -> None:
        import optuna
        from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if name == "cma_es":
            listed = [axis.name for axis in axes if axis.choices]
            if listed:
                raise UserError(
                    f"sampler=cma_es searches ranges, '{listed[0]}' is a list; give low and high, or use tpe"
                )
            if len(directions) > 1:
                raise UserError("sampler=cma_es searches for one objective; use nsga2 or tpe for several")
        self._axes = axes
        # Of a list the place is chosen: Optuna knows no lists as choices, and takes 1 and True for the same.
        self._kinds: dict[str, BaseDistribution] = {
            axis.name: CategoricalDistribution(range(len(axis.choices)))
            if axis.choices
            else FloatDistribution(axis.low, axis.high, step=axis.step, log=axis.log)
            for axis in axes
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is experimental in Optuna, which is pinned
            self._study = optuna.create_study(
                directions=list(directions), sampler=self._make(optuna.samplers, name, seed, batch, first)
            )
        if first is not None:
            self._study.enqueue_trial({axis.name: axis.place_of(first[axis.name]) for axis in axes})
        self._open: list[Any] = []

    def _make(self, samplers: Any, name: str, seed: int, batch: int, first: dict[str, Any] | None) -> Any:
        if name == "random":
            return samplers.RandomSampler(seed=seed)
        if name == "tpe":
            return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=batch > 1)
        if name == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
        # It begins at the recipe's own numbers, or in the middle, a sixth of the space wide.
        return samplers.CmaEsSampler(seed=seed, x0=first, warn_independent_sampling=False)

    def ask(self, count: int) -> list[dict[str, Any]]:
        """The next proposals, in the order of the space."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._open = [self._study.ask(fixed_distributions=self._kinds) for _ in range(count)]
        return [{axis.name: axis.value_at(trial.params[axis.name]) for axis in self._axes} for trial in self._open]

    def tell(self, told: Sequence[tuple[dict[str, Any], tuple[float, ...] | None]]) -> None:
        """Hand the values on; what makes no model is a failed trial."""
        from optuna.trial import TrialState

        for trial, (_, values) in zip(self._open, told, strict=True):
            if values is None:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                # Optuna takes no infinity; nothing that was measured comes near this.
                self._study.tell(
                    trial, [value if math.isfinite(value) else math.copysign(1e9, value) for value in values]
                )

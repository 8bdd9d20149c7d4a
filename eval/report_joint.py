"""Statements about several benchmarks at once (averages, #DG, CV), with intervals.

All models' scores are resampled together: in each of the resamplings a benchmark's items (or groups of items) are drawn
anew, the same for every model, and the whole table of means is computed again. Any function of that table then has an
interval, and what is paired stays paired. One benchmark at a time is the business of `eval.statistics`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.report_inputs import Model

Table = NDArray[np.float64]
"""Means, shape (…, models, benchmarks)."""
RESAMPLES = 2000


class Contrast(NamedTuple):
    """A value of the table of means, its 95 % interval, and a two-sided p against zero (normal approximation)."""

    value: float
    low: float
    high: float
    p: float


class Joint:
    """The table of means of these models over these benchmarks, and its resamplings."""

    def __init__(self, models: Sequence[Model], benchmarks: Sequence[str], seed: int) -> None:
        self.models = [model.name for model in models]
        self.benchmarks = list(benchmarks)
        columns = [_resample(models, benchmark, seed) for benchmark in benchmarks]
        shape = (RESAMPLES + 1, len(models), 0)
        stacked = np.stack(columns, axis=-1) if columns else np.zeros(shape)
        self.observed: Table = stacked[0]
        self.draws: Table = stacked[1:]

    def contrast(self, function: Callable[[Table], Any]) -> Contrast:
        """The value of `function` of the table with its interval; it must work along leading axes."""
        value = float(function(self.observed))
        draws = np.asarray(function(self.draws), dtype=float)
        draws = draws[np.isfinite(draws)]
        if not draws.size:
            return Contrast(value, math.nan, math.nan, 1.0)
        low, high = np.percentile(draws, [2.5, 97.5])
        return Contrast(value, float(low), float(high), normal_p(value, float(draws.std())))

    def row(self, model: str) -> int:
        """The place of a model in the table."""
        return self.models.index(model)

    def column(self, benchmark: str) -> int:
        """The place of a benchmark in the table."""
        return self.benchmarks.index(benchmark)

    def average(self, model: str) -> Callable[[Table], Any]:
        """The model's plain mean over the benchmarks."""
        row = self.row(model)
        return lambda table: table[..., row, :].mean(axis=-1)

    def gain(self, model: str, over: str) -> Callable[[Table], Any]:
        """The difference of two averages."""
        a, b = self.average(over), self.average(model)
        return lambda table: b(table) - a(table)

    def mean_gain(self, pairs: Sequence[tuple[str, str]]) -> Callable[[Table], Any]:
        """The mean over (model, over) pairs of the difference of their averages."""
        gains = [self.gain(model, over) for model, over in pairs]
        return lambda table: sum(gain(table) for gain in gains) / len(gains)


def datasets_gained(gains: Table) -> NDArray[np.float64]:
    """#DG: on how many benchmarks (last axis) the gain is above zero."""
    gained: NDArray[np.float64] = (gains > 0).sum(axis=-1).astype(float)
    return gained


def unevenness(gains: Table) -> NDArray[np.float64]:
    """CV: standard deviation (ddof = 1, as in the paper's tables) of the gains, over the absolute mean gain."""
    if gains.shape[-1] < 2:
        return np.full(gains.shape[:-1], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(gains.std(axis=-1, ddof=1) / np.abs(gains.mean(axis=-1)))


def normal_p(value: float, error: float) -> float:
    """Two-sided p of `value` against zero for a standard error; a difference without any spread is 0 or 1."""
    if error == 0 or math.isnan(error):
        return 1.0 if value == 0 or math.isnan(error) else 0.0
    return math.erfc(abs(value) / error / math.sqrt(2))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family of p values, in the order given."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


def mark(value: float, low: float, high: float, p_holm: float) -> str:
    """gain, weak gain, noise, weak loss or loss: weak is an interval off zero that chance among many explains too."""
    if math.isnan(low) or low <= 0 <= high:
        return "noise"
    side = "gain" if value > 0 else "loss"
    return side if p_holm < 0.05 else f"weak {side}"


def _resample(models: Sequence[Model], benchmark: str, seed: int) -> Table:
    """Means of every model on one benchmark, shape (1 + resamplings, models); the first row is what was observed."""
    ids = sorted(models[0].samples[benchmark])
    scores = np.array([[model.samples[benchmark][key].score for model in models] for key in ids])
    groups = models[0].groups(benchmark)
    _, inverse = np.unique([groups[key] for key in ids], return_inverse=True)
    clusters = int(inverse.max()) + 1
    sums = np.zeros((clusters, len(models)))
    np.add.at(sums, inverse, scores)
    sizes = np.bincount(inverse, minlength=clusters).astype(float)
    generator = np.random.default_rng([seed, zlib.crc32(benchmark.encode())])
    weights = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES).astype(float)
    weights = np.vstack([np.ones(clusters), weights])
    return np.asarray((weights @ sums) / (weights @ sizes)[:, None])

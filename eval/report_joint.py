"""Statements about several benchmarks at once (averages, #DG, CV), with intervals.

All models' scores are resampled together: in each of the resamplings a benchmark's items (or groups of items) are drawn
anew, the same for every model, and the whole table of values is computed again. Any function of that table then has an
interval, and what is paired stays paired. One benchmark at a time is the business of `eval.statistics`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval import statistics
from eval.report_inputs import Model

Table = NDArray[np.float64]
"""Values, shape (…, models, benchmarks)."""
RESAMPLES = 2000


class Contrast(NamedTuple):
    """A value of the table, its 95 % interval, and a two-sided p against zero (normal approximation)."""

    value: float
    low: float
    high: float
    p: float


class Joint:
    """The table of these models' values on these benchmarks, and its resamplings."""

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


def normal_p(value: float, error: float) -> float:
    """Two-sided p of `value` against zero for a standard error; a difference without any spread is 0 or 1."""
    if error == 0 or math.isnan(error):
        return 1.0 if value == 0 or math.isnan(error) else 0.0
    return math.erfc(abs(value) / error / math.sqrt(2))


def _resample(models: Sequence[Model], benchmark: str, seed: int) -> Table:
    """Values of every model on one benchmark, shape (1 + resamplings, models); the first row is what was observed."""
    tables = [model.parts[benchmark] for model in models]
    observed = np.array([table.observed() for table in tables])
    drawn = statistics.draw(tables, [seed, zlib.crc32(benchmark.encode())], RESAMPLES)
    return np.vstack([observed, drawn.T])

"""Intervals and tests for scores of items: 95 %, by resampling whole groups (documents, patients), never items.

Every function is deterministic in its seed and the order of its input does not matter where ids are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medsmith.errors import UserError
from medsmith.intervals import Interval, Z

Array = NDArray[Any]
_CELLS = 2**22  # cells of a table of resampled groups that is held at once (32 MiB)
_EXACT_GROUPS = 14  # up to so many groups every sign is tried, instead of a sample


@dataclass(frozen=True)
class Table:
    """What a metric's value is computed from: a row of counts an item, (n, k), and the function of their sums.

    A plain mean is the ratio of two sums, score and weight; `value` takes sums (..., k) and gives (...).
    """

    ids: list[str]
    groups: list[str]
    counts: Array
    value: Callable[[Array], Array]

    def __post_init__(self) -> None:
        """Refuse what has no value."""
        if not len(self.ids) == len(self.groups) == len(self.counts):
            raise UserError(f"{len(self.ids)} ids, {len(self.groups)} groups, {len(self.counts)} rows of counts")
        _checked(list(self.counts.ravel()))

    def by_group(self) -> Array:
        """Sums of counts by group, (groups, k), in the order of the groups' names."""
        names, index = np.unique(np.asarray(self.groups, dtype=str), return_inverse=True)
        sums = np.zeros((len(names), self.counts.shape[1]))
        np.add.at(sums, index, self.counts)
        return sums


class Difference(NamedTuple):
    """The mean of b - a over n shared items, its 95 % interval, and a two-sided p against zero."""

    value: float
    low: float
    high: float
    p: float
    n: int


class Gains(NamedTuple):
    """The mean score, on how many data sets it is above the baseline, and how uneven the gains are.

    `cv` is the sample standard deviation of the gains over their absolute mean; NaN where that is undefined.
    """

    average: float
    datasets_gained: int
    cv: float


def estimate(table: Table, seed: int = 0, resamples: int = 2000) -> Interval:
    """A metric's value and its percentile bootstrap interval, groups resampled whole."""
    drawn = _bootstrap(table, seed, resamples)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float(table.value(table.counts.sum(0))), float(low), float(high))


def average(tables: Sequence[Table], seed: int = 0, resamples: int = 2000) -> Interval:
    """The flat mean of several metrics' values; its interval resamples every one by itself."""
    if not tables:
        raise UserError("no benchmark to average; give at least one")
    drawn = np.mean([_bootstrap(table, seed + number, resamples) for number, table in enumerate(tables)], axis=0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    value = np.mean([float(table.value(table.counts.sum(0))) for table in tables])
    return Interval(float(value), float(low), float(high))


def difference(a: Table, b: Table, seed: int = 0, resamples: int = 10_000) -> Difference:
    """b - a of one metric on the same items: a bootstrap interval, and a test that exchanges the two answers of groups.

    Raises:
        UserError: the two were not asked the same items, or there are none.
    """
    if sorted(zip(a.ids, a.groups, strict=True)) != sorted(zip(b.ids, b.groups, strict=True)):
        only = sorted(set(a.ids) ^ set(b.ids)) or sorted(a.ids)
        raise UserError(
            f"the two were not asked the same items (e.g. '{only[0]}'); compare runs of one suite and limit"
        )
    first, second = a.by_group(), b.by_group()
    value = float(b.value(second.sum(0)) - a.value(first.sum(0)))
    rng = np.random.default_rng(seed)
    n, apart, drawn, exchanged = len(first), second - first, [], []
    for rows in _blocks(resamples, n):
        times = _multiplicities(rng, rows, n)
        drawn.append(b.value(times @ second) - a.value(times @ first))
        flips = rng.integers(0, 2, size=(rows, n), dtype=np.int8).astype(float) @ apart
        exchanged.append(b.value(second.sum(0) - flips) - a.value(first.sum(0) + flips))
    low, high = np.quantile(np.concatenate(drawn), (0.025, 0.975))
    extreme = int((np.abs(np.concatenate(exchanged)) >= abs(value) - 1e-12).sum())
    return Difference(value, float(low), float(high), (extreme + 1) / (resamples + 1), len(a.ids))


def bootstrap_mean(
    values: Sequence[float], groups: Sequence[str] | None = None, seed: int = 0, resamples: int = 2000
) -> Interval:
    """The mean of items and its percentile bootstrap interval, groups resampled whole."""
    return _interval(values, np.ones(len(values)), groups, seed, resamples)


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    groups: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """sum(numerators) / sum(denominators) and its interval, rows (or groups) resampled together.

    Nats over tokens of documents, say: the exponential of the three numbers is a perplexity and its interval.
    """
    return _interval(numerators, denominators, groups, seed, resamples)


def mean_of_means(
    benchmarks: Sequence[tuple[Sequence[float], Sequence[str] | None]], seed: int = 0, resamples: int = 2000
) -> Interval:
    """The flat mean of several benchmarks' means, each given as (values, groups); its interval resamples every one."""
    if not benchmarks:
        raise UserError("no benchmark to average; give at least one")
    means = [float(np.mean(_checked(values))) for values, _ in benchmarks]
    drawn = np.zeros(resamples)
    for number, (values, groups) in enumerate(benchmarks):
        sums, counts = _by_group(_checked(values), np.ones(len(values)), groups)
        drawn += _resampled(sums, counts, seed + number, resamples)
    low, high = np.quantile(drawn / len(benchmarks), (0.025, 0.975))
    return Interval(float(np.mean(means)), float(low), float(high))


def paired_difference(
    a: dict[str, float],
    b: dict[str, float],
    groups: dict[str, str] | None = None,
    seed: int = 0,
    resamples: int = 10_000,
) -> Difference:
    """The mean of b - a on the same items, with a bootstrap interval and a sign-flip test, both over whole groups.

    The test is exact where few groups differ, and for right-or-wrong items in groups of one, where it is McNemar's.

    Raises:
        UserError: the two were not asked the same items, or there are none.
    """
    if a.keys() != b.keys():
        only = sorted(a.keys() ^ b.keys())
        raise UserError(
            f"{len(only)} items are in only one of the two (e.g. '{only[0]}'); compare runs of one suite and limit"
        )
    ids = sorted(a)
    deltas = _checked([b[key] - a[key] for key in ids])
    labels = None if groups is None else [groups[key] for key in ids]
    sums, counts = _by_group(deltas, np.ones(len(ids)), labels)
    low, high = np.quantile(_resampled(sums, counts, seed, resamples), (0.025, 0.975))
    return Difference(float(deltas.mean()), float(low), float(high), _sign_flip(sums, seed, resamples), len(ids))


def minimum_detectable_difference(differences: Sequence[float], power: float = 0.8) -> float:
    """The smallest true difference of means that a paired 5 % test finds with this power (normal approximation)."""
    from statistics import NormalDist

    deltas = _checked(differences)
    if len(deltas) < 2:
        return math.nan
    return (Z + NormalDist().inv_cdf(power)) * float(deltas.std(ddof=1)) / math.sqrt(len(deltas))


def gains(values: dict[str, float], baseline: dict[str, float]) -> Gains:
    """The paper's three numbers for choosing a model; UserError where the data sets differ."""
    if values.keys() != baseline.keys() or not values:
        only = sorted(values.keys() ^ baseline.keys())
        raise UserError(f"the two were not scored on the same data sets: {', '.join(only) or 'there are none'}")
    gain = np.array([values[name] - baseline[name] for name in sorted(values)])
    average = float(np.mean(list(values.values())))
    cv = float(gain.std(ddof=1) / abs(gain.mean())) if len(gain) > 1 and gain.mean() != 0 else math.nan
    return Gains(average, int((gain > 0).sum()), cv)


def _checked(values: Sequence[float]) -> Array:
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise UserError("no items to average: a mean of nothing is an error, not 0")
    if not np.isfinite(array).all():
        raise UserError("a score is not a finite number; mend the scorer")
    return array


def _interval(
    numerators: Sequence[float],
    denominators: Sequence[float] | Array,
    groups: Sequence[str] | None,
    seed: int,
    resamples: int,
) -> Interval:
    above, below = _checked(numerators), _checked(denominators)  # type: ignore[arg-type]
    if above.shape != below.shape or not (below > 0).all():
        raise UserError("every row needs a numerator and a denominator above 0")
    sums, counts = _by_group(above, below, groups)
    low, high = np.quantile(_resampled(sums, counts, seed, resamples), (0.025, 0.975))
    return Interval(float(above.sum() / below.sum()), float(low), float(high))


def _by_group(values: Array, weights: Array, groups: Sequence[str] | None) -> tuple[Array, Array]:
    """Sums of values and of weights by group, groups in the order of their names."""
    if groups is None:
        return values, weights
    if len(groups) != len(values):
        raise UserError(f"{len(values)} values and {len(groups)} groups; give a group to each value")
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return np.bincount(index, values), np.bincount(index, weights)


def _bootstrap(table: Table, seed: int, resamples: int) -> Array:
    """Values of `resamples` draws of groups with replacement."""
    sums, rng = table.by_group(), np.random.default_rng(seed)
    return np.concatenate(
        [table.value(_multiplicities(rng, rows, len(sums)) @ sums) for rows in _blocks(resamples, len(sums))]
    )


def _multiplicities(rng: np.random.Generator, rows: int, n: int) -> Array:
    """(rows, n): how often each of n groups is drawn in n draws with replacement."""
    drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """Split `rows` so that a block of rows × columns stays small."""
    block = max(1, _CELLS // columns)
    while rows > 0:
        yield min(block, rows)
        rows -= block


def _resampled(sums: Array, weights: Array, seed: int, resamples: int) -> Array:
    """`resamples` ratios sum / weight of as many groups, drawn with replacement."""
    rng = np.random.default_rng(seed)
    parts = []
    for rows in _blocks(resamples, len(sums)):
        drawn = rng.integers(0, len(sums), size=(rows, len(sums)), dtype=np.int32)
        parts.append(sums[drawn].sum(1) / weights[drawn].sum(1))
    return np.concatenate(parts)


def _sign_flip(sums: Array, seed: int, resamples: int) -> float:
    """The two-sided p of |sum of the groups' differences| if each could as well have had the other sign."""
    sums = sums[sums != 0]
    if sums.size == 0:
        return 1.0
    if (np.abs(sums) == 1).all():
        return _mcnemar(int((sums > 0).sum()), len(sums))
    seen = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()
    if len(sums) <= _EXACT_GROUPS:
        signs = 1 - 2 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float((np.abs(signs @ sums) >= seen).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for rows in _blocks(resamples, len(sums)):
        flips = 1.0 - 2.0 * rng.integers(0, 2, size=(rows, len(sums)), dtype=np.int8)
        extreme += int((np.abs(flips @ sums) >= seen).sum())
    return float(extreme + 1) / (resamples + 1)


def _mcnemar(wins: int, n: int) -> float:
    """The exact two-sided binomial p of `wins` in `n` even tosses."""
    few = min(wins, n - wins)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / float(2**n))

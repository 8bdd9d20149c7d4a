"""Intervals and tests of scores: 95 %, over whole groups of items (documents, patients), never over single items.

Whatever a metric is (a mean, pooled F1, a mean over slices), it comes as a `Table`: counts of items, and the function
of their sums. Shares of independent items that are right or wrong get Wilson's interval. All else gets percentiles of
a bootstrap that draws groups, stretched about the value by Student's t for their number: of 20 patients the plain
percentiles cover 92 % instead of 95, of 5 patients 85 %, stretched 94 % both (BCa: 94 % and 85 %). Of one group there
is no interval: NaN. Every function is deterministic in its seed; the order of items does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medsmith.errors import UserError
from medsmith.intervals import Interval, Z, wilson

Array = NDArray[Any]
Seed = int | list[int]
_CELLS = 2**16  # cells of a table of resampled groups that is held at once: it stays in the processor's cache
_EXACT_GROUPS = 14  # up to so many groups that differ every exchange is tried, instead of a sample
FEWEST_GROUPS = 6
"""With fewer no paired test can reach p < 0.05: of 5 groups that all gain p is 2 / 2**5."""
_POWER = 0.8
_ROUNDING = 1e-9  # sums in another order differ by less; scores by more


def ratio(sums: Array) -> Array:
    """(…, 2) sums of numerator and denominator; 0 where the denominator is 0."""
    above, below = sums[..., 0], sums[..., 1]
    found: Array = np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)
    return found


@dataclass(frozen=True)
class Table:
    """What a metric's value is computed from: a row of counts an item, (n, k), and the function of their sums.

    A plain mean is the ratio of two sums, score and weight; `value` takes sums (…, k) and gives (…).
    """

    ids: list[str]
    groups: list[str]
    counts: Array
    value: Callable[[Array], Array] = ratio
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """Between which the value lies; so does its interval."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not len(self.ids) == len(self.groups) == len(self.counts):
            raise UserError(f"{len(self.ids)} ids, {len(self.groups)} groups, {len(self.counts)} rows of counts")
        if not np.isfinite(self.counts).all():
            raise UserError("a score is not a finite number; mend the scorer")

    def by_group(self) -> Array:
        """Sums of counts by group, (groups, k), in the order of the groups' names."""
        self._refuse_nothing()
        names, index = np.unique(np.asarray(self.groups, dtype=str), return_inverse=True)
        sums = np.zeros((len(names), self.counts.shape[1]))
        np.add.at(sums, index, self.counts)
        return sums

    def observed(self) -> float:
        """The metric's value."""
        self._refuse_nothing()
        return float(self.value(self.counts.sum(0)))

    def right_or_wrong(self) -> bool:
        """Whether every item is right or wrong and alone in its group: a share of independent items."""
        self._refuse_nothing()
        binary = self.value is ratio and (self.counts[:, 1] == 1).all() and np.isin(self.counts[:, 0], (0, 1)).all()
        return bool(binary) and len(set(self.groups)) == len(self.groups)

    def _refuse_nothing(self) -> None:
        if not self.ids:
            raise UserError("no items to average: a mean of nothing is an error, not 0")

    def only(self, ids: set[str]) -> Table:
        """The rows of these items."""
        places = [place for place, key in enumerate(self.ids) if key in ids]
        kept = [self.ids[place] for place in places], [self.groups[place] for place in places]
        return Table(*kept, self.counts[places], self.value, self.bounds)


class Difference(NamedTuple):
    """b - a of one metric on n shared items of so many groups: its interval, and a two-sided p against zero.

    `detectable` is the smallest true difference that such a test finds with 80 % power; NaN where nothing differs.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    groups: int
    detectable: float
    test: str


class Overall(NamedTuple):
    """The average over benchmarks of two models: the difference, #DG and CV of the gains, each with its interval."""

    before: float
    after: float
    difference: Difference
    datasets_gained: Interval
    cv: Interval


def estimate(table: Table, seed: Seed = 0, resamples: int = 2000) -> Interval:
    """A metric's value and its interval.

    Where every group stands at the same bound (all wrong, say), a bootstrap has no width, but the next group may
    differ: there it is Wilson's interval of none, or all, of so many groups.
    """
    if table.right_or_wrong():
        return wilson(table.counts[:, 0].sum(), len(table.ids))
    if _at_one_bound(table):
        groups, value = len(set(table.groups)), table.observed()
        share = wilson(groups if value == table.bounds[1] else 0, groups)
        low, high = (table.bounds[0] + part * (table.bounds[1] - table.bounds[0]) for part in (share.low, share.high))
        return Interval(value, low, high)
    low, high = np.clip(_ends(draw([table], seed, resamples)[0]), *table.bounds)
    return Interval(table.observed(), float(low), float(high))


def _at_one_bound(table: Table) -> bool:
    """Whether there are several groups and each alone has the lowest, or each the highest, value there is."""
    if len(set(table.groups)) < 2 or not all(map(math.isfinite, table.bounds)) or table.observed() not in table.bounds:
        return False
    return bool((table.value(table.by_group()) == table.observed()).all())


def plain(found: NamedTuple) -> dict[str, Any]:
    """For JSON, which has no NaN: null."""
    values = found._asdict().items()
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values}


def method(table: Table) -> str:
    """Where the interval of `estimate` comes from, in words."""
    groups = len(set(table.groups))
    if table.right_or_wrong():
        return "Wilson"
    if _at_one_bound(table):
        return f"Wilson over {groups} groups that are all alike"
    return "none: all items are of one group" if groups == 1 else f"bootstrap over {groups} groups"


def average(tables: Sequence[Table], seed: int = 0, resamples: int = 2000) -> Interval:
    """The flat mean of several metrics' values; its interval resamples every one by itself, and stays within bounds.

    Of one metric it is that metric's own interval.
    """
    if not tables:
        raise UserError("no benchmark to average; give at least one")
    if len(tables) == 1:
        return estimate(tables[0], seed, resamples)
    drawn = np.mean([_within(table, [seed, place], resamples) for place, table in enumerate(tables)], axis=0)
    low, high = _ends(drawn)
    return Interval(float(np.mean([table.observed() for table in tables])), float(low), float(high))


def _within(table: Table, seed: list[int], resamples: int) -> Array:
    """Draws of one value, none out of its bounds; where a bootstrap has no width, as wide as the value's interval."""
    drawn = draw([table], seed, resamples)[0]
    bounds = (0.0, 1.0) if table.right_or_wrong() else table.bounds
    if drawn.max() == drawn.min():
        value, low, high = estimate(table, seed, resamples)
        away = np.random.default_rng([*seed, 1]).standard_normal(resamples) / Z
        drawn = value + np.where(away > 0, away * (high - value), away * (value - low))
    return np.asarray(np.clip(drawn, *bounds))


def draw(tables: Sequence[Table], seed: Seed, resamples: int) -> Array:
    """(tables, resamples): values of tables of the same items, their groups drawn together with replacement.

    The draws are stretched about the value, so that their percentiles, and those of any mean or difference of such
    draws, are as far out as Student's t has them for so few groups; NaN of one group.
    """
    sums = [table.by_group() for table in tables]
    n, rng = len(sums[0]), np.random.default_rng(seed)
    beside = np.hstack(sums)
    drawn = np.concatenate([_multiplicities(rng, rows, n) @ beside for rows in _blocks(resamples, n)])
    parts = np.split(drawn, np.cumsum([part.shape[1] for part in sums])[:-1], axis=1)
    values = np.array([table.value(part) for table, part in zip(tables, parts, strict=True)])
    observed = np.array([table.observed() for table in tables])[:, None]
    return np.asarray(observed + _stretch(n) * (values - observed))


def difference(a: Table, b: Table, seed: Seed = 0, resamples: int = 10_000) -> Difference:
    """b - a of one metric on the same items, with an interval and a test, both over whole groups.

    The test exchanges the two models' answers of whole groups, as if it were no matter whose they are. It is exact
    where few groups differ, and where each group that differs has one right answer more or less: then it is McNemar's.

    Raises:
        UserError: the two were not asked the same items, or there are none.
    """
    if sorted(zip(a.ids, a.groups, strict=True)) != sorted(zip(b.ids, b.groups, strict=True)):
        only = sorted(set(a.ids) ^ set(b.ids)) or sorted(a.ids)
        raise UserError(
            f"the two were not asked the same items (e.g. '{only[0]}'); compare runs of one suite and limit"
        )
    before, after = draw([a, b], seed, resamples)
    value, groups = b.observed() - a.observed(), len(set(a.groups))
    low, high = _ends(after - before)
    p, test = _exchange_test(a, b, value, seed, resamples)
    detectable = _detectable(float((after - before).std()), groups)
    if a.right_or_wrong() and b.right_or_wrong():
        detectable = max(detectable, FEWEST_GROUPS / groups)  # fewer items that turn are never significant
    return Difference(value, float(low), float(high), p, len(a.ids), groups, detectable, test)


def overall(pairs: Sequence[tuple[Table, Table]], seed: int = 0, resamples: int = 10_000) -> Overall:
    """The difference of the averages of two models over benchmarks (a, b); every benchmark is resampled by itself."""
    if not pairs:
        raise UserError("no benchmark to average; give at least one")
    before, after = (np.array([pair[side].observed() for pair in pairs]) for side in (0, 1))
    drawn, exchanged = [], []
    for place, (a, b) in enumerate(pairs):
        first, second = draw([a, b], [seed, place], resamples)
        drawn.append(second - first)
        signs = _signs(np.random.default_rng([seed, place, 1]), resamples, int(_differ(a, b).sum()))
        exchanged.append(_exchanged(a, b, signs))
    gains, value = np.array(drawn).T, float((after - before).mean())
    low, high = _ends(gains.mean(1))
    extreme = int((np.abs(np.mean(exchanged, axis=0)) >= abs(value) - _ROUNDING).sum())
    items, groups = sum(len(a.ids) for a, _ in pairs), sum(len(set(a.groups)) for a, _ in pairs)
    p, test = (extreme + 1) / (resamples + 1), f"{resamples} exchanges of groups"
    detectable = _detectable(float(gains.mean(1).std()), groups)
    found = Difference(value, float(low), float(high), p, items, groups, detectable, test)
    spread = unevenness(gains)
    return Overall(
        float(before.mean()),
        float(after.mean()),
        found,
        Interval(float(datasets_gained(after - before)), *map(float, _ends(datasets_gained(gains)))),
        Interval(float(unevenness(after - before)), *map(float, _ends(spread[np.isfinite(spread)]))),
    )


def datasets_gained(gains: Array) -> Array:
    """#DG: on how many benchmarks (last axis) the gain is above zero."""
    return np.asarray(np.where(np.isnan(gains).any(-1), np.nan, (gains > _ROUNDING).sum(axis=-1)))


def unevenness(gains: Array) -> Array:
    """CV: standard deviation (ddof = 1, as in the paper's tables) of the gains, over the absolute mean gain."""
    if gains.shape[-1] < 2:
        return np.full(gains.shape[:-1], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(gains.std(axis=-1, ddof=1) / np.abs(gains.mean(axis=-1)))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family of p values, in the order given: against one false claim among all."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


def benjamini_hochberg(values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's step-up correction: of what stays below 0.05, 5 % are false on average."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    adjusted, lowest = [0.0] * len(values), 1.0
    for rank in range(len(values), 0, -1):
        lowest = min(lowest, len(values) / rank * values[order[rank - 1]])
        adjusted[order[rank - 1]] = lowest
    return adjusted


def mark(value: float, low: float, high: float, p_corrected: float) -> str:
    """gain, weak gain, noise, weak loss or loss: weak is an interval off zero that chance among many explains too."""
    if math.isnan(low) or low <= 0 <= high:
        return "noise"
    side = "gain" if value > 0 else "loss"
    return side if p_corrected < 0.05 else f"weak {side}"


def t_quantile(p: float, freedom: int) -> float:
    """Student's t: exact for 1 and 2 degrees of freedom, else Cornish and Fisher's expansion (error below 0.004)."""
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return 2 * (p - 0.5) * math.sqrt(0.5 / (p * (1 - p)))
    z, v = NormalDist().inv_cdf(p), freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def _stretch(groups: int) -> float:
    """How much further out than a bootstrap of so many groups the ends lie: it divides by n, and knows no t."""
    if groups < 2:
        return math.nan
    return t_quantile(0.975, groups - 1) / Z * math.sqrt(groups / (groups - 1))


def _ends(draws: Array) -> Array:
    """The 2.5 and 97.5 percentiles; NaN of no draws."""
    return np.quantile(draws, (0.025, 0.975)) if draws.size else np.array((math.nan, math.nan))


def _detectable(spread: float, groups: int) -> float:
    """The smallest difference found with 80 % power, from the spread of stretched draws."""
    if groups < 2 or not spread > 0:
        return math.nan
    return spread * Z * (1 + t_quantile(_POWER, groups - 1) / t_quantile(0.975, groups - 1))


def _exchange_test(a: Table, b: Table, value: float, seed: Seed, resamples: int) -> tuple[float, str]:
    """The two-sided p, and the test's name."""
    apart = (b.by_group() - a.by_group())[_differ(a, b)]
    number = len(apart)
    if not number:
        return 1.0, "nothing differs"
    if a.value is ratio and (apart[:, 1] == 0).all() and (np.abs(apart[:, 0]) == 1).all():
        return _mcnemar(int((apart[:, 0] > 0).sum()), number), "McNemar, exact"
    exact = number <= _EXACT_GROUPS
    if exact:
        signs = (np.arange(2**number)[:, None] >> np.arange(number)) & 1
    else:
        signs = _signs(np.random.default_rng(seed), resamples, number)
    extreme = int((np.abs(_exchanged(a, b, signs)) >= abs(value) - _ROUNDING).sum())
    if exact:
        return extreme / len(signs), f"all exchanges of {number} groups"
    return (extreme + 1) / (resamples + 1), f"{resamples} exchanges of {number} groups"


def _differ(a: Table, b: Table) -> Array:
    """Which groups the two models do not answer alike."""
    return np.asarray((a.by_group() != b.by_group()).any(1))


def _exchanged(a: Table, b: Table, signs: Array) -> Array:
    """b - a where of the groups that differ those marked 1, (rows, such groups), are exchanged."""
    first, second = a.by_group(), b.by_group()
    apart = (second - first)[_differ(a, b)]
    blocks, start = [], 0
    for rows in _blocks(len(signs), max(1, len(apart))):
        blocks.append(signs[start : start + rows].astype(float) @ apart)
        start += rows
    moved = np.concatenate(blocks)
    return np.asarray(b.value(second.sum(0) - moved) - a.value(first.sum(0) + moved))


def _signs(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """(rows, columns) of fair 0 and 1."""
    width = -(-columns // 8)
    bits = np.frombuffer(rng.bytes(rows * width), np.uint8).reshape(rows, width)
    return np.unpackbits(bits, axis=1, count=columns)


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


def _mcnemar(wins: int, n: int) -> float:
    """The exact two-sided binomial p of `wins` in `n` even tosses."""
    few = min(wins, n - wins)
    # Integers: the powers of 2 of a thousand tosses are beyond a float.
    below: float = 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n
    return min(1.0, below)

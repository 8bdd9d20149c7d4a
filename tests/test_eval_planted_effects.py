"""Is what is there found as often as stated, and nothing where nothing is? Many seeds of planted models.

Rates are held against binomial bands (99 %) about what theory states: an exact size or power where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics import f1_micro
from eval.statistics import Difference, Table, difference, estimate, overall, ratio, t_quantile

Array = NDArray[Any]
SEEDS = 200
ITEMS = 400
PERCENT = 1 - 0.99


def table(counts: Array, groups: Array, value: Callable[[Array], Array] = ratio) -> Table:
    return Table([str(n) for n in range(len(counts))], [str(g) for g in groups], counts.astype(float), value)


def right(scores: Array, groups: Array | None = None) -> Table:
    """Items that are right or wrong, each by itself unless groups are given."""
    return table(np.stack([scores, np.ones(len(scores))], 1), np.arange(len(scores)) if groups is None else groups)


def band(n: int, rate: float) -> tuple[int, int]:
    """Where 99 % of the counts of n trials at this rate lie."""
    weights = [math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(n + 1)]
    below = np.cumsum(weights)
    return int((below < PERCENT / 2).sum()), int((below < 1 - PERCENT / 2).sum())


def within(count: int, n: int, rate: float) -> bool:
    low, high = band(n, rate)
    return low <= count <= high


def exact_power(n: int, gained: float, lost: float) -> float:
    """How often McNemar's exact test of n items reaches p < 0.05: over how many items turn, and how many turn right.

    Worked out here from the binomial distributions, without any of the tested code.
    """
    turning, share, power = gained + lost, gained / (gained + lost), 0.0
    for m in range(1, n + 1):
        weight = math.comb(n, m) * turning**m * (1 - turning) ** (n - m)
        if weight < 1e-12:
            continue
        tail, few = 0, -1  # the largest count of the rarer side that is still significant
        while 2 * (tail + math.comb(m, few + 1)) < 0.05 * 2**m:
            few += 1
            tail += math.comb(m, few)
        if few >= 0:
            chosen = [math.comb(m, k) * share**k * (1 - share) ** (m - k) for k in range(m + 1)]
            power += weight * (sum(chosen[: few + 1]) + sum(chosen[m - few :]))
    return power


def pairs(gained: float, lost: float, seeds: int = SEEDS, resamples: int = 300) -> Iterator[Difference]:
    """A model of 60 % and one that turns items right and wrong at these rates: paired, their items correlated."""
    for seed in range(seeds):
        rng = np.random.default_rng([1, seed])
        before = rng.random(ITEMS) < 0.6
        chance = rng.random(ITEMS)
        # Of the wrong items gained / 0.4 turn right, of the right ones lost / 0.6 turn wrong.
        after = np.where(before, chance >= lost / 0.6, chance < gained / 0.4)
        yield difference(right(before), right(after), seed, resamples)


def test_five_points_are_found_as_often_as_the_exact_power_says() -> None:
    """8 % of the items turn right and 3 % wrong: found at McNemar's exact power of 400 items (0.84), within chance."""
    found = list(pairs(0.08, 0.03))
    power = exact_power(ITEMS, 0.08, 0.03)
    assert 0.80 < power < 0.88
    assert within(sum(one.p < 0.05 for one in found), SEEDS, power)
    assert all(one.test == "McNemar, exact" for one in found)
    # The interval is about the true difference, as often as it says.
    assert within(sum(one.low <= 0.05 <= one.high for one in found), SEEDS, 0.95)


def test_the_detectable_effect_is_the_one_that_is_found_in_80_of_100() -> None:
    """The stated smallest effect, tried as the true one: exact power 0.73 to 0.83 (exact tests are weaker)."""
    stated = fmean(one.detectable for one in pairs(0.08, 0.03))
    assert 0.040 < stated < 0.052
    assert 0.73 < exact_power(ITEMS, 0.055 + stated / 2, 0.055 - stated / 2) < 0.83


def test_equal_models_are_called_different_only_at_the_exact_size() -> None:
    """5.5 % turn right and as many wrong: p < 0.05 at the exact test's size, which is below 5 %; noise otherwise."""
    found = list(pairs(0.055, 0.055))
    size = exact_power(ITEMS, 0.055, 0.055)
    assert 0.02 < size < 0.05
    alarms = sum(one.p < 0.05 for one in found)
    assert within(alarms, SEEDS, size) and alarms <= band(SEEDS, 0.05)[1]
    assert within(sum(one.low <= 0 <= one.high for one in found), SEEDS, 0.95)


def notes(seed: int, better: float) -> tuple[Table, Table, Table, Table]:
    """Two models that extract entities from 60 documents of 5 sentences: counts found, claimed, true; and each alone.

    Documents are easy or hard, for each model in its own way; the second finds `better` more of what is there.
    """
    rng = np.random.default_rng([2, seed])
    groups = np.repeat(np.arange(60), 5)
    true = rng.poisson(2, 300) + 1
    made = []
    for more in (0.0, better):
        ease = np.clip(rng.beta(6, 4, 60) + more, 0, 1)[groups]
        hits = rng.binomial(true, ease)
        made.append(np.stack([hits, hits + rng.poisson(0.8, 300), true], 1))
    tables = [table(counts, by, f1_micro) for by in (groups, np.arange(300)) for counts in made]
    return tables[0], tables[1], tables[2], tables[3]


def rates(better: float, seeds: int = SEEDS) -> tuple[list[Difference], list[Difference]]:
    """Comparisons by document, and wrongly by sentence."""
    by_group, naive = [], []
    for seed in range(seeds):
        a, b, c, d = notes(seed, better)
        by_group.append(difference(a, b, seed, 399))
        naive.append(difference(c, d, seed, 399))
    return by_group, naive


def test_pooled_f1_of_equal_models_is_noise_unless_the_documents_are_ignored() -> None:
    """By document p ≤ 0.05 in 5 %, and 0 is in 95 % of the intervals; by sentence the false alarms are over 10 %."""
    by_group, naive = rates(0.0)
    assert within(sum(one.p <= 0.05 for one in by_group), SEEDS, 0.05)
    assert within(sum(one.low <= 0 <= one.high for one in by_group), SEEDS, 0.95)
    alarms = sum(one.p <= 0.05 for one in naive)
    assert alarms > band(SEEDS, 0.05)[1] and alarms / SEEDS > 0.10


def test_a_planted_gain_of_pooled_f1_is_found_at_the_stated_power() -> None:
    """6 points more are found: detected as often as effect and stated smallest effect imply, within chance."""
    found, _ = rates(0.06)
    effect, detectable = (fmean(getattr(one, name) for one in found) for name in ("value", "detectable"))
    error = detectable / (t_quantile(0.975, 59) + t_quantile(0.8, 59))
    power = NormalDist().cdf(effect / error - t_quantile(0.975, 59))
    assert 0.3 < power < 0.9  # a rate that says something
    assert within(sum(one.p <= 0.05 for one in found), SEEDS, power)
    assert within(sum(one.low <= effect <= one.high for one in found), SEEDS, 0.95)


def patients(seed: int, better: float = 0.0, number: int = 20) -> tuple[Array, Array, Array]:
    """Twenty patients with twenty questions each: of every patient one of two models happens to know more."""
    rng = np.random.default_rng([3, seed])
    groups = np.repeat(np.arange(number), 20)
    a, b = (rng.beta(4, 3, number)[groups] for _ in range(2))
    return rng.random(len(groups)) < a, rng.random(len(groups)) < np.minimum(1, b + better), groups


def test_equal_models_on_twenty_patients_are_noise_unless_the_patients_are_ignored() -> None:
    """By patient p ≤ 0.05 in 5 %; McNemar of the 400 questions, as if independent, raises an alarm in a quarter."""
    by_group, naive = 0, 0
    for seed in range(SEEDS):
        a, b, groups = patients(seed)
        by_group += difference(right(a, groups), right(b, groups), seed, 399).p <= 0.05
        naive += difference(right(a), right(b), seed, 2).p < 0.05
    assert within(by_group, SEEDS, 0.05)
    assert 0.15 < naive / SEEDS < 0.35


def test_the_interval_of_twenty_patients_covers_the_truth_and_the_naive_one_does_not() -> None:
    """True share 4/7: the bootstrap over 20 patients covers it in 95 %, Wilson's of 400 questions in some 70 %."""
    seeds = 2 * SEEDS
    covered, naive = 0, 0
    for seed in range(seeds):
        scores, _, groups = patients(seed)
        clustered, alone = estimate(right(scores, groups), seed, 500), estimate(right(scores))
        covered += clustered.low <= 4 / 7 <= clustered.high
        naive += alone.low <= 4 / 7 <= alone.high
    assert within(covered, seeds, 0.95)
    assert 0.55 < naive / seeds < 0.80


def test_averages_of_equal_models_are_noise_and_small_gains_add_up() -> None:
    """Three benchmarks, two of them clustered: p of the average is uniform for equals; gains of 6 points each show."""
    alarms, found = 0, 0
    for seed in range(SEEDS // 2):
        for better in (0.0, 0.06):
            made = []
            for part in range(2):
                a, b, groups = patients(10_000 * (part + 1) + seed, better)
                made.append((right(a, groups), right(b, groups)))
            made.append(notes(seed, better)[:2])
            p = overall(made, seed, 399).difference.p
            alarms += p <= 0.05 and better == 0
            found += p <= 0.05 and better > 0
    assert within(alarms, SEEDS // 2, 0.05)
    assert found > 2 * band(SEEDS // 2, 0.05)[1]

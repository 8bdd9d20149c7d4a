"""Intervals and tests against hand computations, planted truths and the paper's table."""

from __future__ import annotations

import math
import random

import pytest

from eval.statistics import (
    bootstrap_mean,
    gains,
    mean_of_means,
    minimum_detectable_difference,
    paired_difference,
    ratio_interval,
)
from medsmith.errors import UserError
from medsmith.intervals import wilson

# MediPhi paper, tables 11 and 12 (12 data sets in the order of the tables), with the printed average, #DG and CV.
PAPER = {
    "Phi-3.5": ("66.6 28.4 36.7 45.9 25.9 41.1 41.2 11.2 14.8 42.3 35.1 49.3", 36.5, None, None),
    "DataMix": ("68.5 29.0 37.7 45.7 26.6 41.4 43.3 10.8 18.8 42.7 36.2 49.5", 37.5, 10, 1.2),
    "PubMed": ("68.3 29.2 37.6 45.7 26.3 41.0 44.1 10.3 22.2 42.7 35.8 49.5", 37.7, 9, 1.8),
    "Clinical": ("69.2 29.4 38.1 43.5 26.7 40.5 52.1 12.0 34.5 43.9 35.8 49.6", 39.6, 10, 2.0),
    "MedWiki": ("72.8 29.2 37.6 43.6 25.1 41.7 46.7 12.2 28.8 44.7 43.6 50.2", 39.7, 10, 1.5),
    "Guideline": ("70.3 29.8 37.6 41.1 25.1 41.9 48.9 11.9 28.3 44.7 41.0 49.8", 39.2, 10, 1.8),
    "MediPhi": ("66.9 28.8 37.9 45.7 26.1 41.7 44.5 11.3 29.1 44.3 39.7 55.5", 39.3, 11, 1.5),
    "MediPhi-SFT": ("70.6 26.9 42.8 44.2 28.8 35.0 60.8 18.8 35.0 43.4 54.5 54.9", 43.0, 9, 1.4),
}


def row(name: str) -> dict[str, float]:
    return {str(column): float(value) for column, value in enumerate(PAPER[name][0].split())}


@pytest.mark.parametrize("name", [name for name in PAPER if name != "Phi-3.5"])
def test_gains_give_the_papers_numbers(name: str) -> None:
    """Average, #DG and CV from the paper's table are what the paper prints."""
    _, average, gained, cv = PAPER[name]
    found = gains(row(name), row("Phi-3.5"))
    assert found.average == pytest.approx(average, abs=0.051)
    assert found.datasets_gained == gained
    assert found.cv == pytest.approx(cv, abs=0.05)


def test_gains_of_a_tie_do_not_count_and_one_data_set_has_no_cv() -> None:
    """An equal score is no gain; a spread needs two gains and a mean that is not zero."""
    assert gains({"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 1.0}) == (1.5, 1, pytest.approx(math.sqrt(2)))
    assert math.isnan(gains({"a": 1.0}, {"a": 0.0}).cv)
    assert math.isnan(gains({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}).cv)
    with pytest.raises(UserError, match="not scored on the same data sets: b"):
        gains({"a": 1.0}, {"a": 1.0, "b": 0.0})


def test_wilson_by_hand() -> None:
    """8 of 10: 0.490–0.943 (Wilson's formula by hand); 0 of 10 begins at 0; the share lies inside at the borders."""
    assert wilson(8, 10) == (0.8, pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 10) == (0.0, 0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(10, 10).high == 1.0
    with pytest.raises(UserError, match="no share"):
        wilson(0, 0)


def test_bootstrap_width_is_that_of_the_theory() -> None:
    """For 400 draws with sd 1, the 95 % interval is about ±1.96 / 20 wide, and the same every time."""
    rng = random.Random(5)
    values = [rng.gauss(3, 1) for _ in range(400)]
    found = bootstrap_mean(values, seed=1)
    assert found.value == pytest.approx(sum(values) / 400)
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.1)
    assert found == bootstrap_mean(values, seed=1)
    assert found != bootstrap_mean(values, seed=2)


def test_groups_widen_the_interval() -> None:
    """Ten copies of each of 40 values are 40 observations, not 400: the interval is that of the 40."""
    rng = random.Random(6)
    once = [rng.random() for _ in range(40)]
    groups = [str(number) for number in range(40) for _ in range(10)]
    copies = [value for value in once for _ in range(10)]
    assert bootstrap_mean(copies, groups)[:] == pytest.approx(bootstrap_mean(once), abs=0.02)
    naive = bootstrap_mean(copies)
    assert (naive.high - naive.low) * 2.5 < bootstrap_mean(copies, groups).high - bootstrap_mean(copies, groups).low


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 200 samples of 60 tosses with p = 0.7, the clustered interval covers 0.7 in about 95 % (90–99)."""
    rng = random.Random(7)
    hits = 0
    for trial in range(200):
        found = bootstrap_mean([float(rng.random() < 0.7) for _ in range(60)], seed=trial, resamples=500)
        hits += found.low <= 0.7 <= found.high
    assert 180 <= hits <= 199


def test_ratio_weighs_documents_by_their_tokens() -> None:
    """1000 nats over 100 tokens and 2 nats over 2 tokens: 1002 / 102, not the mean of 10 and 1; order is no matter."""
    assert ratio_interval([1000.0, 2.0], [100, 2]).value == pytest.approx(1002 / 102)
    assert ratio_interval([2.0] * 9, [4] * 9) == (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match="denominator"):
        ratio_interval([1.0], [0.0])


def test_mean_of_means_is_flat() -> None:
    """A benchmark of 4 items weighs as much as one of 400; the small one makes the interval wide."""
    small, large = ([1.0, 0.0, 1.0, 0.0], None), ([1.0] * 400, None)
    found = mean_of_means([small, large])
    assert found.value == 0.75
    assert (found.low, found.high) == (0.5, 1.0)


def test_mcnemar_by_hand() -> None:
    """Of 100 items 8 turn right and 1 wrong: p = 2 (C(9,0) + C(9,1)) / 512 = 20/512."""
    a = {str(i): float(i == 0) for i in range(100)}
    b = a | {"0": 0.0} | {str(i): 1.0 for i in range(1, 9)}
    found = paired_difference(a, b)
    assert (found.value, found.n) == (pytest.approx(0.07), 100)
    assert found.p == pytest.approx(20 / 512)
    assert found.low < 0.07 < found.high


def test_exact_sign_flip_by_hand() -> None:
    """Differences 1, 2, 3 (all up): of 8 sign patterns, 2 reach |6|, so p = 2/8; with 1 and -1 cancelled, p = 1."""
    zero = dict.fromkeys("abc", 0.0)
    assert paired_difference(zero, {"a": 1.0, "b": 2.0, "c": 3.0}).p == pytest.approx(0.25)
    assert paired_difference(zero, {"a": 0.5, "b": -0.5, "c": 0.0}).p == 1.0
    assert paired_difference(zero, zero) == (0.0, 0.0, 0.0, 1.0, 3)


def test_p_is_uniform_without_an_effect_and_small_with_one() -> None:
    """300 comparisons of equals: about 5 % below 0.05; a planted gain of half a standard deviation is found."""
    rng = random.Random(8)
    below = 0
    for trial in range(300):
        a = {str(i): rng.random() for i in range(30)}
        b = {str(i): rng.random() for i in range(30)}
        below += paired_difference(a, b, seed=trial, resamples=400).p < 0.05
    assert 5 <= below <= 27
    a = {str(i): rng.gauss(0, 1) for i in range(200)}
    b = {key: value + 0.5 + rng.gauss(0, 0.5) for key, value in a.items()}
    assert paired_difference(a, b).p < 0.001


def test_groups_make_a_claim_weaker() -> None:
    """20 items that turned right count as 20 by themselves, as 2 when they are about two patients."""
    a = {str(i): 0.0 for i in range(40)}
    b = {str(i): float(i < 20) for i in range(40)}
    groups = {str(i): str(i // 10) for i in range(40)}
    assert paired_difference(a, b).p < 1e-5
    assert paired_difference(a, b, groups).p == 0.5


def test_different_items_are_refused() -> None:
    """A comparison names an item that only one of the two was asked."""
    with pytest.raises(UserError, match="e.g. 'y'"):
        paired_difference({"x": 1.0}, {"x": 1.0, "y": 0.0})
    with pytest.raises(UserError, match="mean of nothing"):
        bootstrap_mean([])


def test_minimum_detectable_difference_by_hand() -> None:
    """100 differences with standard deviation s: (1.960 + 0.842) s / 10."""
    deltas = [1.0, -1.0] * 50
    sd = math.sqrt(100 / 99)
    assert minimum_detectable_difference(deltas) == pytest.approx(2.8016 * sd / 10, abs=1e-4)
    assert math.isnan(minimum_detectable_difference([1.0]))


def test_a_share_reads_with_its_interval():
    """10 of 20 reads as 50 % with the Wilson bounds 29.9 and 70.1."""
    assert str(wilson(10, 20)) == "50.0 % (29.9 to 70.1)"

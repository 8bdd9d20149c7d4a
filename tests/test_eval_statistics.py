"""Intervals and tests against hand computations, planted truths and the paper's table."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from eval.metrics import f1_micro, mean_of_slices
from eval.statistics import (
    Table,
    average,
    benjamini_hochberg,
    datasets_gained,
    difference,
    estimate,
    holm,
    mark,
    method,
    overall,
    plain,
    ratio,
    t_quantile,
    unevenness,
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


def of(values: list[float], groups: list[str] | None = None) -> Table:
    """A plain mean of values of items named by their place."""
    ids = [str(place) for place in range(len(values))]
    return Table(ids, groups or ids, np.array([values, [1.0] * len(values)]).T)


def counted(rows: list[list[float]], groups: list[str] | None = None, value: object = f1_micro) -> Table:
    """A metric of summed counts."""
    ids = [str(place) for place in range(len(rows))]
    return Table(ids, groups or ids, np.array(rows, dtype=float), value)  # type: ignore[arg-type]


def scores(name: str) -> np.ndarray:
    return np.array([float(value) for value in PAPER[name][0].split()])


@pytest.mark.parametrize("name", [name for name in PAPER if name != "Phi-3.5"])
def test_the_papers_three_numbers(name: str) -> None:
    """Average, #DG and CV from the paper's table are what the paper prints; also as the comparison gives them."""
    _, printed, gained, cv = PAPER[name]
    gains = scores(name) - scores("Phi-3.5")
    assert scores(name).mean() == pytest.approx(printed, abs=0.051)
    assert datasets_gained(gains) == gained
    assert unevenness(gains) == pytest.approx(cv, abs=0.05)
    pairs = [(of([a, a]), of([b, b])) for a, b in zip(scores("Phi-3.5"), scores(name), strict=True)]
    found = overall(pairs, resamples=20)
    assert (found.before, found.after) == (scores("Phi-3.5").mean(), scores(name).mean())
    assert (found.datasets_gained.value, found.cv.value) == (gained, pytest.approx(float(unevenness(gains))))


def test_gains_of_a_tie_do_not_count_and_one_data_set_has_no_cv() -> None:
    """An equal score is no gain, nor is a rounding of sums; a spread needs two gains and a mean that is not zero."""
    assert datasets_gained(np.array([1.0, 0.0, -1.0, 0.1 + 0.2 - 0.3])) == 1
    assert unevenness(np.array([1.0, 0.0])) == pytest.approx(math.sqrt(2))
    assert math.isnan(float(unevenness(np.array([1.0])))) and not np.isfinite(unevenness(np.array([1.0, -1.0])))


def test_wilson_by_hand() -> None:
    """8 of 10: 0.490–0.943 (Wilson's formula by hand); 0 of 10 begins at 0; the share lies inside at the borders."""
    assert wilson(8, 10) == (0.8, pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 10) == (0.0, 0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(10, 10).high == 1.0
    with pytest.raises(UserError, match="no share"):
        wilson(0, 0)


def test_only_independent_right_or_wrong_items_get_wilsons_interval() -> None:
    """Graded items, items of a shared group and items counted twice are resampled, and the method says so."""
    binary = [1.0] * 8 + [0.0] * 2
    assert estimate(of(binary)) == wilson(8, 10) and method(of(binary)) == "Wilson"
    twice = Table([str(n) for n in range(10)], [str(n) for n in range(10)], np.array([[2.0, 2.0], *[[0.0, 1.0]] * 9]))
    for table, groups in ((of([0.5, *binary[1:]]), 10), (of(binary, list("aabbccddee")), 5), (twice, 10)):
        assert method(table) == f"bootstrap over {groups} groups"
        assert estimate(table) != wilson(table.counts[:, 0].sum(), int(table.counts[:, 1].sum()))


def test_one_group_has_no_interval() -> None:
    """Thirty items of one patient: a value, no ends (null in JSON), in the average neither; never a width of zero."""
    alone = of([0.25, 0.75] * 15, ["patient"] * 30)
    found = estimate(alone)
    assert found.value == 0.5 and math.isnan(found.low) and math.isnan(found.high)
    assert plain(found) == {"value": 0.5, "low": None, "high": None}
    assert method(alone) == "none: all items are of one group"
    assert math.isnan(average([alone, of([0.0, 0.5, 1.0])]).low)
    shifted = difference(alone, of([0.5, 1.0] * 15, ["patient"] * 30))
    assert (shifted.value, shifted.p) == (0.25, 1.0) and math.isnan(shifted.low) and math.isnan(shifted.detectable)


def test_bootstrap_width_is_that_of_the_theory() -> None:
    """For 400 draws with sd 1, the 95 % interval is about ±1.96 / 20 wide, and the same every time."""
    rng = random.Random(5)
    values = [rng.gauss(3, 1) for _ in range(400)]
    found = estimate(of(values), seed=1)
    assert found.value == pytest.approx(sum(values) / 400)
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.1)
    assert found == estimate(of(values), seed=1)
    assert found != estimate(of(values), seed=2)


def test_few_groups_stretch_the_interval_as_student_has_it() -> None:
    """Of 5 groups the interval is that of Student's t (by hand, 2.776 standard errors), not of the bare bootstrap."""
    values = [0.2, 0.35, 0.5, 0.65, 0.8]
    found = estimate(of(values), resamples=20_000)
    error = np.std(values, ddof=1) / math.sqrt(5)
    assert found.high - found.low == pytest.approx(2 * 2.776 * error, rel=0.05)
    assert [t_quantile(0.975, freedom) for freedom in (1, 2, 4, 10, 30)] == pytest.approx(
        [12.706, 4.303, 2.776, 2.228, 2.042], abs=0.002
    )  # printed tables


def test_an_interval_stays_where_the_metric_can_be() -> None:
    """Two patients, all but one item right: the stretched interval would end above 1."""
    table = Table(["a", "b"], ["a", "b"], np.array([[10.0, 10.0], [9.0, 10.0]]), ratio, (0.0, 1.0))
    assert estimate(table).high == 1.0


def test_groups_widen_the_interval() -> None:
    """Ten copies of each of 40 values are 40 observations, not 400: the interval is that of the 40."""
    rng = random.Random(6)
    once = [rng.random() for _ in range(40)]
    groups = [str(number) for number in range(40) for _ in range(10)]
    copies = [value for value in once for _ in range(10)]
    assert estimate(of(copies, groups))[:] == pytest.approx(estimate(of(once)), abs=0.02)
    naive, rightly = estimate(of(copies)), estimate(of(copies, groups))
    assert (naive.high - naive.low) * 2.5 < rightly.high - rightly.low


def test_order_of_items_does_not_matter() -> None:
    """The same rows in another order give the same interval and p."""
    rng = np.random.default_rng(3)
    values, groups = rng.random(30), np.array([f"g{n % 20}" for n in range(30)])
    order = rng.permutation(30)
    ids = [str(n) for n in range(30)]

    def table(places: np.ndarray, shift: float) -> Table:
        counts = np.array([values[places] ** (1 + shift), np.ones(30)]).T
        return Table([ids[place] for place in places], list(groups[places]), counts)

    straight = difference(table(np.arange(30), 0.0), table(np.arange(30), 0.5))
    assert difference(table(order, 0.0), table(np.arange(30), 0.5)) == pytest.approx(straight)


def test_ratio_weighs_documents_by_their_tokens() -> None:
    """1000 nats over 100 tokens and 2 nats over 2 tokens: 1002 / 102, not the mean of 10 and 1."""
    assert estimate(counted([[1000.0, 100], [2.0, 2]], value=ratio)).value == pytest.approx(1002 / 102)
    assert estimate(counted([[2.0, 4]] * 9, value=ratio)) == (0.5, 0.5, 0.5)


def test_average_is_flat() -> None:
    """A benchmark of 4 items weighs as much as one of 400; the interval is half as wide as that of the small."""
    small, large = of([0.9, 0.1, 0.8, 0.2]), of([0.9, 1.0] * 200)
    found, alone = average([small, large]), estimate(small, [0, 0])
    assert found.value == pytest.approx((0.5 + 0.95) / 2)
    assert found.low == pytest.approx((alone.low + 0.95) / 2, abs=0.005)
    assert found.high == pytest.approx((alone.high + 0.95) / 2, abs=0.005)
    # Each is drawn by itself: four like the small one are half as uncertain together.
    together = average([small] * 4)
    assert (together.high - together.low) * 2 == pytest.approx(alone.high - alone.low, rel=0.1)
    with pytest.raises(UserError, match="no benchmark to average"):
        average([])


def test_an_average_stays_within_its_bounds_and_is_never_certain() -> None:
    """Of one benchmark it is that one's interval. Few items near 100 do not lead beyond; all right is not certain.

    Ten of ten right twice: one alone reaches down to Wilson's 0.722; the mean of two is between that and 1.
    """
    right, near = of([1.0] * 10), of([1.0, 1.0, 1.0, 0.0])
    assert average([near]) == estimate(near) == wilson(3, 4)
    assert average([near] * 3).high <= 1.0
    found = average([right, right])
    assert found.value == found.high == 1.0 and wilson(10, 10).low < found.low < 0.95
    wrong = average([of([0.0] * 10), of([0.0] * 1000)])
    assert (wrong.value, wrong.low) == (0.0, 0.0) and wrong.high == pytest.approx(wilson(0, 10).high / 2, abs=0.01)
    graded = Table(["a", "b", "c"], ["a", "b", "c"], np.array([[0.9, 1], [1, 1], [1, 1]]), ratio, (0.0, 1.0))
    assert average([graded, graded]).high <= 1.0


def test_mcnemar_by_hand() -> None:
    """Of 100 items 8 turn right and 1 wrong: p = 2 (C(9,0) + C(9,1)) / 512 = 20/512."""
    found = difference(of([1.0] + [0.0] * 99), of([0.0] + [1.0] * 8 + [0.0] * 91))
    assert (found.value, found.n, found.test) == (pytest.approx(0.07), 100, "McNemar, exact")
    assert found.p == pytest.approx(20 / 512)
    assert found.low < 0.07 < found.high


def test_mcnemar_holds_for_thousands_of_tosses() -> None:
    """3,000 items that turn, 1,600 of them right: p by the normal approximation with continuity correction."""
    before, after = [0.0] * 1600 + [1.0] * 1400, [1.0] * 1600 + [0.0] * 1400
    z = (200 - 1) / math.sqrt(3000)
    assert difference(of(before), of(after), resamples=10).p == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


def test_exact_exchange_by_hand() -> None:
    """Differences 1, 2, 3 (all up): of 8 exchanges 2 reach |6|, so p = 2/8; with 1 and -1 cancelled, p = 1."""
    zero = of([0.0] * 3)
    assert difference(zero, of([1.0, 2.0, 3.0])).p == pytest.approx(0.25)
    assert difference(zero, of([0.5, -0.5, 0.0])).p == 1.0
    same = difference(zero, zero)
    assert same[:5] == (0.0, 0.0, 0.0, 1.0, 3) and math.isnan(same.detectable)


def test_exact_exchange_of_pooled_counts_by_hand() -> None:
    """Three items' counts exchanged in all 8 ways: |F1 - F1| by brute force over the same sums gives the same p."""
    first = [[1.0, 3.0, 4.0], [0.0, 2.0, 2.0], [5.0, 9.0, 7.0]]
    second = [[3.0, 3.0, 4.0], [1.0, 1.0, 2.0], [4.0, 5.0, 7.0]]
    found = difference(counted(first), counted(second))

    def f1(rows: list[list[float]]) -> float:
        hits, claimed, true = map(sum, zip(*rows, strict=True))
        return 2 * hits / (claimed + true)

    seen, reached = f1(second) - f1(first), 0
    for pattern in range(8):
        swapped = [(a, b) if pattern >> n & 1 else (b, a) for n, (a, b) in enumerate(zip(first, second, strict=True))]
        new, old = zip(*swapped, strict=True)
        reached += abs(f1(list(new)) - f1(list(old))) >= abs(seen) - 1e-12
    assert found.value == pytest.approx(seen) and found.p == reached / 8 and 2 <= reached < 8


def test_sampled_exchanges_agree_with_all_of_them() -> None:
    """Of 14 groups that differ all 16,384 exchanges are tried; of 15 they are sampled, beside the exact p."""
    rng = np.random.default_rng(2)
    deltas = rng.normal(0.3, 1, 15)
    signs = 1 - 2 * ((np.arange(2**15)[:, None] >> np.arange(15)) & 1)
    exact = float((np.abs(signs @ deltas) >= abs(deltas.sum()) - 1e-9).mean())
    found = difference(of([0.0] * 15), of(list(deltas)), resamples=20_000)
    assert found.test == "20000 exchanges of 15 groups" and found.p == pytest.approx(exact, abs=0.015)
    fewer = difference(of([0.0] * 14), of(list(deltas[:14])))
    assert fewer.test == "all exchanges of 14 groups"


def test_groups_make_a_claim_weaker() -> None:
    """20 items that turned right count as 20 by themselves, as 2 when they are about two patients."""
    a, b = [0.0] * 40, [1.0] * 20 + [0.0] * 20
    groups = [str(i // 10) for i in range(40)]
    assert difference(of(a), of(b)).p < 1e-5
    assert difference(of(a, groups), of(b, groups)).p == 0.5


def test_slice_means_are_compared_as_such() -> None:
    """9 items of one slice lose, one of another gains: the mean of slices rises, though that of items falls."""
    rows = [[0.5, 1.0, 0, 0]] * 9 + [[0, 0, 0.0, 1.0]]
    better = [[0.35, 1.0, 0, 0]] * 9 + [[0, 0, 1.0, 1.0]]
    found = difference(counted(rows, value=mean_of_slices), counted(better, value=mean_of_slices))
    assert found.value == pytest.approx((0.35 + 1.0) / 2 - 0.25)


def test_different_items_are_refused() -> None:
    """A comparison names an item that only one of the two was asked; nothing has no value."""
    with pytest.raises(UserError, match="e.g. '1'"):
        difference(of([1.0]), of([1.0, 0.0]))
    with pytest.raises(UserError, match="not asked the same items"):
        difference(of([1.0, 0.0], ["a", "a"]), of([1.0, 0.0], ["a", "b"]))
    with pytest.raises(UserError, match="mean of nothing"):
        estimate(Table([], [], np.zeros((0, 2))))
    with pytest.raises(UserError, match="not a finite number"):
        of([math.nan])


def test_detectable_difference_by_hand() -> None:
    """100 differences with standard deviation s: (1.984 + 0.845) s / 10, from Student's t; of 25 groups by group."""
    deltas = [0.1, -0.1] * 50
    found = difference(of([0.0] * 100), of(deltas), resamples=20_000)
    assert found.detectable == pytest.approx(2.829 * 0.1 * math.sqrt(100 / 99) / 10, rel=0.02)
    groups = [str(n // 4) for n in range(100)]
    clustered = difference(of([0.0] * 100, groups), of([0.1] * 52 + [-0.1] * 48, groups), resamples=20_000)
    assert clustered.detectable == pytest.approx((2.064 + 0.857) * 0.1 / 5, rel=0.05)  # 25 groups of ±0.1


def test_fewer_than_six_items_that_turn_are_never_found() -> None:
    """One of 100 items turned: the spread alone would promise to find 2.8 points, the exact test needs 6 items."""
    assert difference(of([0.0] * 100), of([1.0] + [0.0] * 99)).detectable == 0.06


def test_overall_pools_what_each_benchmark_is_too_small_for() -> None:
    """Six benchmarks, each 4 of 30 items up (p = 1/8 each): together the average gains for sure."""
    pair = of([0.0] * 30), of([1.0] * 4 + [0.0] * 26)
    assert difference(*pair).p == 1 / 8
    found = overall([pair] * 6)
    assert found.difference.value == pytest.approx(4 / 30) and found.difference.p < 0.001 < found.difference.low
    assert (found.difference.n, found.datasets_gained.value, found.cv.value) == (180, 6, 0.0)
    alone = difference(*pair)
    assert found.difference.high - found.difference.low == pytest.approx(
        (alone.high - alone.low) / math.sqrt(6), rel=0.1
    )


def test_corrections_and_marks_by_hand() -> None:
    """Holm and Benjamini–Hochberg of the same four; a mark needs both the interval and the corrected p."""
    family = [0.04, 0.01, 0.03, 0.5]
    assert holm(family) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert benjamini_hochberg(family) == pytest.approx([0.16 / 3, 0.04, 0.16 / 3, 0.5])
    assert mark(0.1, 0.05, 0.15, 0.01) == "gain" and mark(0.1, 0.05, 0.15, 0.2) == "weak gain"
    assert mark(-0.1, -0.2, 0.01, 0.0) == "noise" and mark(-0.1, -0.2, -0.01, 0.0) == "loss"


def test_a_share_reads_with_its_interval() -> None:
    """10 of 20 reads as 50 % with the Wilson bounds 29.9 and 70.1."""
    assert str(wilson(10, 20)) == "50.0 % (29.9 to 70.1)"


@pytest.mark.parametrize(("score", "ends"), [(0.0, (0.0, 0.27753)), (1.0, (0.72247, 1.0))])
def test_groups_that_are_all_alike_still_have_an_interval(score: float, ends: tuple[float, float]) -> None:
    """Ten patients, all at zero (or one): the bootstrap has no width, Wilson of 0 (or 10) in 10 has."""
    groups = [f"p{number // 4}" for number in range(40)]
    table = Table([str(n) for n in range(40)], groups, np.array([[score, 1.0]] * 40), bounds=(0.0, 1.0))
    found = estimate(table)
    assert found.value == score
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-4)
    assert method(table) == "Wilson over 10 groups that are all alike"

"""What a candidate is measured by, worked out by hand."""

from __future__ import annotations

import math

import pytest

from merge_recipes.objectives import compare, front_of, gains_of, items_named, measure, unevenness
from merge_recipes.validation import Question, tally

QUESTIONS = [Question(str(n), "large" if n else "small", "", "?", ("a", "b"), 0) for n in range(4)]
BASE = {"right": "0100", "margins": [-1.0, 0.5, -0.5, -0.6], "losses": [1.0, 3.0]}
ROW = {"right": "1110", "margins": [2.0, 0.3, 0.3, -0.6], "losses": [0.5, 3.0]}


def test_objectives_by_hand() -> None:
    """A topic of one question weighs as much as one of three; documents weigh alike."""
    expected = {"average": (1 + 2 / 3) / 2, "margin": (2.0 + 0.0) / 2, "loss": 1.75, "datasets_gained": 2.0}
    for name, value in expected.items():
        assert measure(name, ROW, BASE, QUESTIONS) == pytest.approx(value)
    assert measure("suite", {"suite": 0.25}, BASE, QUESTIONS) == 0.25
    gains = gains_of(tally("1110", QUESTIONS), tally("0100", QUESTIONS))
    assert gains == pytest.approx([1.0, 1 / 3], abs=1e-6)
    assert measure("unevenness", ROW, BASE, QUESTIONS) == pytest.approx((1 / 3) * math.sqrt(2) / (2 / 3), abs=1e-5)


def test_unevenness_of_no_gain_is_infinite() -> None:
    """Gains that are zero or losses on the mean are no even gains; equal gains are perfectly even."""
    assert unevenness([0.1, -0.1]) == unevenness([0.0, 0.0]) == unevenness([-0.1, -0.2]) == math.inf
    assert unevenness([0.2, 0.2, 0.2]) == 0.0
    # The paper's row of MedWiki: 39.7 - 36.5 on the mean, CV 1.5.
    assert unevenness([1.0, 2.0, 3.0]) == pytest.approx(0.5)


def test_intervals_are_paired_and_stratified() -> None:
    """Equal answers leave an interval of no width, opposite ones are one apart; small gains stay within chance."""
    for name in ("average", "margin", "loss", "unevenness"):
        (same,) = compare(name, ROW, [ROW], QUESTIONS, 0)
        assert (same.value, same.low, same.high, same.is_real) == (0.0, 0.0, 0.0, False)
    better, worse = compare("average", {"right": "1111"}, [{"right": "0000"}, {"right": "0111"}], QUESTIONS, 0)
    assert (better.value, better.low, better.high, better.is_real) == (1.0, 1.0, 1.0, True)
    assert (worse.value, worse.low, worse.high) == (0.5, 0.5, 0.5)  # the topic of one question is always drawn
    asked = [Question(str(n), "t", "", "?", ("a", "b"), 0) for n in range(200)]
    (chance,) = compare("average", {"right": "10" * 100}, [{"right": "01" * 99 + "00"}], asked, 0)
    assert chance.low < 0 < chance.high and chance.value == pytest.approx(0.005)
    (real,) = compare("average", {"right": "1" * 120 + "0" * 80}, [{"right": "1" * 90 + "0" * 110}], asked, 0)
    assert real.is_real and real.low == pytest.approx(0.1, abs=0.03)
    assert compare("average", ROW, [], QUESTIONS, 0) == []


def test_suites_are_compared_by_their_items() -> None:
    """An item of a suite is drawn within its benchmark, and pairs with the same item of the other candidate."""
    one = {"suite": 0.75, "suite_scores": {"a": [1.0, 0.5, 0.5, 0.0], "b": [1.0]}}
    other = {"suite": 0.25, "suite_scores": {"a": [0.5, 0.5, 0.5, 0.5], "b": [0.0]}}
    (gap,) = compare("suite", one, [other], [], 0)
    assert gap.value == 0.5 and gap.is_real and 0.2 < gap.low < 0.5 < gap.high < 0.8
    assert items_named("suite") == "suite" and items_named("datasets_gained") == "average"


def test_front() -> None:
    """Who is beaten in nothing stays; equals stay both."""
    values = {0: (0.9, 2.0), 1: (0.8, 1.0), 2: (0.85, 2.5), 3: (0.8, 1.0), 4: (0.1, 9.0)}
    assert front_of(values, ["maximize", "minimize"]) == [0, 1, 3]
    assert front_of(values, ["maximize", "maximize"]) == [0, 2, 4]

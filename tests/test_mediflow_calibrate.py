"""Calibration of a judge against planted errors, and agreement."""

from __future__ import annotations

from typing import Any

import pytest

from mediflow.agreement import krippendorff_alpha
from mediflow.calibrate import (
    CRITERIA,
    Verdict,
    calibration_order,
    plant_error,
    sample_agreement,
    summarise_calibration,
)


def rows(*outputs: str) -> list[dict[str, Any]]:
    return [{"instruction_id": "i", "input": "the note", "output": output} for output in outputs]


def scores(quality: float, others: float = 3.0) -> dict[str, float]:
    return dict.fromkeys(CRITERIA, others) | {"quality": quality}


def test_one_output_is_made_wrong_and_nothing_else():
    """Of two outputs exactly one changes, at the place that is named; what came in stays as it was."""
    sound = rows("metformin 500 mg daily", "The pain is on the left side.")
    planted = plant_error(sound, seed=1)
    assert planted is not None
    changed = [at for at, (old, new) in enumerate(zip(sound, planted.rows, strict=True)) if old != new]
    assert changed == [planted.place]
    assert planted.rows[planted.place]["input"] == "the note"
    assert sound[planted.place]["output"] in ("metformin 500 mg daily", "The pain is on the left side.")
    assert plant_error(sound, seed=1) == planted
    assert {plant_error(sound, seed=seed).rule for seed in range(20)} > {planted.rule}  # type: ignore[union-attr]


def test_no_error_is_planted_where_no_rule_has_a_hold():
    """A word without number, side, drug, negation, code or list cannot be made wrong by rule."""
    assert plant_error(rows("cardiology"), seed=0) is None


def test_the_share_that_a_judge_tells_is_of_those_scored_lower():
    """Two of four scored lower, one the same, one higher; only quality moved."""
    verdicts = [
        Verdict("a", "rule_number", scores(4), scores(2)),
        Verdict("b", "rule_number", scores(3), scores(3)),
        Verdict("c", "rule_side", scores(3), scores(3.5)),
        Verdict("d", "rule_side", scores(3), scores(2.5)),
    ]
    summary = summarise_calibration(verdicts)
    quality = summary["criteria"]["quality"]
    assert (quality["lower"], quality["same"], quality["higher"], quality["n"]) == (2, 1, 1, 4)
    assert quality["told"][0] == 0.5
    assert quality["mean_change"] == -0.5
    assert summary["criteria"]["realism"]["told"][0] == 0.0
    assert summary["by_rule"]["rule_number"]["mean_change"] == -1.0
    assert summarise_calibration([])["criteria"] == {}


def test_agreement_is_that_of_the_textbook():
    """Full agreement is 1; the interval data of Krippendorff's own example of four observers give 0.849."""
    assert krippendorff_alpha([[1, 1], [2, 2], [3, 3], [4, 4]], "interval") == 1.0
    none = None
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, none, none, none],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, none, 3],
        [none, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, none],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, none],
    ]
    assert krippendorff_alpha(zip(*table, strict=True), "interval") == pytest.approx(0.849, abs=0.001)


def test_agreement_that_nobody_can_know_is_none():
    """One rater, or one score for all, says nothing."""
    assert krippendorff_alpha([[1], [2], [3]], "interval") is None
    assert krippendorff_alpha([[3, 3], [3, 3]], "interval") is None
    assert krippendorff_alpha([], "interval") is None


def test_samples_of_uneven_number_are_compared_where_they_meet():
    """Two judgements of each of two things agree fully; a third of one of them, far off, lowers it."""
    agreed = [[{n: {"score": s} for n in CRITERIA}] * 2 for s in (1, 4)]
    assert sample_agreement(agreed)["quality"] == 1.0
    odd = [*agreed[0], {n: {"score": 4} for n in CRITERIA}]
    lower = sample_agreement([odd, agreed[1]])["quality"]
    assert lower is not None and lower < 0.7


def test_the_draw_depends_on_the_instruction_and_the_seed_alone():
    """Another seed gives another order."""
    ids = [f"i{n}" for n in range(30)]
    first = sorted(ids, key=lambda one: calibration_order(one, 1))
    assert first != sorted(ids, key=lambda one: calibration_order(one, 2))
    backwards = list(reversed(ids))
    assert first == sorted(backwards, key=lambda one: calibration_order(one, 1))

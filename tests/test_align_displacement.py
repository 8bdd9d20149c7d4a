"""Likelihood displacement is told while it happens, once, and not for chance."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from align.displacement import KEY, changes, displacement_facts, displacement_watch, first_displaced

BETA = 0.1


def rows(*nats: float) -> list[dict[str, Any]]:
    """Logs every ten steps, with the reward of chosen answers that have gained so many nats; others lie between."""
    found: list[dict[str, Any]] = []
    for number, value in enumerate(nats, 1):
        found += [{"step": 10 * number, "eval_loss": 1.0}, {"step": 10 * number, KEY: BETA * value, "loss": 0.7}]
    return found


def test_changes_are_means_of_three_logs() -> None:
    """0, -3, -3, -6 gives -2 at the third log and -4 at the fourth, in nats, whatever beta is."""
    assert changes(rows(0, -3, -3, -6), BETA) == [(30, pytest.approx(-2)), (40, pytest.approx(-4))]
    assert changes(rows(0, -3), BETA) == []


def test_a_fall_is_dated_and_chance_is_not_taken_for_one() -> None:
    """One batch far down is not told; a lasting loss of two nats is, at the log that completes it."""
    assert first_displaced(rows(0.2, -2.5, 0.1, 0.3, 0.2), BETA) is None
    assert first_displaced(rows(0.2, 0.1, -2, -2, -2), BETA) == (40, pytest.approx(-1.3))
    assert displacement_facts(rows(0.2, 0.1, -2, -2, -1), BETA) == {
        "chosen_lowest": {"step": 50, "nats": -1.6667},
        "displaced_at_step": 40,
    }
    assert displacement_facts([], BETA) == {"chosen_lowest": None, "displaced_at_step": None}


def test_the_warning_comes_once_and_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """At the step where the mean passes one nat, with what to do, and not again."""
    watch = displacement_watch(BETA)
    told = []
    with caplog.at_level(logging.WARNING):
        for row in rows(0, -1, -2, -3, -4, -5):
            state = SimpleNamespace(global_step=row["step"], is_world_process_zero=True)
            watch.on_log(None, state, None, logs=row)
            told.append(len(caplog.messages))
    assert caplog.messages == [
        "step 40: a good answer has lost 2.0 nats since the beginning (likelihood displacement); stop and lower "
        "learning_rate, or train with loss_type: [sigmoid, sft]"
    ]
    assert told == [0] * 7 + [1] * 5

"""Likelihood displacement while it happens: preference training that makes the good answers less likely as well.

TRL logs the reward of the chosen answers: beta times what training has added to their log-probability. Unlike the
log-probability itself it does not depend on how long a batch's answers are, so its fall can be watched by step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LOG = logging.getLogger(__name__)

KEY = "rewards/chosen"
WINDOW = 3
"""Logs that are looked at together: one batch of few pairs may fall by chance."""
NATS = 1.0
"""A loss a good answer, as the mean over WINDOW logs, that is told."""


def changes(rows: Iterable[Mapping[str, Any]], beta: float) -> list[tuple[int, float]]:
    """(step, nats that a good answer has gained since the beginning), each the mean of WINDOW logs up to there."""
    found = [(row["step"], row[KEY] / beta) for row in rows if KEY in row]
    return [
        (step, sum(value for _, value in found[place - WINDOW + 1 : place + 1]) / WINDOW)
        for place, (step, _) in enumerate(found)
        if place >= WINDOW - 1
    ]


def first_displaced(rows: Iterable[Mapping[str, Any]], beta: float) -> tuple[int, float] | None:
    """Where the good answers had first lost more than NATS."""
    return next(((step, change) for step, change in changes(rows, beta) if change < -NATS), None)


def displacement_facts(rows: Sequence[Mapping[str, Any]], beta: float) -> dict[str, Any]:
    """What a card should say of the way there: the lowest point, and where a warning was due."""
    lowest = min(changes(rows, beta), key=lambda one: one[1], default=None)
    displaced = first_displaced(rows, beta)
    return {
        "chosen_lowest": lowest and {"step": lowest[0], "nats": round(lowest[1], 4)},
        "displaced_at_step": displaced and displaced[0],
    }


def displacement_watch(beta: float) -> Any:
    """A callback (built here: its base class lives in transformers) that warns, once, while there is time to stop."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.rows: list[dict[str, Any]] = []
            self.told = False

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **rest: Any) -> None:
            self.rows.append({"step": state.global_step, **logs})
            found = first_displaced(self.rows, beta)
            if found and not self.told and state.is_world_process_zero:
                self.told = True
                LOG.warning(
                    "step %d: a good answer has lost %.1f nats since the beginning (likelihood displacement); stop and "
                    "lower learning_rate, or train with loss_type: [sigmoid, sft]",
                    found[0],
                    -found[1],
                )

    return Watch()

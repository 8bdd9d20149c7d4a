"""Rows that a tiny model learns in seconds, and a kill at a step: what the tests of trainings share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medsmith.records import Instruction


class Killed(Exception):
    """What a kill looks like from inside."""


def stop_at(step: int) -> Sequence[Any]:
    """A callback that raises Killed after a step."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step == step:
                raise Killed

    return [Stop()]


def instruction(number: int | str, **changes: Any) -> Instruction:
    """A row whose answer is always the same."""
    values = {
        "id": f"r{number}",
        "instruction": f"Answer the question {number}.",
        "input": "The patient denies fever.",
        "output": "No pleural effusion.",
        "task_type": "qa",
        "input_data": "note",
        "output_format": "plain_text",
        "difficulty_level": "low",
    }
    return Instruction(**(values | changes))

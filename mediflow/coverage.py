"""Which cells of the plan are filled: task × input × difficulty × format, generated and kept, and the holes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

from medsmith.records import Instruction

AXES = ("task_type", "input_data", "difficulty_level", "output_format")


def count_coverage(generated: Sequence[Instruction], kept: Sequence[Instruction]) -> dict[str, Any]:
    """Counts by axis and by cell, and two kinds of hole.

    `lost` are cells that had rows and have none left. `holes` are combinations of a task type, document type and format
    that each occur in what was generated and of which nothing is kept.
    """
    before, after = Counter(map(_cell, generated)), Counter(map(_cell, kept))
    axes = {axis: _by_axis(generated, kept, axis) for axis in AXES}
    filled = {(row.task_type, document_of(row), row.output_format) for row in kept}
    wanted = product(
        sorted({row.task_type for row in generated}),
        sorted({document_of(row) for row in generated}),
        sorted({row.output_format for row in generated}),
    )
    return {
        "generated": len(generated),
        "kept": len(kept),
        "axes": axes,
        "cells": [
            {**dict(zip(AXES, cell, strict=True)), "generated": before[cell], "kept": after[cell]}
            for cell in sorted(before)
        ],
        "lost": [dict(zip(AXES, cell, strict=True)) for cell in sorted(before) if not after[cell]],
        "holes": [
            dict(zip(("task_type", "document", "output_format"), one, strict=True))
            for one in wanted
            if one not in filled
        ],
    }


def document_of(row: Instruction) -> str:
    """The document type of a row, without its section."""
    return row.input_data.partition(":")[0].strip()


def _cell(row: Instruction) -> tuple[str, ...]:
    return tuple(getattr(row, axis) for axis in AXES)


def _by_axis(generated: Sequence[Instruction], kept: Sequence[Instruction], axis: str) -> dict[str, dict[str, int]]:
    before = Counter(getattr(row, axis) for row in generated)
    after = Counter(getattr(row, axis) for row in kept)
    return {value: {"generated": before[value], "kept": after[value]} for value in sorted(before)}

"""How many rows of a kind at most: {task_type: {question_answering: 1000, "*": 200}}. Pure.

A number is rows; a share below 1 is of the rows that are wanted in all; `*` is each value that is not named. Rows are
taken best first, and one whose kind has its number is dropped with that as its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from medsmith.errors import UserError
from medsmith.records import Instruction

Column = Literal["task_type", "input_data", "output_format", "difficulty_level"]
Quotas = dict[Column, dict[str, int | float]]
OTHERS = "*"


class Room:
    """Counts the rows that are taken against the quotas."""

    def __init__(self, quotas: Mapping[Column, Mapping[str, int | float]], wanted: int | None) -> None:
        """`wanted` rows are sought in all, which is what shares are of.

        Raises:
            UserError: a share without a number of rows in all, or a quota that is neither.
        """
        self._limits = {
            (column, value): _limit(column, value, limit, wanted)
            for column, values in quotas.items()
            for value, limit in values.items()
        }
        self._columns = list(quotas)
        self._taken: Counter[tuple[Column, str]] = Counter()

    def take(self, row: Instruction) -> str | None:
        """Count the row, or say which quota is full."""
        cells = [(column, str(getattr(row, column))) for column in self._columns]
        for column, value in cells:
            limit = self._limits.get((column, value), self._limits.get((column, OTHERS)))
            if limit is not None and self._taken[column, value] >= limit:
                return f"the quota of {column}={value} is full"
        self._taken.update(cells)
        return None


def idle(quotas: Mapping[Column, Mapping[str, int | float]], rows: Sequence[Instruction]) -> list[str]:
    """Each quota of a value that no row has, with the values there are: often a misspelt one."""
    told = []
    for column, values in quotas.items():
        there = sorted({str(getattr(row, column)) for row in rows})
        names = ", ".join(there[:12]) + (", …" if len(there) > 12 else "")
        told += [
            f"quotas.{column}.{value}: no row has it; there are {names}"
            for value in values
            if value != OTHERS and value not in there
        ]
    return told


def _limit(column: Column, value: str, limit: int | float, wanted: int | None) -> int:
    if isinstance(limit, int) and limit >= 0:
        return limit
    if not 0 < limit < 1:
        raise UserError(f"quotas.{column}.{value}={limit} is neither a number of rows nor a share between 0 and 1")
    if wanted is None:
        raise UserError(
            f"quotas.{column}.{value}={limit} is a share, and of how many rows is not said; set top_rows (in a mix: "
            "rows), or a number here"
        )
    return round(limit * wanted)

"""Instruction rows into what TRL trains on. Pure: no model, no file, no tokenizer; what is dropped is named.

The order of rows depends on their ids and the seed alone, so a row that is added or dropped reshuffles no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align.quotas import Quotas, Room
from medsmith.documents import question_and_answer
from medsmith.errors import UserError, quoted
from medsmith.records import Instruction, content_id


class Selection(NamedTuple):
    """Rows that stay, and {id, reason, …} of each that does not."""

    rows: list[Instruction]
    dropped: list[dict[str, Any]]


def prompt(row: Instruction) -> list[dict[str, str]]:
    """The turns before the answer; the instruction is the system's, as on the card of MediPhi-Instruct."""
    return [{"role": "system", "content": row.instruction}, {"role": "user", "content": row.input}]


def messages(row: Instruction) -> list[dict[str, str]]:
    """The whole conversation."""
    return [*prompt(row), {"role": "assistant", "content": row.output}]


def preference(row: Instruction) -> dict[str, list[dict[str, str]]]:
    """TRL's preference row."""
    return {
        "prompt": prompt(row),
        "chosen": [{"role": "assistant", "content": row.output}],
        "rejected": [{"role": "assistant", "content": row.rejected_output}],
    }


ANSWERING = ("Answer the question.", "Answer briefly.", "Give a short answer.")
"""Instructions before a question that has none of its own, drawn by its hash."""


def from_questions(rows: Iterable[Mapping[str, Any]], where: Path) -> list[Instruction]:
    """What a teacher asked about documents (experts.prepare with task=question_answer), as rows to train on again.

    Raises:
        UserError: a row of another task.
    """
    found = {}
    for row in rows:
        pair = question_and_answer(str(row.get("output", "")))
        if pair is None:
            raise UserError(
                f"{where}: {quoted(row.get('output', ''))} is no question with its answer; give a folder "
                "of experts.prepare with task=question_answer"
            )
        asked, answer = pair
        key = content_id(asked, answer)
        told = ANSWERING[int(key, 16) % len(ANSWERING)]
        found[key] = Instruction(key, told, asked, answer, "question", "document", "text", "low")
    return list(found.values())


def usable(rows: Sequence[Instruction], pairs: bool = False) -> Selection:
    """Drop rows that teach nothing: a text missing, an id seen before, and for pairs no or the same rejected answer."""
    kept: dict[str, Instruction] = {}
    dropped: list[dict[str, Any]] = []
    for row in rows:
        empty = [name for name in ("instruction", "input", "output") if not getattr(row, name).strip()]
        if empty:
            dropped.append({"id": row.id, "reason": f"empty {empty[0]}"})
        elif row.id in kept:
            dropped.append({"id": row.id, "reason": "id seen before"})
        elif pairs and not row.rejected_output.strip():
            dropped.append({"id": row.id, "reason": "empty rejected_output"})
        elif pairs and row.rejected_output.strip() == row.output.strip():
            dropped.append({"id": row.id, "reason": "rejected_output is the output"})
        else:
            kept[row.id] = row
    return Selection(list(kept.values()), dropped)


def short_enough(rows: Sequence[Instruction], tokens: Sequence[int], max_tokens: int) -> Selection:
    """Drop rows longer than `max_tokens`: cut short, they would teach a model to stop in the middle, or not to stop."""
    kept, dropped = [], []
    for row, length in zip(rows, tokens, strict=True):
        if length > max_tokens:
            dropped.append({"id": row.id, "reason": "longer than max_tokens", "tokens": length})
        else:
            kept.append(row)
    return Selection(kept, dropped)


def best(rows: Sequence[Instruction], count: int | None, seed: int, quotas: Quotas | None = None) -> Selection:
    """The `count` rows of the highest judged quality (None: all), of no kind more than its quota.

    Rows of equal quality stand by hash of id, and those that nobody judged come last.
    """
    ranked = sorted(
        in_order(rows, seed), key=lambda row: row.quality if row.quality is not None else float("-inf"), reverse=True
    )
    limit = len(ranked) if count is None else count
    room = Room(quotas or {}, count)
    kept: list[Instruction] = []
    dropped: list[dict[str, Any]] = []
    for row in ranked:
        reason = f"not among the best {limit}" if len(kept) >= limit else room.take(row)
        if reason is None:
            kept.append(row)
        else:
            dropped.append({"id": row.id, "reason": reason, "quality": row.quality})
    return Selection(kept, dropped)


def in_order(rows: Sequence[Instruction], seed: int) -> list[Instruction]:
    """Rows in the order of a hash of seed and id."""
    return sorted(rows, key=lambda row: content_id(seed, row.id))


def hold_out(rows: Sequence[Instruction], share: float) -> tuple[list[Instruction], list[Instruction]]:
    """Rows to train on and rows to measure on; all rows of one instruction are on one side."""
    train: list[Instruction] = []
    held: list[Instruction] = []
    for row in rows:
        number = int.from_bytes(hashlib.sha256(row.instruction.encode()).digest()[:8], "big") / 2**64
        (held if number < share else train).append(row)
    return train, held

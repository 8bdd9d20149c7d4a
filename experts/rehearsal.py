"""What a model has learnt before, trained again among an expert's own texts, so that it is not forgotten.

Experts that were trained on their corpora alone move so far apart that their sum is no model: with a third to a half of
rehearsed tokens a merge of five 2.4M-parameter experts answered 21 % of questions exactly, without it 2 %.

Rows are drawn in an order that hangs on the seed and the phase, none twice before all were drawn. The blocks of all
epochs are laid out beforehand, rehearsed ones spread evenly among the others, so that every step has its share.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from experts.sequences import ENCODED_AT_ONCE, Phase, PhaseBuilder
from medsmith import run
from medsmith.answers import Messages
from medsmith.books import data_files
from medsmith.config import Block
from medsmith.documents import with_texts
from medsmith.errors import UserError
from medsmith.packing import pack
from medsmith.row_files import name_columns, stream_rows


class Rehearse(Block):
    """Rows to train again, and how many."""

    rows: list[Path] = Field(
        min_length=1,
        description="JSON Lines (.jsonl, .jsonl.gz) with `messages` (a chat) or `text` (a document) in each row, or "
        "finished run folders that hold some",
    )
    share: float = Field(0.35, gt=0, lt=1, description="of the tokens of every epoch, those of prompts counted")


class Row(NamedTuple):
    """A conversation or a document, and the name of what it was read from."""

    content: Messages | str
    source: str
    key: str


def read_rows(paths: Sequence[Path]) -> tuple[list[Row], dict[str, str]]:
    """All rows in order, and of files outside run folders the licences that they state, by source.

    Raises:
        UserError: an unfinished folder, a folder without rows, or a row with neither messages nor text.
    """
    rows: list[Row] = []
    licences: dict[str, str] = {}
    for path in paths:
        stated = run.find_record(path) is not None  # then its licences are carried on by the run itself
        for file in _files(path):
            for number, values in enumerate(with_texts(file, (row.values for row in stream_rows(file))), 1):
                found = list(_contents(values, f"{file} row {number}"))
                rows += [Row(content, f"rehearsed: {path.name}", f"{file.name}:{number}") for content in found]
                if not stated:
                    source = str(values.get("source") or path.name)
                    licences[source] = str(values.get("license") or licences.get(source) or "not stated")
    if not rows:
        raise UserError(f"rehearse.rows: no rows in {', '.join(map(str, paths))}")
    return rows, licences


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    run.require_finished(path)
    found = [file for pattern in ("*.jsonl", "*.jsonl.gz") for file in path.glob(pattern)]
    kept = [file for file in data_files(found) if not file.name.startswith("test")]
    if not kept:
        raise UserError(f"rehearse.rows: {path} holds no .jsonl or .jsonl.gz of rows; name a file")
    return kept


def _contents(values: Mapping[str, Any], where: str) -> Iterator[Messages | str]:
    messages, text = values.get("messages"), values.get("text")
    if not messages and not text:
        raise UserError(f"{where}: neither 'messages' nor 'text' ({name_columns(values)})")
    if messages:
        whole = isinstance(messages, list) and all(
            isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
            for turn in messages
        )
        if not whole:
            raise UserError(f"{where}: 'messages' must be a list of {{role: text, content: text}}")
        yield messages
    if text:
        yield str(text)


def rehearse(builder: PhaseBuilder, rows: Sequence[Row], settings: Rehearse, epochs: int, seed: int, name: str) -> None:
    """Put rows into the phase behind its own pieces, as many as all epochs need, and lay out its blocks.

    Raises:
        UserError: no row fits into a block.
    """
    phase, file = builder.phase, builder.phase.pieces
    phase.own = len(file)
    if not phase.tokens:
        return  # the phase has nothing to train on, which is said where it is trained
    # Taken before a piece is added: lengths are a copy, and so are the numbers.
    wanted = phase.tokens * settings.share / (1 - settings.share)
    order = list(range(len(rows)))
    random.Random(f"rehearse {seed} {name}").shuffle(order)
    tokens, used, left_out = 0, 0, len(phase.left_out)
    for start in range(0, len(order), ENCODED_AT_ONCE):
        if tokens >= wanted * epochs:
            break
        drawn = [rows[number] for number in order[start : start + ENCODED_AT_ONCE]]
        chats = iter(builder.encode_chats([row.content for row in drawn if not isinstance(row.content, str)]))
        texts = iter(builder.encode([row.content for row in drawn if isinstance(row.content, str)]))
        first = len(file)
        for row in drawn:
            if isinstance(row.content, str):
                builder.add_text(row.source, [next(texts)])
            else:
                builder.add_chat(row.source, row.key, next(chats))
        tokens += int((file.lengths[first:] - 1).sum())
        used += len(drawn)
    if not tokens:
        raise UserError(f"rehearse.rows: no row fits into max_tokens={builder.max_tokens}")
    phase.plan, rehearsed = lay_out(phase, wanted, epochs, builder.max_tokens, random.Random(f"order {seed} {name}"))
    phase.epochs = epochs
    own = epochs * phase.tokens
    total = int((file.lengths[rehearsed] - 1).sum())
    phase.rehearsed = {
        "share": round(total / (own + total), 4),
        "rows": len(rows),
        # The last rows may have been read in vain: an epoch ends where it has enough.
        "rows_read": used,
        "left_out": len(phase.left_out) - left_out,
        "epochs": epochs,
        "tokens": total,
        "trained": int(file.trained[rehearsed].sum()),
        "sources": phase.by_source(rehearsed),
    }


def lay_out(
    phase: Phase, wanted: float, epochs: int, max_tokens: int, rng: random.Random
) -> tuple[list[list[int]], np.ndarray]:
    """The blocks of all epochs in order, and the numbers of the pieces that are rehearsed in them, repeats and all.

    An epoch has each of its own pieces once and rehearsed ones of `wanted` tokens; the last one may go beyond, and the
    next epoch has less for it.
    """
    lengths = phase.pieces.lengths
    own, count = phase.numbers, len(phase.pieces)
    assert phase.own is not None and phase.own < count, "there are pieces to rehearse"
    packed = [[int(own[place]) for place in block] for block in pack(lengths[own].tolist(), max_tokens)]
    plan: list[list[int]] = []
    all_drawn: list[int] = []
    tokens, place = 0, phase.own
    for epoch in range(1, epochs + 1):
        drawn: list[int] = []
        while tokens < wanted * epoch:
            drawn.append(place)
            tokens += int(lengths[place]) - 1
            place = place + 1 if place + 1 < count else phase.own
        again = [[drawn[at] for at in block] for block in pack(lengths[drawn].tolist() if drawn else [], max_tokens)]
        rng.shuffle(packed)
        rng.shuffle(again)
        plan += evenly(packed, again)
        all_drawn += drawn
    return plan, np.array(all_drawn, dtype=np.int64)


def evenly(some: Sequence[list[int]], others: Sequence[list[int]]) -> list[list[int]]:
    """Two lists in one, each in its order and spread over the whole."""
    places = [((n + 0.5) / len(part), side, n) for side, part in enumerate((some, others)) for n in range(len(part))]
    return [(some, others)[side][n] for _, side, n in sorted(places)]


def whole_epochs(epochs: float) -> int:
    """How many epochs are laid out for a training of so many, the last one perhaps in part."""
    return max(1, math.ceil(epochs))

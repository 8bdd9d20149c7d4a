"""What SFT and DPO share before the first step: rows chosen and counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align import rows as select
from align.mix import Picked, Source, distinct, schedule, turns_of
from align.quotas import Quotas, idle
from medsmith.errors import UserError
from medsmith.records import Instruction, read_jsonl, read_parquet, write_jsonl
from medsmith.run import Run

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """Rows in the order of training, a repeated one as often as it is trained, and rows held out.

    `counts` are rows = train + heldout + dropped, each row once.
    """

    train: list[Instruction]
    heldout: list[Instruction]
    counts: dict[str, int]
    parts: dict[str, Picked]
    turns: dict[str, int]
    """How many rows of each source are trained, repeats counted."""
    sources: list[str]
    """Of each row to train on, its source."""


def choose_rows(
    this: Run,
    data: Path,
    tokenizer: Any,
    max_tokens: int,
    heldout_share: float,
    top_rows: int | None = None,
    pairs: bool = False,
    quotas: Quotas | None = None,
) -> Chosen:
    """Read the rows of a curate or pair folder, drop what cannot be trained on into dropped.jsonl, hold some out.

    Raises:
        UserError: nothing is left to train on; the commonest reason is named.
    """
    picked = _pick(data, tokenizer, this.config.seed, max_tokens, heldout_share, top_rows, pairs, quotas)
    parts, turns = {"data": picked}, {"data": len(picked.train)}
    return _chosen(this, str(data), parts, turns, picked.train, ["data"] * len(picked.train))


def choose_mix(this: Run, mix: Mapping[str, Source], tokenizer: Any, max_tokens: int, heldout_share: float) -> Chosen:
    """As `choose_rows`, for several sources; the rows are in the order that the mixture wants, repeats and all."""
    seed = this.config.seed
    found = {
        name: _pick(source.data, tokenizer, seed, max_tokens, heldout_share, source.rows, False, source.quotas)
        for name, source in mix.items()
    }
    parts = distinct(found)
    turns = turns_of(mix, {name: len(picked.train) for name, picked in parts.items()})
    order = schedule({name: picked.train for name, picked in parts.items()}, turns, seed)
    return _chosen(this, "mix", parts, turns, [turn.row for turn in order], [turn.source for turn in order])


def read_source(data: Path) -> list[Instruction]:
    """The rows of a folder: Parquet in data/ or in itself, or the questions that experts.prepare had a teacher write.

    Raises:
        UserError: a row of experts.prepare that is no question with its answer.
    """
    written = data / "rows.jsonl"
    if (data / "data").is_dir():
        return read_parquet(data / "data")
    return select.from_questions(read_jsonl(written), written) if written.is_file() else read_parquet(data)


def _pick(
    data: Path,
    tokenizer: Any,
    seed: int,
    max_tokens: int,
    heldout_share: float,
    top_rows: int | None,
    pairs: bool,
    quotas: Quotas | None,
) -> Picked:
    found = read_source(data)
    rows, dropped = select.usable(found, pairs)
    lengths = count_tokens(rows, tokenizer, pairs)
    by_id = {row.id: length for row, length in zip(rows, lengths, strict=True)}
    rows, long = select.short_enough(rows, lengths, max_tokens)
    for warning in idle(quotas or {}, rows):
        LOG.warning("%s", warning)
    rows, rest = select.best(rows, top_rows, seed, quotas)
    train, heldout = select.hold_out(select.in_order(rows, seed), heldout_share)
    picked = Picked(train, heldout, [*dropped, *long, *rest], by_id)
    assert picked.rows == len(found), "no row vanishes"
    return picked


def _chosen(
    this: Run,
    where: str,
    parts: dict[str, Picked],
    turns: dict[str, int],
    train: list[Instruction],
    sources: list[str],
) -> Chosen:
    dropped = [
        row | ({"source": name} if len(parts) > 1 else {}) for name, part in parts.items() for row in part.dropped
    ]
    heldout = [row for part in parts.values() for row in part.heldout]
    counts = {
        "rows": sum(part.rows for part in parts.values()),
        "train": sum(len(part.train) for part in parts.values()),
        "heldout": len(heldout),
        "dropped": len(dropped),
    }
    assert counts["rows"] == counts["train"] + counts["heldout"] + counts["dropped"], "no row vanishes"
    write_jsonl(this.folder / "dropped.jsonl", dropped)
    if not train:
        reasons = [row["reason"] for row in dropped]
        common = max(sorted(set(reasons)), key=reasons.count) if reasons else "all are held out"
        raise UserError(f"{where}: of {counts['rows']} rows none is left to train on; most often: {common}")
    return Chosen(train, heldout, counts, parts, turns, sources)


def require_context(chosen: Chosen, ref: str | Path, max_tokens: int) -> None:
    """Refuse rows that are longer than the model's context: most models read them without a word, and unsoundly."""
    from medsmith.models import context_of

    context = context_of(ref)
    if context is None or max_tokens <= context:
        return
    rows = [part.lengths[row.id] for part in chosen.parts.values() for row in (*part.train, *part.heldout)]
    longer = [length for length in rows if length > context]
    if longer:
        raise UserError(
            f"max_tokens={max_tokens} is more than the context of {ref}, {context}, and {len(longer)} rows are longer "
            f"than that, up to {max(longer)} tokens; set max_tokens={context}, which drops them"
        )


def count_tokens(rows: Sequence[Instruction], tokenizer: Any, pairs: bool = False) -> list[int]:
    """The length of each row's conversation, of the longer one of a pair, in tokens."""
    if not rows:
        return []

    def lengths(conversations: list[list[dict[str, str]]]) -> list[int]:
        texts = tokenizer.apply_chat_template(conversations, tokenize=False)
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    found = lengths([select.messages(row) for row in rows])
    if pairs:
        rejected = lengths([[*select.prompt(row), *select.preference(row)["rejected"]] for row in rows])
        found = [max(both) for both in zip(found, rejected, strict=True)]
    return found


def beginnings(chosen: Chosen, tokenizer: Any, count: int = 8) -> list[list[int]]:
    """Conversations up to the assistant's turn, as token ids: of held-out rows, of trained ones where none are held."""
    from medsmith.likelihood import encode_chat

    return encode_chat(tokenizer, [select.prompt(row) for row in (chosen.heldout or chosen.train)[:count]])


def data_rows(table: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a report says of each source: its turns and their tokens."""
    return [{"source": name, "rows": one["turns"], "tokens": one["tokens"]} for name, one in table.items()]

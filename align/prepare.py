"""What SFT and DPO share before the first step: rows chosen and counted, and the loss mask looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align import rows as select
from medsmith.errors import UserError
from medsmith.records import Instruction, read_parquet, write_jsonl
from medsmith.run import Run

SHOWN_ROWS = 3
CHECKED_ROWS = 256


@dataclass(frozen=True)
class Chosen:
    """Rows to train on, rows held out, and how many of each (`counts`: rows = train + heldout + dropped)."""

    train: list[Instruction]
    heldout: list[Instruction]
    counts: dict[str, int]


def choose_rows(
    this: Run,
    data: Path,
    tokenizer: Any,
    max_tokens: int,
    heldout_share: float,
    top_rows: int | None = None,
    pairs: bool = False,
) -> Chosen:
    """Read the rows of a curate or pair folder, drop what cannot be trained on into dropped.jsonl, hold some out.

    Raises:
        UserError: nothing is left to train on; the commonest reason is named.
    """
    found = read_parquet(data / "data" if (data / "data").is_dir() else data)
    rows, dropped = select.usable(found, pairs)
    rows, long = select.short_enough(rows, count_tokens(rows, tokenizer, pairs), max_tokens)
    rows, rest = select.best(rows, top_rows, this.config.seed)
    dropped = [*dropped, *long, *rest]
    train, heldout = select.hold_out(select.in_order(rows, this.config.seed), heldout_share)
    counts = {"rows": len(found), "train": len(train), "heldout": len(heldout), "dropped": len(dropped)}
    assert counts["rows"] == counts["train"] + counts["heldout"] + counts["dropped"], "no row vanishes"
    write_jsonl(this.folder / "dropped.jsonl", dropped)
    if not train:
        reasons = [row["reason"] for row in dropped]
        common = max(sorted(set(reasons)), key=reasons.count) if reasons else "all are held out"
        raise UserError(f"{data}: of {len(found)} rows none is left to train on; most often: {common}")
    return Chosen(train, heldout, counts)


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


def check_masks(sequences: Sequence[tuple[list[int], list[int]]], tokenizer: Any, shown: Path) -> float:
    """Look at what is trained: (token ids, 1 where trained else 0) of some rows; return the share trained.

    Writes the first rows to `shown`, the trained text between brackets, for a person to read.

    Raises:
        UserError: a row trains on nothing, or never on the end of a turn (such a model does not stop).
    """
    from medsmith.training import end_of_turn

    end = end_of_turn(tokenizer)
    name = tokenizer.convert_ids_to_tokens(end)
    pages = []
    for number, (ids, mask) in enumerate(sequences):
        trained = [token for token, on in zip(ids, mask, strict=True) if on]
        page = render(ids, mask, tokenizer)
        if not trained:
            raise UserError(f"training row {number} trains on nothing: {page[:200]!r}; see the chat template's mask")
        if end not in trained:
            raise UserError(
                f"training row {number} never trains {name}, the end of a turn, so the model would not stop; put it "
                "inside {% generation %} of the chat template, or raise max_tokens"
            )
        pages.append(page)
    shown.write_text("\n----\n".join(pages[:SHOWN_ROWS]) + "\n")
    return sum(sum(mask) for _, mask in sequences) / sum(len(mask) for _, mask in sequences)


def render(ids: Sequence[int], mask: Sequence[int], tokenizer: Any) -> str:
    """The text of a row, what is trained between ⟦ and ⟧."""
    parts: list[str] = []
    start = 0
    for index in range(1, len(ids) + 1):
        if index == len(ids) or bool(mask[index]) != bool(mask[start]):
            text = tokenizer.decode(ids[start:index])
            parts.append(f"⟦{text}⟧" if mask[start] else text)
            start = index
    return "".join(parts)

"""The mask doctor: what is trained, looked at before the first step, after truncation, packing and collating.

    share = look(trainer, tokenizer, CHAT, this.folder, show=True, labels=[row.task_type for row in rows])

A fault in the mask gives a normal loss curve and a model that never stops, or that learnt nothing. So rows spread over
the whole training set are taken as the collator gives them to the model, and the run ends with one line where a row
trains on nothing, where the end of a turn or of a document is not trained, where the trained share is not that of its
kind, or where a packed row's positions do not fit its documents. Three rows are shown to whoever reads: on standard
error, in `mask.txt` and in `mask.html`. Texts that must stay private are shown as counts of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from medsmith.errors import UserError

EXAMINED = 256
SHOWN = 3


@dataclass(frozen=True)
class Kind:
    """What rows of one kind train on."""

    name: str
    end: Literal["turn", "document", "either"]
    """What closes every part that is trained; either: a document, where all of it is trained, else a turn."""
    low: float
    high: float
    """The plausible share of trained tokens. Of documents the first token is context, and is not counted."""


CHAT = Kind("assistant turns", "turn", 0.002, 0.95)
"""Short answers to long notes: a label of four tokens under 2,000 tokens of prompt is 0.2 %."""
CONVERSATIONS = Kind("whole conversations", "turn", 0.9, 1.0)
OUTPUTS = Kind("outputs", "document", 1.0, 1.0)
"""Phase 1 of pre-instruction tuning: rows are outputs and nothing else, so all of them is trained."""
DOCUMENTS = Kind("documents", "document", 1.0, 1.0)
DOCUMENTS_AND_CHATS = Kind("documents and assistant turns", "either", 0.002, 1.0)


@dataclass(frozen=True)
class Row:
    """One row as the model gets it, without padding."""

    number: int
    """Its place in the training set."""
    ids: list[int]
    trained: list[bool]
    lengths: list[int]
    """Of the documents or conversations that are packed in it."""
    label: str = ""

    def members(self) -> Iterator[tuple[list[int], list[bool]]]:
        """What is packed in it, one by one."""
        start = 0
        for length in self.lengths:
            yield self.ids[start : start + length], self.trained[start : start + length]
            start += length


def look(
    trainer: Any,
    tokenizer: Any,
    kind: Kind,
    folder: Path,
    *,
    show: bool,
    name: str = "mask",
    labels: Sequence[str] | None = None,
    longest: int | None = None,
) -> float:
    """Examine what `trainer` would train, write `<name>.txt` and `<name>.html`; return the share of trained tokens.

    `labels` says of each row what it is, so that unlike rows are shown; `longest` is the length at which documents are
    cut into pieces, which end without an end.

    Raises:
        UserError: a fault; the row is named.
    """
    from medsmith.mask_page import write_pages

    rows = collated(trainer, labels)
    share = examine(rows, tokenizer, kind, show=show, longest=longest)
    write_pages(unlike(rows, SHOWN), tokenizer, folder, name, f"{kind.name}, {share:.1%} trained", show)
    return share


def unlike(rows: Sequence[Row], count: int) -> list[Row]:
    """So many rows: the first of each label, then those spread over the rest; in the order of the set."""
    firsts = list({row.label: index for index, row in reversed(list(enumerate(rows)))}.values())
    chosen = sorted(firsts)[:count]
    others = (index for index in [*spread(len(rows), count), *range(len(rows))] if index not in firsts)
    chosen += list(dict.fromkeys(others))[: count - len(chosen)]
    return [rows[index] for index in sorted(chosen)]


def spread(total: int, count: int) -> list[int]:
    """At most `count` numbers below `total`, evenly spaced, the first and the last among them."""
    if count >= total:
        return list(range(total))
    return [round(place * (total - 1) / max(1, count - 1)) for place in range(count)]


def collated(trainer: Any, labels: Sequence[str] | None = None, most: int = EXAMINED) -> list[Row]:
    """Rows spread over the training set, in batches as the collator makes them."""
    data = trainer.train_dataset
    if hasattr(data, "__len__"):
        numbers = spread(len(data), most)
        examples = [data[number] for number in numbers]
    else:  # a stream: its beginning
        examples = list(islice(data, most))
        numbers = list(range(len(examples)))
    size = max(1, trainer.args.per_device_train_batch_size)
    found: list[Row] = []
    for start in range(0, len(examples), size):
        part, places = examples[start : start + size], numbers[start : start + size]
        found += _rows(trainer.data_collator(part), part, places, labels)
    return found


def _rows(
    batch: dict[str, Any], examples: Sequence[dict[str, Any]], numbers: Sequence[int], labels: Sequence[str] | None
) -> list[Row]:
    ids, trained = batch["input_ids"].tolist(), _trained(batch, numbers)
    seen = batch["attention_mask"].tolist() if "attention_mask" in batch else None
    named = [labels[number] if labels else "" for number in numbers]
    if len(ids) == 2 * len(examples):  # pairs: all chosen, then all rejected
        assert seen is not None, "pairs are padded"
        return [
            _row(number, ids[at], trained[at], [sum(seen[at])], seen[at], None, ", ".join(filter(None, (label, side))))
            for place, (number, label) in enumerate(zip(numbers, named, strict=True))
            for side, at in (("chosen", place), ("rejected", place + len(numbers)))
        ]
    lengths = [list(example.get("seq_lengths") or [len(example["input_ids"])]) for example in examples]
    positions = batch["position_ids"].tolist() if "position_ids" in batch else None
    if len(ids) == 1 and len(examples) > 1:  # flattened: one row for all examples
        ids, trained, positions = _unflatten(ids[0], trained[0], positions and positions[0], lengths)
    return [
        _row(
            number,
            ids[place],
            trained[place],
            lengths[place],
            seen[place] if seen else None,
            positions[place] if positions else None,
            named[place],
        )
        for place, number in enumerate(numbers)
    ]


def _trained(batch: dict[str, Any], numbers: Sequence[int]) -> list[list[bool]]:
    """Which tokens have a label.

    Raises:
        UserError: a label is not the token that stands there; the model itself looks one ahead.
    """
    if "labels" not in batch:
        return [[bool(value) for value in row] for row in batch["completion_mask"].tolist()]
    labelled = batch["labels"] != -100
    wrong = (labelled & (batch["labels"] != batch["input_ids"])).nonzero().tolist()
    if wrong:
        row, at = wrong[0]
        raise UserError(
            f"training rows {numbers[0]} to {numbers[-1]}: the label at token {at} of row {row} of the batch is "
            f"{int(batch['labels'][row, at])} and the token is {int(batch['input_ids'][row, at])}; labels are not to "
            "be shifted"
        )
    found: list[list[bool]] = labelled.tolist()
    return found


def _unflatten(ids: list[int], trained: list[bool], positions: Any, lengths: list[list[int]]) -> tuple[Any, Any, Any]:
    cuts = [0]
    for members in lengths:
        cuts.append(cuts[-1] + sum(members))
    # Padding to a multiple, where there is some, stays with the last row.
    cuts[-1] = len(ids)
    pairs = list(zip(cuts, cuts[1:], strict=False))
    split = [positions[a:b] for a, b in pairs] if positions else None
    return [ids[a:b] for a, b in pairs], [trained[a:b] for a, b in pairs], split


def _row(
    number: int,
    ids: list[int],
    trained: list[bool],
    lengths: list[int],
    seen: list[int] | None,
    positions: list[int] | None,
    label: str,
) -> Row:
    """One row without its padding.

    Raises:
        UserError: padding is trained, or positions, lengths and tokens do not fit.
    """
    total = sum(lengths)
    kept = [index for index, on in enumerate(seen) if on] if seen else list(range(min(total, len(ids))))
    if sum(trained) > sum(trained[index] for index in kept):
        raise UserError(f"training row {number} trains padding; its labels must be -100 where there is no text")
    if len(kept) != total:
        raise UserError(
            f"training row {number} holds {len(kept)} tokens and its documents have {total}; pack it anew, with the "
            "lengths of what is in it"
        )
    if len(lengths) > 1 and positions is None:
        raise UserError(
            f"training row {number} packs {len(lengths)} documents and tells no positions, so that each sees the ones "
            "before; set padding_free: true, or do not pack"
        )
    expected = [place for length in lengths for place in range(length)]
    if positions is not None and (got := [positions[index] for index in kept]) != expected:
        at = next(index for index, pair in enumerate(zip(got, expected, strict=True)) if pair[0] != pair[1])
        raise UserError(
            f"training row {number}: token {at} has position {got[at]} and should have {expected[at]}, by the lengths "
            f"of its {len(lengths)} documents; a token would see another document"
        )
    # Nothing predicts the first token of a row: its label is never used.
    mask = [trained[index] and place > 0 for place, index in enumerate(kept)]
    return Row(number, [ids[index] for index in kept], mask, lengths, label)


def examine(rows: Sequence[Row], tokenizer: Any, kind: Kind, *, show: bool = True, longest: int | None = None) -> float:
    """The share of trained tokens.

    Raises:
        UserError: a row trains on nothing or never on an end, or the share is not plausible.
    """
    from medsmith.borders import end_of_document, end_of_turn

    ends = {"turn": end_of_turn(tokenizer), "document": end_of_document(tokenizer)}
    names = {part: tokenizer.convert_ids_to_tokens(end) for part, end in ends.items()}
    for row in rows:
        start = 0
        for ids, trained in row.members():
            where = f"training row {row.number}" + (f", token {start}" if len(row.lengths) > 1 else "")
            if not any(trained):
                raise UserError(f"{where} trains on nothing{_said(ids, tokenizer, show)}; see the chat template's mask")
            if start and trained[0]:
                raise UserError(f"{where}: the first token of a document is trained, predicted from another document")
            of = kind.end if kind.end != "either" else "document" if all(trained[1:]) else "turn"
            if of == "turn":
                _check_turns(ids, trained, ends[of], names[of], where)
            else:
                _check_document(ids, trained, ends[of], names[of], where, longest)
            start += len(ids)
    counted = sum(len(row.ids) - (len(row.lengths) if kind.end != "turn" else 0) for row in rows)
    share = sum(sum(row.trained) for row in rows) / counted
    if not kind.low <= share <= kind.high:
        raise UserError(
            f"{share:.2%} of the tokens of {len(rows)} rows are trained; of {kind.name} it is {kind.low:.1%} to "
            f"{kind.high:.0%}: look at the mask, then at the chat template, max_tokens and the data"
        )
    return share


def _check_turns(ids: list[int], trained: list[bool], end: int, name: str, where: str) -> None:
    for run in spans(trained):
        if trained[run.start] and end not in ids[run.start : run.stop]:
            raise UserError(
                f"{where} never trains {name}, the end of a turn, so the model would not stop; put it "
                "inside {% generation %} of the chat template, or raise max_tokens"
            )


def _check_document(ids: list[int], trained: list[bool], end: int, name: str, where: str, longest: int | None) -> None:
    if not all(trained[1:]):
        raise UserError(f"{where}: token {trained.index(False, 1)} of a document is not trained; all but the first are")
    if ids[-1] != end and len(ids) != longest:
        raise UserError(
            f"{where} never trains {name}, the end of a document, so the model would not end a text; close every "
            "document with it"
        )


def spans(trained: Sequence[bool]) -> Iterator[range]:
    """The runs of tokens that are all trained or all not."""
    start = 0
    for index in range(1, len(trained) + 1):
        if index == len(trained) or trained[index] != trained[start]:
            yield range(start, index)
            start = index


def _said(ids: Sequence[int], tokenizer: Any, show: bool) -> str:
    return f": {tokenizer.decode(ids)[:200]!r}" if show else f" ({len(ids)} tokens)"

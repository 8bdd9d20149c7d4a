"""Documents and their rows as token sequences, and sequences as blocks. Pure but for the file of tokens; no torch.

A sequence begins with the token that begins a document and closes every part with the token that ends one, so that each
token of each part is predicted from something. A sequence longer than a block is cut into pieces that share one token:
it ends the first and begins the second, where it is context, so that every token is still trained exactly once.

A conversation is a sequence of its own, of which what the assistant says is trained; one longer than a block is left
out, for a part of it would be an answer to nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from experts.pieces import Pieces
from medsmith.answers import Messages
from medsmith.packing import Labelled, block_row, pack
from medsmith.records import Document

Encode = Callable[[list[str]], list[list[int]]]
EncodeChats = Callable[[Sequence[Messages]], list[Labelled]]
Converse = Callable[[Document, list[str]], list[Messages]]

ENCODED_AT_ONCE = 1024
"""Documents given to the tokenizer together, and the most whose texts are in memory."""


@dataclass(frozen=True)
class Marks:
    """The token ids that begin and end a document."""

    begin: int
    end: int


@dataclass
class Phase:
    """What one phase trains on, and how it was counted. `documents` counts those that gave anything to train on."""

    pieces: Pieces
    own: int | None = None
    """So many pieces are of the documents; those behind them are rehearsed. None: all."""
    documents: int = 0
    outputs: int = 0
    split: int = 0
    """Sequences longer than a block."""
    chats: int = 0
    """Conversations among the pieces."""
    left_out: list[dict[str, str]] = field(default_factory=list)
    """Conversations that no block can hold: of which document, and why."""
    corpora: dict[str, range] = field(default_factory=dict)
    """Numbers of the documents of each corpus of a mixture."""
    ranks: array[float] = field(default_factory=lambda: array("d"))
    """Of each document of a mixture, by number: the lower, the sooner it is taken."""
    chosen: np.ndarray | None = None
    """Numbers of the pieces of documents that are trained on, repeats and all; None: all once."""
    plan: list[list[int]] | None = None
    """The blocks of `epochs` epochs in the order of their training; None: one epoch, in any order."""
    epochs: int = 1
    rehearsed: dict[str, Any] = field(default_factory=dict)
    """What was drawn to be rehearsed, for data.json."""

    @property
    def numbers(self) -> np.ndarray:
        """The pieces that are trained on, without those that are rehearsed."""
        return np.arange(len(self.pieces) if self.own is None else self.own) if self.chosen is None else self.chosen

    @property
    def tokens(self) -> int:
        """Tokens of one epoch, without those that are rehearsed; the first of a piece is context and not counted."""
        return int((self.pieces.lengths[self.numbers] - 1).sum())

    def summary(self) -> dict[str, Any]:
        """Counts for data.json."""
        numbers = self.numbers
        return {
            "documents": self.documents,
            "outputs": self.outputs,
            "split": self.split,
            "chats": self.chats,
            "left_out": len(self.left_out),
            "pieces": len(numbers),
            "tokens": self.tokens,
            "trained": int(self.pieces.trained[numbers].sum()),
            "sources": self.by_source(numbers),
        } | ({"rehearsed": self.rehearsed} if self.rehearsed else {})

    def by_source(self, numbers: np.ndarray) -> dict[str, int]:
        """Tokens of these pieces by the source that they are of, without the first of each."""
        pieces = self.pieces
        counts = np.bincount(pieces.source_numbers[numbers], (pieces.lengths - 1)[numbers], len(pieces.sources))
        return {name: int(count) for name, count in sorted(zip(pieces.sources, counts, strict=True)) if count}

    def blocks(self, max_tokens: int) -> list[list[int]]:
        """The numbers of the pieces in each block: as planned, else packed best-fit."""
        if self.plan is not None:
            return self.plan
        numbers = self.numbers
        packed = pack(self.pieces.lengths[numbers].tolist(), max_tokens)
        if self.chosen is None:
            return packed
        return [[int(numbers[place]) for place in block] for block in packed]

    def rows(self, blocks: Sequence[Sequence[int]]) -> Iterator[dict[str, list[int]]]:
        """Blocks as a trainer's rows: input_ids, labels (a piece's first token is context), seq_lengths."""
        for block in blocks:
            members = [self.pieces[number] for number in block]
            yield block_row([Labelled(piece.tokens, piece.labels) for piece in members])


class PhaseBuilder:
    """Makes the pieces of one phase, corpus by corpus."""

    def __init__(
        self,
        encode: Encode,
        marks: Marks,
        max_tokens: int,
        file: Path | None = None,
        *,
        write: bool = True,
        encode_chats: EncodeChats | None = None,
    ) -> None:
        """`file` is where the tokens are kept, None: in memory; without `write` another process writes it."""
        self.encode = encode
        self._encode_chats = encode_chats
        self.marks = marks
        self.max_tokens = max_tokens
        self.phase = Phase(Pieces(file, write=write))

    def add(
        self,
        documents: Iterable[Document],
        outputs: Mapping[str, list[str]],
        *,
        with_documents: bool,
        name: str = "",
        rank: Callable[[str], float] = lambda key: 0.0,
        converse: Converse | None = None,
    ) -> None:
        """Add of each document its outputs, then, `with_documents`, its text, in one sequence.

        With `converse` the outputs are conversations, each a sequence of its own beside that of the text. Documents
        that give nothing to train on are not counted. In a mixture the corpus has a `name`, and each id of a document a
        `rank`.
        """
        phase, first = self.phase, self.phase.documents
        for batch in _batched(documents, ENCODED_AT_ONCE):
            rows = [outputs.get(one.id, []) for one in batch]
            chats = [converse(one, texts) if converse else [] for one, texts in zip(batch, rows, strict=True)]
            parts = [
                [*([] if converse else texts), *([one.text] if with_documents else [])]
                for one, texts in zip(batch, rows, strict=True)
            ]
            encoded = iter(self.encode([text for texts in parts for text in texts]))
            talks = iter(self.encode_chats([chat for found in chats for chat in found]))
            for document, texts, found in zip(batch, parts, chats, strict=True):
                kept = sum(self.add_chat(document.source, document.id, next(talks)) for _ in found)
                if texts:
                    self.add_text(document.source, [next(encoded) for _ in texts])
                elif not kept:
                    continue
                phase.documents += 1
                phase.outputs += kept + len(texts) - with_documents
                if name:
                    phase.ranks.append(rank(document.id))
        if name:
            phase.corpora[name] = range(first, phase.documents)

    def encode_chats(self, chats: Sequence[Messages]) -> list[Labelled]:
        """Conversations as tokens and labels."""
        if not chats:
            return []
        assert self._encode_chats is not None, "who adds conversations says how they are encoded"
        return self._encode_chats(chats)

    def add_chat(self, source: str, key: str, chat: Labelled) -> bool:
        """Add a conversation, or note why it is left out."""
        if (length := len(chat.tokens)) > self.max_tokens:
            reason = f"a conversation of {length} tokens, and max_tokens={self.max_tokens}"
            self.phase.left_out.append({"document_id": key, "source": source, "reason": reason})
            return False
        self.phase.pieces.append(source, self.phase.documents, chat)
        self.phase.chats += 1
        return True

    def add_text(self, source: str, parts: Sequence[list[int]]) -> None:
        """Add parts, each closed by an end, as one sequence."""
        tokens = [self.marks.begin]
        for part in parts:
            tokens += [*part, self.marks.end]
        pieces = cut(tokens, self.max_tokens)
        for piece in pieces:
            self.phase.pieces.append(source, self.phase.documents, Labelled(piece, piece))
        self.phase.split += len(pieces) > 1

    def finish(self) -> Phase:
        """Close the file; the phase."""
        self.phase.pieces.close()
        return self.phase


def build_phase(
    documents: Iterable[Document],
    outputs: Mapping[str, list[str]],
    encode: Encode,
    marks: Marks,
    max_tokens: int,
    *,
    with_documents: bool,
    file: Path | None = None,
) -> Phase:
    """Make a phase of one corpus.

    Domain adaptive pre-training has no outputs; phase 1 of pre-instruction tuning, and training on rewrites, has no
    documents; phase 2 has both, one sequence a document.
    """
    builder = PhaseBuilder(encode, marks, max_tokens, file)
    builder.add(documents, outputs, with_documents=with_documents)
    return builder.finish()


def _batched(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    left = iter(documents)
    while batch := list(islice(left, size)):
        yield batch


def cut(tokens: list[int], max_tokens: int) -> list[list[int]]:
    """Pieces of at most `max_tokens`; each begins with the last token of the one before."""
    starts = range(0, max(1, len(tokens) - 1), max_tokens - 1)
    return [tokens[start : start + max_tokens] for start in starts]

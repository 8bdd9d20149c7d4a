"""Documents and their rows as token sequences, and sequences as blocks. Pure functions; no torch.

A sequence begins with the token that begins a document and closes every part with the token that ends one, so that each
token of each part is predicted from something. A sequence longer than a block is cut into pieces that share one token:
it ends the first and begins the second, where it is context, so that every token is still trained exactly once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from medsmith.packing import Labelled, pack_rows
from medsmith.records import Document

Encode = Callable[[list[str]], list[list[int]]]


@dataclass(frozen=True)
class Marks:
    """The token ids that begin and end a document."""

    begin: int
    end: int


@dataclass(frozen=True)
class Piece:
    """Tokens that are trained together; the first is context only."""

    source: str
    tokens: list[int]


@dataclass
class Phase:
    """What one phase trains on, and how it was counted."""

    documents: int = 0
    outputs: int = 0
    split: int = 0
    """Sequences longer than a block."""
    pieces: list[Piece] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens trained in one epoch."""
        return sum(len(piece.tokens) - 1 for piece in self.pieces)

    def summary(self) -> dict[str, Any]:
        """Counts for data.json."""
        tokens: defaultdict[str, int] = defaultdict(int)
        for piece in self.pieces:
            tokens[piece.source] += len(piece.tokens) - 1
        return {
            "documents": self.documents,
            "outputs": self.outputs,
            "split": self.split,
            "pieces": len(self.pieces),
            "tokens": self.tokens,
            "sources": dict(sorted(tokens.items())),
        }


def build_phase(
    documents: Sequence[Document],
    outputs: dict[str, list[str]],
    encode: Encode,
    marks: Marks,
    max_tokens: int,
    *,
    with_documents: bool,
) -> Phase:
    """Make the pieces of one phase: of each document its outputs, then, `with_documents`, its text.

    Domain adaptive pre-training has no outputs; phase 1 of pre-instruction tuning has no documents; phase 2 has both,
    one sequence a document. A document that gives nothing to train on is not counted.
    """
    phase = Phase()
    parts = [[*outputs.get(document.id, []), *([document.text] if with_documents else [])] for document in documents]
    encoded = iter(encode([text for texts in parts for text in texts]))
    for document, texts in zip(documents, parts, strict=True):
        if not texts:
            continue
        tokens = [marks.begin]
        for _ in texts:
            tokens += [*next(encoded), marks.end]
        pieces = cut(tokens, max_tokens)
        phase.documents += 1
        phase.outputs += len(texts) - with_documents
        phase.split += len(pieces) > 1
        phase.pieces += [Piece(document.source, piece) for piece in pieces]
    return phase


def cut(tokens: list[int], max_tokens: int) -> list[list[int]]:
    """Pieces of at most `max_tokens`; each begins with the last token of the one before."""
    starts = range(0, max(1, len(tokens) - 1), max_tokens - 1)
    return [tokens[start : start + max_tokens] for start in starts]


def block_rows(pieces: Sequence[Piece], max_tokens: int) -> list[dict[str, list[int]]]:
    """Blocks as a trainer's rows: input_ids, labels (a piece's first token is context), seq_lengths."""
    return pack_rows([Labelled(piece.tokens, piece.tokens) for piece in pieces], max_tokens)

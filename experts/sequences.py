"""Documents and their rows as token sequences, and sequences as blocks. Pure but for the file of tokens; no torch.

A sequence begins with the token that begins a document and closes every part with the token that ends one, so that each
token of each part is predicted from something. A sequence longer than a block is cut into pieces that share one token:
it ends the first and begins the second, where it is context, so that every token is still trained exactly once.
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
from medsmith.packing import Labelled, block_row, pack
from medsmith.records import Document

Encode = Callable[[list[str]], list[list[int]]]

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
    documents: int = 0
    outputs: int = 0
    split: int = 0
    """Sequences longer than a block."""
    corpora: dict[str, range] = field(default_factory=dict)
    """Numbers of the documents of each corpus of a mixture."""
    ranks: array[float] = field(default_factory=lambda: array("d"))
    """Of each document of a mixture, by number: the lower, the sooner it is taken."""
    chosen: np.ndarray | None = None
    """Numbers of the pieces that are trained on, repeats and all; None: all once."""

    @property
    def numbers(self) -> np.ndarray:
        """The pieces that are trained on."""
        return np.arange(len(self.pieces)) if self.chosen is None else self.chosen

    @property
    def tokens(self) -> int:
        """Tokens trained in one epoch."""
        return int((self.pieces.lengths[self.numbers] - 1).sum())

    def summary(self) -> dict[str, Any]:
        """Counts for data.json."""
        numbers = self.numbers
        trained = (self.pieces.lengths - 1)[numbers]
        by_source = np.bincount(self.pieces.source_numbers[numbers], trained, len(self.pieces.sources))
        names = self.pieces.sources
        return {
            "documents": self.documents,
            "outputs": self.outputs,
            "split": self.split,
            "pieces": len(numbers),
            "tokens": self.tokens,
            "sources": {names[n]: int(by_source[n]) for n in sorted(range(len(names)), key=names.__getitem__)},
        }

    def blocks(self, max_tokens: int) -> list[list[int]]:
        """The numbers of the pieces in each block, packed best-fit."""
        numbers = self.numbers
        packed = pack(self.pieces.lengths[numbers].tolist(), max_tokens)
        if self.chosen is None:
            return packed
        return [[int(numbers[place]) for place in block] for block in packed]

    def rows(self, blocks: Sequence[Sequence[int]]) -> Iterator[dict[str, list[int]]]:
        """Blocks as a trainer's rows: input_ids, labels (a piece's first token is context), seq_lengths."""
        for block in blocks:
            members = [self.pieces[number].tokens for number in block]
            yield block_row([Labelled(tokens, tokens) for tokens in members])


class PhaseBuilder:
    """Makes the pieces of one phase, corpus by corpus."""

    def __init__(
        self, encode: Encode, marks: Marks, max_tokens: int, file: Path | None = None, *, write: bool = True
    ) -> None:
        """`file` is where the tokens are kept, None: in memory; without `write` another process writes it."""
        self.encode = encode
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
    ) -> None:
        """Add of each document its outputs, then, `with_documents`, its text, in one sequence.

        Documents that give nothing to train on are not counted. In a mixture the corpus has a `name`, and each id of a
        document a `rank`.
        """
        phase, first = self.phase, self.phase.documents
        for batch in _batched(documents, ENCODED_AT_ONCE):
            parts = [[*outputs.get(one.id, []), *([one.text] if with_documents else [])] for one in batch]
            encoded = iter(self.encode([text for texts in parts for text in texts]))
            for document, texts in zip(batch, parts, strict=True):
                if not texts:
                    continue
                tokens = [self.marks.begin]
                for _ in texts:
                    tokens += [*next(encoded), self.marks.end]
                pieces = cut(tokens, self.max_tokens)
                for piece in pieces:
                    phase.pieces.append(document.source, phase.documents, piece)
                phase.documents += 1
                phase.outputs += len(texts) - with_documents
                phase.split += len(pieces) > 1
                if name:
                    phase.ranks.append(rank(document.id))
        if name:
            phase.corpora[name] = range(first, phase.documents)

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

"""Pieces of text as numbers, one after another: in memory, or in a file where a corpus is larger than memory.

Of each piece a few bytes are in memory in either case: where it begins, its source and its document.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple, overload

import numpy as np

from medsmith.packing import IGNORED, Labelled

READ = 1 << 31
"""The bit, above every token id, of a token that is only read and not trained."""


class Piece(NamedTuple):
    """Tokens that see one another, and of each the label; the first is context only, whatever its label says."""

    source: str
    tokens: list[int]
    labels: list[int]


class Pieces(Sequence[Piece]):
    """Written once, by `append` and then `close`; read by number ever after."""

    def __init__(self, file: Path | None = None, *, write: bool = True) -> None:
        """Start with none. With `file` the tokens go there, four bytes each; what lies there is replaced.

        Without `write` they are only counted: another process writes the same into that file.
        """
        self.file = file
        self.sources: list[str] = []
        self._number_of: dict[str, int] = {}
        self._source_of = array("q")
        self._document_of = array("q")
        self._trained_of = array("q")
        self._ends = array("q", [0])
        self._written = array("I")
        self._out: IO[bytes] | None = None
        if file is not None and write:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._out = file.open("wb", buffering=1 << 20)

    def append(self, source: str, document: int, piece: Labelled) -> None:
        """Add a piece of the document of that number."""
        tokens = piece.tokens
        if piece.labels is not tokens:
            pairs = zip(tokens, piece.labels, strict=True)
            tokens = [token | READ if label == IGNORED else token for token, label in pairs]
        if source not in self._number_of:
            self._number_of[source] = len(self.sources)
            self.sources.append(source)
        self._source_of.append(self._number_of[source])
        self._document_of.append(document)
        self._trained_of.append(len(piece.labels) - 1 - piece.labels[1:].count(IGNORED))
        self._ends.append(self._ends[-1] + len(tokens))
        if self.file is None:
            self._written.extend(tokens)
        elif self._out is not None:
            self._out.write(array("I", tokens).tobytes())

    def close(self) -> None:
        """No more pieces; from now on they can be read."""
        if self._out is not None:
            self._out.close()

    @cached_property
    def _tokens(self) -> np.ndarray:
        if self.file is None:
            return np.frombuffer(self._written, dtype=np.uint32)
        # An empty file cannot be mapped.
        return np.memmap(self.file, dtype=np.uint32, mode="r") if self._ends[-1] else np.empty(0, np.uint32)

    def __len__(self) -> int:
        """The number of pieces."""
        return len(self._source_of)

    @overload
    def __getitem__(self, number: int) -> Piece: ...

    @overload
    def __getitem__(self, number: slice) -> list[Piece]: ...

    def __getitem__(self, number: int | slice) -> Piece | list[Piece]:
        """A piece by its number."""
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        held = self._tokens[self._ends[number] : self._ends[number + 1]]
        tokens = (held & ~np.uint32(READ)).tolist()
        labels = np.where(held & READ, IGNORED, held.astype(np.int64)).tolist()
        return Piece(self.sources[self._source_of[number]], tokens, labels)

    def __iter__(self) -> Iterator[Piece]:
        """All pieces in order."""
        return (self[number] for number in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece, the first one included."""
        return np.diff(np.frombuffer(self._ends, dtype=np.int64))

    @property
    def trained(self) -> np.ndarray:
        """Tokens of each piece that have a label."""
        return np.frombuffer(self._trained_of, dtype=np.int64)

    @property
    def documents(self) -> np.ndarray:
        """The number of each piece's document."""
        return np.frombuffer(self._document_of, dtype=np.int64)

    @property
    def source_numbers(self) -> np.ndarray:
        """The place in `sources` of each piece's."""
        return np.frombuffer(self._source_of, dtype=np.int64)

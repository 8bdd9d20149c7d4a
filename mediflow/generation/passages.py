"""Passages of the user's own documents, as inputs of the generator: split at paragraphs, each known by its text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from medsmith.books import data_files
from medsmith.config import Block
from medsmith.documents import with_texts
from medsmith.errors import UserError
from medsmith.records import Document, content_id, parse_row
from medsmith.row_files import TABLES, files_in, kind_of, stream_rows

PARAGRAPHS = re.compile(r"\n\s*\n")
KINDS = (".jsonl", ".parquet", ".txt")
"""What is read of a folder; a run keeps counts beside its rows in other tables."""
SENTENCES = re.compile(r"(?<=[.!?])\s+")
WORD = re.compile(r"\S+")


class PassagesConfig(Block):
    """Own documents whose passages are the inputs; the teacher writes instructions and outputs only."""

    path: Path = Field(
        description="a table (JSON Lines, Parquet, …: id, title, text, source, license), a folder of those two, or of "
        ".txt files"
    )
    document_type: str = Field(
        "document", description="what they are, one of the taxonomy (scientific_article) or a name of your own"
    )
    max_words: int = Field(400, ge=20, description="a longer document is split at its paragraphs, else at sentences")
    min_words: int = Field(30, ge=1, description="a passage of fewer words is left out")
    license: str | None = Field(None, description="the licence of .txt files, which cannot say it themselves")


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document, verbatim."""

    id: str
    text: str
    document: str
    title: str
    source: str
    license: str

    def origin(self) -> dict[str, str]:
        """Where it is from, as the facts of its examples."""
        return {
            "id": self.id,
            "document": self.document,
            "title": self.title,
            "source": self.source,
            "license": self.license,
        }


def read_passages(config: PassagesConfig) -> list[Passage]:
    """All passages, in the order of the files; of equal ones the first.

    Raises:
        UserError: nothing to read, a text file without a licence, or no passage long enough.
    """
    passages: dict[str, Passage] = {}
    for document in _read(config):
        for text in split_passages(document.text, config.max_words):
            if len(text.split()) >= config.min_words:
                key = content_id("passage", text)
                passages.setdefault(
                    key, Passage(key, text, document.id, document.title, document.source, document.license)
                )
    if not passages:
        raise UserError(f"{config.path} holds no passage of {config.min_words} words; lower passages.min_words")
    return list(passages.values())


def split_passages(text: str, max_words: int) -> Iterator[str]:
    """Verbatim stretches of whole paragraphs of at most so many words.

    A longer paragraph is split between its sentences, and a longer sentence between its words.
    """
    first = last = count = 0
    for start, end in _pieces(text, max_words):
        words = len(text[start:end].split())
        if count and count + words > max_words:
            yield text[first:last]
            count = 0
        first = start if not count else first
        last = end
        count += words
    if count:
        yield text[first:last]


def _pieces(text: str, max_words: int) -> Iterator[tuple[int, int]]:
    """Where the smallest pieces stand: paragraphs, or parts of those that are too long."""
    for paragraph in _spans(PARAGRAPHS, text, 0, len(text)):
        if len(text[slice(*paragraph)].split()) <= max_words:
            yield paragraph
            continue
        for sentence in _spans(SENTENCES, text, *paragraph):
            words = list(WORD.finditer(text, *sentence))
            for number in range(0, len(words), max_words):
                chunk = words[number : number + max_words]
                yield chunk[0].start(), chunk[-1].end()


def _spans(between: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The stretches that a separator leaves, without blanks around them."""
    cuts = [start, *(place for cut in between.finditer(text, start, end) for place in cut.span()), end]
    for left, right in zip(cuts[::2], cuts[1::2], strict=True):
        words = text[left:right]
        if words.strip():
            yield left + len(words) - len(words.lstrip()), left + len(words.rstrip())


def _read(config: PassagesConfig) -> Iterator[Document]:
    path = config.path
    if not path.exists():
        raise UserError(f"passages.path: no such file or folder: {path}")
    files = [path] if path.is_file() else data_files(files_in(path, KINDS))
    if not files:
        raise UserError(f"passages.path: {path} holds no {', '.join(KINDS)} file")
    for file in files:
        yield from _documents(file, config)


def _documents(path: Path, config: PassagesConfig) -> Iterator[Document]:
    if kind_of(path) in TABLES:
        for number, values in enumerate(with_texts(path, (row.values for row in stream_rows(path))), 1):
            yield parse_row(Document, values, f"{path} row {number}")
        return
    if config.license is None:
        raise UserError(f"{path.name} does not say its licence; set passages.license")
    for row in stream_rows(path):
        if row.fault:
            raise UserError(f"{path}: {row.fault}; mend it or leave it out")
        yield Document(path.stem, path.stem, row.values["text"], path.parent.name, config.license)

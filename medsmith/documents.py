"""Texts of documents: cleaned, named by a digest, and read from where they must stay.

A corpus of texts that must not be copied holds rows without `text`: {id, source, license, file, row, column, digest}.
`with_texts` reads each text anew from the corpus' own file and checks the digest, so that training sees the very text
that was judged.
"""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from medsmith.row_files import Row, stream_rows

REFERENCE = ("file", "row", "column", "digest")
"""What a row has in place of its text."""

_PAIR = re.compile(r"\s*Question: (.+?) Answer: (.+)", re.DOTALL)


def question_and_answer(row: str) -> tuple[str, str] | None:
    """The two parts of a row that experts.prepare wrote with task=question_answer; None for a row of another form."""
    found = _PAIR.fullmatch(row)
    return (found[1].strip(), found[2].strip()) if found else None


def clean(text: str) -> str:
    """Unicode NFC, no control or invisible characters, single blanks, at most one empty line in a row."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    if not (invisible := _invisible()).isdisjoint(text):
        text = text.translate(dict.fromkeys(map(ord, invisible.intersection(text))))
    text = "\n".join(" ".join(line.split()) for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


@cache
def _invisible() -> frozenset[str]:
    """Cc: control; Cf: invisible (zero-width blanks, soft hyphens, byte order marks); Cs: halves of broken pairs."""
    signs = map(chr, range(sys.maxunicode + 1))
    return frozenset(sign for sign in signs if unicodedata.category(sign) in {"Cc", "Cf", "Cs"}) - {"\n"}


def text_digest(text: str) -> str:
    """32 hexadecimal digits that name a cleaned text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def value_at(values: dict[str, Any], column: str) -> Any:
    """The value of a column, which may lie deeper: `MedlineCitation.Article.ArticleTitle`; None where there is none.

    Where a column's own name has a dot, it is meant.
    """
    if column in values:
        return values[column]
    value: Any = values
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def text_at(values: dict[str, Any], column: str) -> str:
    """The value of a column as text: a list of texts is joined by line breaks, what is missing is empty."""
    value = value_at(values, column)
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if isinstance(value, list | dict | bytes):
        raise UserError(f"the column '{column}' holds {type(value).__name__}, not a text; name a column below it")
    return str(value)


def with_texts(path: Path, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a corpus file, each with its text: its own, or the one that it refers to.

    Raises:
        UserError: the texts are not where run.json says, or are others by now.
    """
    texts: _Texts | None = None
    for row in rows:
        if "text" in row or not all(name in row for name in REFERENCE):
            yield row
            continue
        texts = texts or _Texts(path)
        yield {"title": "", **row, "text": texts.find(row)}


class _Texts:
    """The original files of a corpus, read alongside its rows, which stand in the same order."""

    def __init__(self, path: Path) -> None:
        from medsmith.run import find_record

        record = find_record(path)
        if record is None or "corpus" not in record["inputs"]:
            raise UserError(
                f"{path} refers to texts, and no run.json says where they lie; give the corpus folder whole"
            )
        self.root = Path(record["inputs"]["corpus"])
        if not self.root.exists():
            raise UserError(
                f"the texts of {path} are not at {self.root}; put them back, or run experts.corpora anew (--again)"
            )
        self._file = ""
        self._rows: Iterator[Row] = iter(())
        self._at = 0

    def find(self, row: dict[str, Any]) -> str:
        """The text that a row refers to."""
        if row["file"] != self._file or row["row"] <= self._at:
            self._file = row["file"]
            place = self.root / self._file if self.root.is_dir() else self.root
            self._rows = stream_rows(place, {row["column"], str(row["column"]).partition(".")[0]})
        found = next((one for one in self._rows if one.number == row["row"]), None)
        self._at = row["row"]
        text = clean(text_at(found.values, row["column"])) if found else ""
        if text_digest(text) != row["digest"]:
            raise UserError(
                f"{self.root} {self._file} row {row['row']}: the text of '{row['id']}' is another one than the corpus "
                "was made of; run experts.corpora anew"
            )
        return text

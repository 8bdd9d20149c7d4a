"""Rows of published files, one after the other: tables of any size in little memory, and texts as tables of one row.

`.jsonl`, `.json` (a list, or rows by id), `.csv`, `.tsv`, `.parquet`, `.xlsx`; `.txt`, `.md` and `.pdf` have one row
with `text`. A file that ends with `.gz` is read through.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from medsmith.errors import UserError

TABLES = (".jsonl", ".parquet", ".csv", ".tsv", ".json", ".xlsx")
TEXTS = (".txt", ".md", ".pdf")
# A note of many pages in one cell is longer than the csv module's default limit of 128 KiB.
LONGEST_CELL = 2**27
PARQUET_ROWS = 1_000
CHUNK = 1 << 20
BLANKS = re.compile(r"\s*")


class Row(NamedTuple):
    """One row: its number in the file from 1, its values, and how far into the file (in bytes) its end lies.

    `fault` says why it has no values: a PDF without text, say.
    """

    number: int
    values: dict[str, Any]
    end: int
    fault: str = ""


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read: `.csv` of `notes.csv.gz`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def stream_rows(path: Path, columns: Collection[str] | None = None) -> Iterator[Row]:
    """The rows of a file in order; of a parquet file only `columns` are read, where they are given.

    Raises:
        UserError: no such file, another kind of file, or one that is torn; file, line and remedy are named.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    kind = kind_of(path)
    if kind == ".parquet":
        return _parquet(path, columns)
    if kind in (".csv", ".tsv"):
        return _csv(path, "," if kind == ".csv" else "\t")
    readers = {".jsonl": _jsonl, ".json": _json, ".xlsx": _xlsx, ".pdf": _pdf, ".txt": _text, ".md": _text}
    if kind not in readers:
        raise UserError(f"{path}: cannot read '{kind}'; give a file that ends with {', '.join(TABLES + TEXTS)}")
    return readers[kind](path)


def _open(path: Path) -> tuple[IO[bytes], IO[bytes]]:
    """The file as it is read, and the file on the disk below, whose place says how far we are."""
    raw = path.open("rb")
    if path.suffix.lower() != ".gz":
        return raw, raw
    unpacked: Any = gzip.GzipFile(fileobj=raw)
    return unpacked, raw


def _jsonl(path: Path) -> Iterator[Row]:
    import orjson

    lines, raw = _open(path)
    packed = lines is not raw
    with raw:
        end = 0
        for number, line in enumerate(lines, 1):
            end = raw.tell() if packed else end + len(line)
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except ValueError:
                row = _slow_line(path, number, line)
            if not isinstance(row, dict):
                raise UserError(f"{path} line {number}: expected a JSON object, got {type(row).__name__}")
            yield Row(number, row, end)


def _slow_line(path: Path, number: int, line: bytes) -> Any:
    """What the strict reader refuses and Python's takes: NaN, half a surrogate pair."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{path} line {number}: not valid JSON ({error}); mend or remove the line") from None


def _json(path: Path) -> Iterator[Row]:
    """The objects of a list, or the values of an object, as they come: such a file may be larger than memory."""
    lines, raw = _open(path)
    with raw:
        parts = _Parts(iter(lambda: lines.read(CHUNK), b""))
        opening = parts.next_sign()
        if opening not in "[{" or not opening:
            raise UserError(f"{path}: expected a list of objects; give JSON of that shape, or JSON Lines")
        number = 0
        while (sign := parts.next_sign()) not in ("]", "}", ""):
            if sign == ",":
                continue
            parts.back()
            try:
                value = parts.value()
                if opening == "{":
                    if parts.next_sign() != ":":
                        raise ValueError("no ':' after a key")
                    value = parts.value()
            except ValueError as error:
                raise UserError(f"{path} after row {number}: not valid JSON ({error}); mend it") from None
            number += 1
            if not isinstance(value, dict):
                raise UserError(f"{path} row {number}: expected a JSON object, got {type(value).__name__}")
            yield Row(number, value, raw.tell())


class _Parts:
    """JSON text that comes in pieces; its values are taken off the front."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        import codecs

        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._json = json.JSONDecoder()

    def next_sign(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text):
                self._at += 1
                if not self._text[self._at - 1].isspace():
                    return self._text[self._at - 1]
            if not self._more():
                return ""

    def back(self) -> None:
        """Give the last character back."""
        self._at -= 1

    def value(self) -> Any:
        """The next JSON value; ValueError where there is none."""
        while True:
            try:
                after_blanks = BLANKS.match(self._text, self._at)
                found, end = self._json.raw_decode(self._text, after_blanks.end() if after_blanks else self._at)
                # A number may go on in the next piece.
                if end < len(self._text) or not self._more():
                    self._at = end
                    return found
            except ValueError:
                if not self._more():
                    raise

    def _more(self) -> bool:
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._text, self._at = self._text[self._at :] + self._decoder.decode(piece), 0
        return True


def _csv(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    lines, raw = _open(path)
    with raw:
        reader = csv.reader(_decoded(path, lines), delimiter=delimiter)
        try:
            header = next(reader, [])
            for number, cells in enumerate((cells for cells in reader if cells), 1):
                if len(cells) != len(header):
                    raise UserError(
                        f"{path} row {number}: {len(cells)} cells, and the header has {len(header)}; mend the quoting"
                    )
                yield Row(number, dict(zip(header, cells, strict=True)), raw.tell())
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num}: {error}; mend the quoting") from None


def _decoded(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} line {number}: not UTF-8 ({error.reason}); save it as UTF-8") from None


def _parquet(path: Path, columns: Collection[str] | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: no parquet file ({str(error).splitlines()[0]}); fetch or write it again") from None
    there = file.schema_arrow.names
    wanted = there if columns is None else [name for name in there if name in columns]
    size, total = path.stat().st_size, max(1, file.metadata.num_rows)
    number = 0
    for batch in file.iter_batches(PARQUET_ROWS, columns=wanted):
        for values in batch.to_pylist():
            number += 1
            yield Row(number, values, size * number // total)


def _xlsx(path: Path) -> Iterator[Row]:
    import openpyxl

    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    rows = book.worksheets[0].iter_rows(values_only=True)
    header = list(next(rows, ()))
    named = [(place, str(cell)) for place, cell in enumerate(header) if cell is not None]
    size = path.stat().st_size
    for number, cells in enumerate((cells for cells in rows if any(cell is not None for cell in cells)), 1):
        yield Row(number, {name: cells[place] for place, name in named if place < len(cells)}, size)
    book.close()


def _text(path: Path) -> Iterator[Row]:
    lines, raw = _open(path)
    with raw:
        # Published texts are UTF-8 but for single stray bytes.
        yield Row(1, {"text": lines.read().decode("utf-8-sig", errors="replace")}, path.stat().st_size)


def _pdf(path: Path) -> Iterator[Row]:
    """The text of all pages. What a scanner drew is no text: such a file, a locked one and a torn one have a fault."""
    try:
        import pypdf
    except ImportError:
        raise UserError(f"{path}: reading PDF needs pypdf; pip install 'medsmith[corpora]'") from None
    size = path.stat().st_size
    try:
        pages = pypdf.PdfReader(path).pages
        text = "\n\n".join(page.extract_text() for page in pages)
    except (pypdf.errors.PyPdfError, OSError, ValueError, KeyError, TypeError) as error:
        yield Row(1, {}, size, f"PDF that cannot be read ({type(error).__name__})")
        return
    yield Row(1, {"text": text}, size, "" if text.strip() else "PDF without text")

"""Rows of published files, one after the other: tables of any size in little memory, and texts as tables of one row.

`.jsonl`, `.json` (a list, alone or under `data`, or rows by id), `.csv`, `.tsv`, `.parquet`, `.xlsx`; `.txt`, `.md` and
`.pdf` have one row with `text`. A file that ends with `.gz` is read through.

Whatever bytes a file holds, all its rows come or one line that says what is wrong with it, where, and what to do: a
torn file, another encoding than UTF-8, another kind of file than its name says, two columns of one name. No message
holds a text of a row: the file may be under an agreement.
"""

from __future__ import annotations

import csv
import gzip
import json
import logging
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, NamedTuple

from medsmith.digests import RECORD, files_of
from medsmith.errors import UserError
from medsmith.json_pieces import JsonPieces

TABLES = (".jsonl", ".parquet", ".csv", ".tsv", ".json", ".xlsx")
TEXTS = (".txt", ".md", ".pdf")
# A note of many pages in one cell is longer than the csv module's default limit of 128 KiB.
LONGEST_CELL = 2**27
PARQUET_ROWS = 1_000
CHUNK = 1 << 20
NO_VALUE = re.compile(rb"</f>(<v\s*/>|<v></v>)?</c>")
"""A formula that no program has worked out: its cell would be read as empty."""
LONG_NUMBER = re.compile(rb"\d{19}")
NAME = re.compile(r"[^\W\d][\w.:/()\[\]#%+ -]{0,39}")
"""What a column may be called; a cell of data in its place has other signs, or is longer."""
MAGIC = {
    b"PK\x03\x04": ".xlsx",
    b"\x1f\x8b\x08\x00": ".gz",
    b"\x1f\x8b\x08\x08": ".gz",
    b"PAR1": ".parquet",
    b"%PDF": ".pdf",
    b"\xd0\xcf\x11\xe0": ".xls, or a workbook under a password",
}
"""How files begin that have no lines of text."""

log = logging.getLogger(__name__)


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


def files_in(folder: Path, kinds: Collection[str]) -> list[Path]:
    """The files of a folder of these kinds, at any depth; what else it holds is told in one line of the log."""
    there = list(files_of(folder))
    found = [path for path in there if kind_of(path) in kinds]
    tell_unread(folder, set(there) - set(found))
    return found


def tell_unread(folder: Path, paths: Collection[Path]) -> None:
    """Name in one line the files of a folder that are not read; a run's own others are no news."""
    if paths and not (folder / RECORD).is_file():
        names = sorted(path.relative_to(folder).as_posix() for path in paths)
        more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
        log.warning("%s: not read: %s%s", folder, ", ".join(names[:5]), more)


def name_columns(columns: Iterable[Any]) -> str:
    """The columns that are there, for a message; none is named where they look like a row of data."""
    names = [str(column) for column in columns]
    if not all(NAME.fullmatch(name) for name in names if name):
        return f"the {len(names)} that are there look like data: is there a line of names?"
    return f"there are: {', '.join(names)[:200]}"


def stream_rows(
    path: Path, columns: Collection[str] | None = None, *, loose: bool = False, kind: str = ""
) -> Iterator[Row]:
    """The rows of a file in order; of a parquet file only `columns` are read, where they are given.

    `loose`: a search for texts takes JSON of any shape (what is no object has the column ""), every sheet of a workbook
    and cells with stray bytes; else a row is an object, and of a workbook the sheets with the first one's columns are
    read.

    Raises:
        UserError: no such file, another kind of file, or one that is torn; file, line and remedy are named.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    kind = kind or kind_of(path)
    if kind not in (*TABLES, *TEXTS):
        raise UserError(f"{path}: cannot read '{kind}'; give a file that ends with {', '.join(TABLES + TEXTS)}")
    named = ".gz" if path.suffix.lower() == ".gz" else kind
    if named == ".gz" and kind in (".parquet", ".xlsx", ".pdf"):
        raise UserError(f"{path}: a {kind} file is read unpacked; gunzip it")
    with path.open("rb") as file:
        start = file.read(4)
    if not start and named not in (".jsonl", ".txt", ".md"):
        raise UserError(f"{path} is empty, which no {named} file is; fetch or write it again")
    if (holds := MAGIC.get(start, named)) != named:
        raise UserError(f"{path} is named {named} and holds {holds}; name it so, or save it as {named}")
    match kind:
        case ".parquet":
            rows = _parquet(path, columns)
        case ".csv" | ".tsv":
            rows = _csv(path, "," if kind == ".csv" else "\t", loose)
        case ".xlsx":
            rows = _xlsx(path, loose)
        case ".json":
            rows = _json(path, loose)
        case ".jsonl":
            rows = _jsonl(path, loose)
        case ".pdf":
            rows = _pdf(path)
        case _:
            rows = _text(path)
    return _told(path, rows)


def _told(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows; whatever a library says of bytes that it cannot read becomes one line with the place."""
    number = 0
    while True:
        try:
            row = next(rows, None)
        except (UserError, ImportError):
            raise
        except UnicodeDecodeError as error:
            raise UserError(f"{path} after row {number}: not UTF-8 ({error.reason}); save it as UTF-8") from None
        # Parsers of workbooks and parquet files raise a dozen kinds on torn bytes, KeyError and TypeError among them.
        except Exception as error:
            reason = type(error).__name__
            raise UserError(
                f"{path} after row {number}: torn, or no {path.suffix} file ({reason}); fetch it again, or name it "
                "after what it holds"
            ) from None
        if row is None:
            return
        number = row.number
        yield row


def _open(path: Path) -> tuple[IO[bytes], IO[bytes]]:
    """The file as it is read, and the file on the disk below, whose place says how far we are."""
    raw = path.open("rb")
    if path.suffix.lower() != ".gz":
        return raw, raw
    unpacked: Any = gzip.GzipFile(fileobj=raw)
    return unpacked, raw


def _as_row(path: Path, number: int, value: Any, end: int, loose: bool, unit: str = "row") -> Row:
    if isinstance(value, dict):
        return Row(number, value, end)
    if not loose:
        raise UserError(f"{path} {unit} {number}: expected a JSON object, got {type(value).__name__}")
    return Row(number, {"": value}, end)


def _jsonl(path: Path, loose: bool) -> Iterator[Row]:
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
                value = None if LONG_NUMBER.search(line) else orjson.loads(line)
            except ValueError:
                value = None
            yield _as_row(path, number, _slow_line(path, number, line) if value is None else value, end, loose, "line")


def _slow_line(path: Path, number: int, line: bytes) -> Any:
    """What the fast reader refuses and Python's takes: NaN, half a surrogate pair; or rounds: numbers of 20 digits."""
    try:
        return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} line {number}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise UserError(f"{path} line {number}: not valid JSON ({reason}); mend or remove the line") from None


def _json(path: Path, loose: bool) -> Iterator[Row]:
    """The objects of a list, or the values of an object, as they come: such a file may be larger than memory."""
    lines, raw = _open(path)
    with raw:
        parts = JsonPieces(iter(lambda: lines.read(CHUNK), b""))
        number, by_key, listed = 0, False, False
        beside: dict[str, Any] = {}
        try:
            opening = parts.next_sign()
            if not opening or opening not in "[{":
                raise UserError(f"{path}: expected a list of objects; give JSON of that shape, or JSON Lines")
            for key, value in parts.members(opening):
                if key is not None and not isinstance(value, dict):
                    beside[key] = value
                    continue
                number += 1
                by_key, listed = by_key or key is not None, listed or key is None
                yield _as_row(path, number, value, raw.tell(), loose)
            if parts.next_sign():
                raise UserError(f"{path}: more than one JSON value; if these are JSON Lines, name it .jsonl")
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise UserError(
                f"{path} after row {number}: not valid JSON ({reason}); mend it, or fetch it again"
            ) from None
        # Beside a list under `data` stand a version and the like; beside rows by id nothing else may.
        if loose and not listed:
            yield from (Row(number + n, {key: value}, raw.tell()) for n, (key, value) in enumerate(beside.items(), 1))
        elif by_key and listed and not loose:
            raise UserError(f"{path}: rows by id and a list of rows under 'data'; give a list of objects")
        elif beside and not listed:
            kind = type(next(iter(beside.values()))).__name__
            raise UserError(f"{path} row {number + 1}: expected a JSON object, got {kind}; give a list of objects")


def _check_header(path: Path, names: Sequence[str]) -> None:
    for name, count in Counter(filter(None, names)).items():
        if count > 1:
            said = f"'{name}'" if NAME.fullmatch(name) else "the same; is there a line of names?"
            raise UserError(f"{path}: {count} columns are called {said}; give each its own name")


def _csv(path: Path, delimiter: str, loose: bool) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    lines, raw = _open(path)
    with raw:
        # Strict: an open quote would make one cell of the rows behind it.
        reader = csv.reader(_decoded(path, lines, loose), delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            _check_header(path, header)
            if len(header) == 1 and (other := next((sign for sign in "\t;,|" if sign in header[0]), None)):
                raise UserError(f"{path}: one column, with {other!r} in its name; separate cells by {delimiter!r}")
            for number, cells in enumerate((cells for cells in reader if cells), 1):
                where = f"{path} row {number}"
                if len(cells) != len(header):
                    raise UserError(f"{where}: {len(cells)} cells, and the header has {len(header)}; mend the quoting")
                if delimiter == "\t" and any("\n" in cell and "\t" in cell for cell in cells):
                    raise UserError(f"{where}: a cell over several lines with tabs; close its quote, or double it")
                yield Row(number, dict(zip(header, cells, strict=True)), raw.tell())
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num}: {error}; mend the quoting") from None


def _decoded(path: Path, lines: Iterable[bytes], loose: bool) -> Iterator[str]:
    stray = 0
    for number, line in enumerate(lines, 1):
        encoding = "utf-8-sig" if number == 1 else "utf-8"
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            if not loose:
                raise UserError(f"{path} line {number}: not UTF-8 ({error.reason}); save it as UTF-8") from None
            stray += 1
            yield line.decode(encoding, errors="replace")
    if stray:
        log.warning("%s: %d lines have bytes that are not UTF-8; words with them match nothing", path, stray)


def _parquet(path: Path, columns: Collection[str] | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: no parquet file ({str(error).splitlines()[0]}); fetch or write it again") from None
    there = file.schema_arrow.names
    _check_header(path, there)
    wanted = there if columns is None else [name for name in there if name in columns]
    # Of a fixed size are digests and the like, never texts.
    packed = {field.name for field in file.schema_arrow if re.search(r"(?<!size_)binary", str(field.type))}
    size, total = path.stat().st_size, max(1, file.metadata.num_rows)
    number = 0
    for batch in file.iter_batches(PARQUET_ROWS, columns=wanted):
        for values in batch.to_pylist():
            number += 1
            for name in packed & values.keys():
                values[name] = _unpacked(values[name], f"{path} row {number}: column '{name}'")
            yield Row(number, values, size * number // total)
    if number != file.metadata.num_rows:
        raise UserError(f"{path}: {number} rows, and its end says {file.metadata.num_rows}; fetch it again")


def _unpacked(value: Any, where: str) -> Any:
    """Bytes as the text that they are; what holds a zero byte (a picture) is none and stays as it is."""
    if isinstance(value, bytes) and b"\0" not in value:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise UserError(f"{where} holds bytes that are no UTF-8 text; save it as text") from None
    if isinstance(value, dict):
        return {key: _unpacked(inner, where) for key, inner in value.items()}
    return [_unpacked(inner, where) for inner in value] if isinstance(value, list) else value


def _xlsx(path: Path, loose: bool) -> Iterator[Row]:
    try:
        import openpyxl
    except ImportError:
        raise UserError(f"{path}: reading xlsx needs openpyxl; pip install 'medsmith[eval]'") from None

    with zipfile.ZipFile(path) as parts:
        if any(NO_VALUE.search(parts.read(name)) for name in parts.namelist() if name.startswith("xl/worksheets/")):
            raise UserError(f"{path} holds formulas without their values; open it in a spreadsheet and save it")
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    size, number = path.stat().st_size, 0
    first: list[str] | None = None
    unread = []
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # a size that some writers leave at A1
        rows = (cells for cells in sheet.iter_rows(values_only=True) if any(cell is not None for cell in cells))
        header = ["" if cell is None else str(cell) for cell in next(rows, ())]
        _check_header(path, header)
        first = first or header
        if header != first and not loose:
            unread += [f"the sheet '{sheet.title}', whose columns are others"] * bool(header)
            continue
        beyond = 0
        for cells in rows:
            number += 1
            named = zip_longest(header[: len(cells)], cells, fillvalue="")
            beyond += any(cell is not None for name, cell in named if not name)
            padded = (*cells, *[None] * (len(header) - len(cells)))
            yield Row(number, {name: cell for name, cell in zip(header, padded, strict=False) if name}, size)
        unread += [f"cells in columns without a name, of {beyond} rows"] * bool(beyond)
    book.close()
    if unread:
        log.warning("%s: not read: %s", path, "; ".join(unread))


def _text(path: Path) -> Iterator[Row]:
    lines, raw = _open(path)
    with raw:
        content, size = lines.read(), path.stat().st_size
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield Row(1, {}, size, "text that is not UTF-8")
        return
    yield Row(1, {}, size, "no text but bytes") if "\0" in text else Row(1, {"text": text}, size)


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
    except Exception as error:  # pypdf raises a dozen kinds on torn bytes; the reason is in the row
        yield Row(1, {}, size, f"PDF that cannot be read ({type(error).__name__})")
        return
    yield Row(1, {"text": text}, size, "" if text.strip() else "PDF without text")

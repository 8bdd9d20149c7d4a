"""Typed rows and the files they live in (JSON Lines and Parquet). Ids are content hashes.

Reading is strict: a missing column, a torn line or a wrong type is a UserError that names file, line and remedy.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, TypeVar

from medsmith.books import data_files
from medsmith.errors import UserError
from medsmith.row_files import stream_rows

PART_ROWS = 50_000
"""Rows of one file in a folder of parts, at most."""


@dataclass(frozen=True)
class Document:
    """One text of a corpus, with the licence that it came under."""

    id: str
    title: str
    text: str
    source: str
    license: str


@dataclass(frozen=True)
class Instruction:
    """One row of a synthetic instruction set; the columns of the published `microsoft/mediflow` data set, after an id.

    The five judge scores are means in [1, 4]; None where no judge answered. `rejected_output` and `error_type` are
    empty outside a preference set.
    """

    id: str
    instruction: str
    input: str
    output: str
    task_type: str
    input_data: str
    output_format: str
    difficulty_level: str
    rejected_output: str = ""
    error_type: str = ""
    quality: float | None = None
    alignment: float | None = None
    coherence: float | None = None
    realism: float | None = None
    difficulty: float | None = None


def content_id(*parts: Any) -> str:
    """16 hexadecimal digits that depend on the parts' JSON and nothing else."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    # What a model wrote may hold half a surrogate pair.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a finished JSON Lines file.

    Raises:
        UserError: no such file, another encoding, or a line that is not a JSON object (a torn line, say).
    """
    return (row.values for row in stream_rows(path, kind=".jsonl"))


def read_text(path: Path, newline: str | None = None) -> str:
    """A text file in UTF-8 (a byte order mark is no part of it); UserError where it is in another encoding."""
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None


def not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    """What to say of a text file in another encoding."""
    return UserError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows atomically (temporary file, then rename); return their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    partial.replace(path)
    return count


def read_parts(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of all `part-*.jsonl` of a folder, in order; UserError where it holds none."""
    parts = sorted(folder.glob("part-*.jsonl"))
    if not parts:
        raise UserError(f"no part-*.jsonl in {folder}; give the folder of a run that writes them")
    for part in parts:
        yield from read_jsonl(part)


class IndexedJsonl(Mapping[str, dict[str, Any]]):
    """A finished JSON Lines file whose rows are looked up by one of their values; only their places are in memory."""

    def __init__(self, path: Path, key: str) -> None:
        """Read `path` once. Raises UserError where it is missing, torn, or a row lacks the key."""
        self.path = path
        self._places: dict[str, int] = {}
        if not path.is_file():
            raise UserError(f"no such file: {path}")
        place = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    self._places[json.loads(line)[key]] = place
                except (ValueError, KeyError, TypeError):
                    raise UserError(f"{path} line {number}: no row with '{key}'; mend or remove the line") from None
                place += len(line)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The last row with this value; KeyError where there is none."""
        place = self._places[key]
        with self.path.open("rb") as lines:
            lines.seek(place)
            return dict(json.loads(lines.readline()))

    def __iter__(self) -> Iterator[str]:
        """The values, in the order of the file."""
        return iter(self._places)

    def __len__(self) -> int:
        """The number of distinct values."""
        return len(self._places)


class PartWriter:
    """Rows, in order, into `part-00000.jsonl` and so on; what an earlier try has left there is removed.

    There is always a first part, if an empty one. A row can be read back by its number: of each only its place in its
    file is in memory. A lone surrogate, which no UTF-8 file can hold, is written as "\ufffd".
    """

    def __init__(self, folder: Path, rows_per_part: int = PART_ROWS) -> None:
        """Start the first part of `folder`, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("part-*.jsonl"):
            old.unlink()
        self.folder = folder
        self.rows_per_part = rows_per_part
        self._offsets = array("Q")
        self._reading: tuple[int, IO[bytes]] | None = None
        self._place = 0
        self._file = self._open(0)

    def __len__(self) -> int:
        """The number of rows written."""
        return len(self._offsets)

    def write(self, row: dict[str, Any]) -> int:
        """Write one row and return its number."""
        number = len(self._offsets)
        if number and number % self.rows_per_part == 0:
            self._file.close()
            self._file = self._open(number // self.rows_per_part)
            self._place = 0
        line = to_line(row)
        self._file.write(line)
        self._offsets.append(self._place)
        self._place += len(line)
        return number

    def read(self, number: int) -> dict[str, Any]:
        """The row of that number."""
        part = number // self.rows_per_part
        if part == (len(self._offsets) - 1) // self.rows_per_part:
            self._file.flush()
        if self._reading is None or self._reading[0] != part:
            if self._reading is not None:
                self._reading[1].close()
            self._reading = part, (self.folder / _part_name(part)).open("rb")
        self._reading[1].seek(self._offsets[number])
        row: dict[str, Any] = json.loads(self._reading[1].readline())
        return row

    def __enter__(self) -> PartWriter:
        """Return the writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._file.close()
        if self._reading is not None:
            self._reading[1].close()

    def _open(self, part: int) -> IO[bytes]:
        return (self.folder / _part_name(part)).open("wb", buffering=1 << 20)


def to_line(row: dict[str, Any]) -> bytes:
    """One row of JSON Lines, its keys in the given order."""
    import orjson

    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        return encodable(json.dumps(row, ensure_ascii=False, separators=(",", ":"))).encode() + b"\n"


def encodable(text: str) -> str:
    """The text without lone surrogates, which JSON can spell and no UTF-8 file can hold; pairs become one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _part_name(part: int) -> str:
    return f"part-{part:05}.jsonl"


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value atomically and durably: readers see the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1, default=str)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path) -> Any:
    """Read one JSON value; UserError where it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error.msg} at line {error.lineno})") from None


Row = TypeVar("Row", Document, Instruction)


def parse_row(cls: type[Row], values: dict[str, Any], where: str) -> Row:
    """Build a typed row; a missing column is a UserError, columns beyond the type are left out."""
    names = [field.name for field in fields(cls)]
    required = [field.name for field in fields(cls) if field.default is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise UserError(f"{where}: missing column '{missing[0]}'; columns needed: {', '.join(required)}")
    return cls(**{name: values[name] for name in names if name in values})


def stream_documents(path: Path) -> Iterator[Document]:
    """The documents of a JSON Lines corpus, with id, title, text (or where to read it), source, license."""
    from medsmith.documents import with_texts

    for number, row in enumerate(with_texts(path, read_jsonl(path)), 1):
        yield parse_row(Document, row, f"{path} row {number}")


def read_documents(path: Path) -> list[Document]:
    """All documents of a JSON Lines corpus."""
    return list(stream_documents(path))


def write_parquet(path: Path, rows: list[Instruction]) -> int:
    """Write rows as one Parquet file, byte for byte the same for the same rows."""
    import polars

    path.parent.mkdir(parents=True, exist_ok=True)
    schema = {
        field.name: polars.Float64 if "float" in str(field.type) else polars.String for field in fields(Instruction)
    }
    partial = path.with_name(path.name + ".partial")
    polars.DataFrame([asdict(row) for row in rows], schema=schema).write_parquet(partial)
    partial.replace(path)
    return len(rows)


def read_parquet(folder: Path) -> list[Instruction]:
    """Read all Parquet shards of a folder (or one file), in name order."""
    shards = [folder] if folder.is_file() else data_files(folder.glob("*.parquet"))
    if not shards:
        raise UserError(f"no Parquet file in {folder}")
    return [
        parse_row(Instruction, row, f"{shard} row {n}")
        for shard in shards
        for n, row in enumerate((row.values for row in stream_rows(shard, kind=".parquet")), 1)
    ]

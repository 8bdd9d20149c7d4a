"""Training data as a stream of rows: what a folder holds that was trained on, and every text of a row.

Nothing but the row at hand is in memory, so training data may be larger than it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from medsmith.books import data_files
from medsmith.documents import with_texts
from medsmith.errors import UserError
from medsmith.row_files import TABLES, TEXTS, Row, files_in, kind_of, stream_rows
from medsmith.run import find_record

TRAINED_ON = ("train.jsonl", "rows.jsonl")
"""Of a folder that holds one of these, nothing else was trained on: not what was held out or dropped."""
CHUNK = 1 << 22


class TrainingRow(NamedTuple):
    """One row: its file, its id (its number from 1 where it has none), its values (a text file has one, `text`)."""

    file: str
    id: str
    values: dict[str, Any]


def training_files(path: Path) -> list[Path]:
    """The files that were trained on: of a curate, pair or corpus folder its training part, else all that is read.

    Raises:
        UserError: nothing there, or nothing that can be read.
    """
    if path.is_file():
        found = [path] if kind_of(path) in (*TABLES, *TEXTS) else []
    elif path.is_dir():
        # A run keeps counts beside its rows in other tables.
        kinds = (".jsonl", ".parquet", *TEXTS) if find_record(path) else (*TABLES, *TEXTS)
        chosen = [path / name for name in TRAINED_ON if (path / name).is_file()]
        found = sorted((path / "data").glob("*.parquet")) or chosen[:1] or data_files(files_in(path, kinds))
    else:
        raise UserError(f"no such training data: {path}")
    if not found:
        raise UserError(f"{path} holds no training data that can be read; give {', '.join((*TABLES, *TEXTS))}")
    return found


def count_rows(file: Path) -> int:
    """The rows of a file, without reading them one by one; about, where cells go over several lines."""
    if file.suffix == ".parquet":
        import pyarrow.parquet

        return int(pyarrow.parquet.ParquetFile(file).metadata.num_rows)
    if kind_of(file) in TEXTS:
        return 1
    with file.open("rb") as lines:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(CHUNK), b""))


def read_rows(file: Path) -> Iterator[TrainingRow]:
    """The rows of a file, one after the other; UserError where a text file holds none."""
    for number, values in enumerate(with_texts(file, map(_values, repeat(file), stream_rows(file))), 1):
        key = values.get("id")
        yield TrainingRow(str(file), str(number) if key is None else str(key), values)


def texts_of(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a row with the name of its field, at any depth: `messages.1.content`."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts_of(inner, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from texts_of(inner, f"{field}.{number}")


def _values(file: Path, row: Row) -> dict[str, Any]:
    if row.fault:
        raise UserError(f"{file}: {row.fault}; mend it or leave it out")
    return row.values

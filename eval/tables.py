"""Read published tables and say clearly what is wrong with them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medsmith.errors import UserError
from medsmith.records import read_jsonl

# A note of many pages in one cell is longer than the module's default limit of 128 KiB.
_LONGEST_CELL = 2**27


def find_file(path: Path, pattern: str, source: str) -> Path:
    """`path` itself where it is a file, else the one file of the folder that matches.

    Raises:
        UserError: nothing is there, no file matches, or several do.
    """
    if path.is_file():
        return path
    found = sorted(path.glob(pattern)) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    state = f"holds {len(found)} files like {pattern}" if path.is_dir() else "does not exist"
    raise UserError(f"{path} {state}; give the file itself, or the folder of {source}")


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a .csv, .jsonl, .parquet or .xlsx file, whole and in order, with at least these columns.

    Empty cells of a spreadsheet are None, of a CSV file the empty text.

    Raises:
        UserError: a missing column (those that are there are named), or another kind of file.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet, ".xlsx": _read_xlsx}
    if path.suffix not in readers:
        raise UserError(f"{path}: cannot read '{path.suffix}'; give a file that ends with {', '.join(readers)}")
    rows: list[dict[str, Any]] = readers[path.suffix](path)
    for number, row in enumerate(rows, 1):
        check_columns(row, columns, f"{path} row {number}")
    return rows


def check_columns(row: Iterable[str], columns: Sequence[str], where: str) -> None:
    """UserError where a column is missing."""
    there = list(row)
    missing = [column for column in columns if column not in there]
    if missing:
        raise UserError(f"{where}: missing column '{missing[0]}' (there are: {', '.join(map(str, there))[:200]})")


def _read_csv(path: Path) -> list[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines, restval=None, restkey=None))
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise UserError(f"{path} row {number}: another number of cells than the header; mend the quoting")
    return rows


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(path))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import polars

    return polars.read_parquet(path).to_dicts()


def _read_xlsx(path: Path) -> list[dict[str, Any]]:
    import openpyxl

    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    rows = book.worksheets[0].iter_rows(values_only=True)
    header = list(next(rows, ()))
    named = [index for index, cell in enumerate(header) if cell is not None]
    table = [{str(header[index]): row[index] for index in named if index < len(row)} for row in rows]
    book.close()
    return [row for row in table if any(cell is not None for cell in row.values())]

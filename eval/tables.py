"""Find and read published files, say clearly what is wrong with them, and whether they are as they were published."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from eval.benchmark import Published
from medsmith import hub_data
from medsmith.digests import combined, file_digest
from medsmith.errors import UserError
from medsmith.hub_data import DataRef as DataRef  # of the commands that name benchmarks
from medsmith.hub_data import Fetch
from medsmith.row_files import TABLES, kind_of, name_columns, stream_rows
from medsmith.run import find_record

log = logging.getLogger("eval.run")


def resolve(name: str, value: str | Path, access: str, fetch: Fetch | None = None) -> Path:
    """Where the data of a benchmark lie: the given path, or a snapshot of the hub by `fetch(repository, revision)`."""
    return hub_data.resolve(f"benchmarks.{name}", value, access, fetch)


def file_notes(rows: Mapping[Path, int], published: Mapping[str, Published]) -> dict[str, Any]:
    """What a result says of the files that were read: {file, rows, sha256, as_published}.

    `rows` are the rows by file, blank ones included; `published` is by file name or pattern. A file is as published
    where its digest is known and the same, and is not where digest or number of rows differ; None where only the
    number is known. Another file than published is read and said, never refused: it may be a mended or newer one.
    Several files have their entries under `files`, and are as published where all are.
    """
    entries = {path.name: _file_entry(path, count, published) for path, count in rows.items()}
    if len(entries) == 1:
        name, entry = next(iter(entries.items()))
        return {"file": name, **entry}
    states = [entry["as_published"] for entry in entries.values()]
    return {
        "file": ", ".join(entries),
        "rows": sum(entry["rows"] for entry in entries.values()),
        "sha256": combined({name: entry["sha256"] for name, entry in entries.items()}),
        "as_published": False if False in states else None if None in states else True,
        "files": entries,
    }


def _file_entry(path: Path, rows: int, published: Mapping[str, Published]) -> dict[str, Any]:
    digest = file_digest(path)
    if any(digest == known.sha256 for known in published.values()):
        return {"rows": rows, "sha256": digest, "as_published": True}
    known = next((known for pattern, known in published.items() if fnmatch(path.name, pattern)), None)
    differs = known is not None and (bool(known.sha256) or known.rows != rows)
    if differs and known is not None and find_record(path) is None:
        log.warning("%s is not the file as published: %d rows, published %d", path, rows, known.rows)
    return {"rows": rows, "sha256": digest, "as_published": False if differs else None}


def find_split(path: Path, files: Mapping[str, str], split: str, source: str) -> Path:
    """The file of a split; where `path` is the tested file, examples are sought beside it, never in it.

    Raises:
        UserError: as `find_file`, or the set is published as one split.
    """
    if split not in files:
        raise UserError(f"{source} is published as one split, examples from it would be test items; set shots: 0")
    return find_file(path.parent if split == "shots" and path.is_file() else path, files[split], source)


def find_file(path: Path, pattern: str, source: str) -> Path:
    """`path` itself where it is a file, else the one file of the folder that matches.

    Raises:
        UserError: nothing is there, no file matches, or several do.
    """
    if path.is_file():
        return path
    # At any depth only where the top holds none: a clone of the repository is as good as its data folder.
    found = (sorted(path.glob(pattern)) or sorted(path.rglob(pattern))) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    several = f" ({', '.join(file.name for file in found[:4])}{', …' * (len(found) > 4)})" if found else ""
    state = f"holds {len(found)} files like {pattern}{several}" if path.is_dir() else "does not exist"
    raise UserError(f"{path} {state}; give the file itself, or the folder of {source}")


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table (medsmith/row_files.py), whole and in order, with at least these columns.

    Empty cells of a spreadsheet are None, of a CSV file the empty text.

    Raises:
        UserError: a missing column (those that are there are named), a torn file, or one that is no table.
    """
    if kind_of(path) not in TABLES:
        raise UserError(f"{path}: cannot read '{path.suffix}'; give a file that ends with {', '.join(TABLES)}")
    rows = [row.values for row in stream_rows(path)]
    for number, row in enumerate(rows, 1):
        check_columns(row, columns, f"{path} row {number}")
    return rows


def check_columns(row: Iterable[str], columns: Sequence[str], where: str) -> None:
    """UserError where a column is missing."""
    there = list(row)
    missing = [column for column in columns if column not in there]
    if missing:
        raise UserError(f"{where}: missing column '{missing[0]}' ({name_columns(there)})")

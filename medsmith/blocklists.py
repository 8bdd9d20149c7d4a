"""Benchmark files as published (jsonl, json, csv, tsv, xlsx, parquet) → the texts that training rows must not hold."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from medsmith.digests import VOLATILE_FILES, VOLATILE_FOLDERS
from medsmith.errors import UserError
from medsmith.records import read_jsonl
from medsmith.shingles import split_words, text_key

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".xlsx", ".parquet")


@dataclass(frozen=True)
class Blocked:
    """One text of a benchmark; `place` is file:row:column, counted from 1; `document` is what it is about, if known."""

    benchmark: str
    place: str
    text: str
    document: str = ""


@dataclass(frozen=True)
class Blocklist:
    """Texts to look for, and by benchmark how many items have none: too short to tell a copy from a coincidence."""

    texts: list[Blocked]
    unprotected: dict[str, int]


def load_blocklists(
    paths: Sequence[Path], min_words: int, leave_out: Sequence[str] = (), cut_at: str | None = None
) -> Blocklist:
    """Every distinct text of at least `min_words` words in files or, recursively, folders.

    `leave_out` names fields that are not looked for (BENCHMARK:FIELD, * for anything), `cut_at` is a pattern from which
    on no text is. An item (a row) whose texts are all shorter is looked for as one text: a premise with its hypothesis,
    say. A benchmark is named by its file, or by its folder below the one given.

    Raises:
        UserError: nothing there, an unreadable file, or no text of that length (a silent blocklist blocks nothing).
    """
    found: dict[tuple[str, bytes], Blocked] = {}
    unprotected: Counter[str] = Counter()
    for path in paths:
        before = len(found)
        for benchmark, place, texts in _items(path):
            # Pairs, not a dictionary: the contexts of an article are many texts under one name.
            texts = [
                (column, re.split(cut_at, text, maxsplit=1)[0] if cut_at else text)
                for column, text in texts
                if not any(fnmatch(f"{benchmark}:{column}", pattern) for pattern in leave_out)
            ]
            long = [(column, text) for column, text in texts if len(split_words(text)) >= min_words]
            # Labels and ids are no text of the item.
            joined = "\n".join(dict.fromkeys(text for _, text in texts if len(split_words(text)) > 2))
            if not long and len(split_words(joined)) >= min_words:
                long = [("*", joined)]
            unprotected[benchmark] += not long
            for column, text in long:
                found.setdefault((benchmark, text_key(text)), Blocked(benchmark, f"{place}:{column}", text))
        if len(found) == before:
            raise UserError(
                f"blocklist {path}: no new text of {min_words} words or more ({', '.join(FORMATS)} are read); give the "
                "benchmark's files, or see decontamination: min_words, leave_out, cut_at"
            )
    return Blocklist(list(found.values()), dict(unprotected))


def _items(path: Path) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Each row as (benchmark, place, [(column, text)])."""
    if not path.exists():
        raise UserError(f"no such blocklist: {path}")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if _is_benchmark(file, path))
    for file in files:
        inner = file.relative_to(path).parts if path.is_dir() else ()
        benchmark = inner[0] if len(inner) > 1 else file.stem
        try:
            for number, row in enumerate(_rows(file), 1):
                yield benchmark, f"{'/'.join(inner) or file.name}:{number}", list(_strings("", row))
        except (OSError, ValueError, KeyError, csv.Error, zipfile.BadZipFile) as error:
            raise UserError(
                f"blocklist {file} cannot be read as {file.suffix} ({error}); mend or leave it out"
            ) from None


def _is_benchmark(file: Path, root: Path) -> bool:
    parts = file.relative_to(root).parts
    hidden = any(part.startswith(".") for part in parts)
    volatile = parts[0] in VOLATILE_FOLDERS or file.name in VOLATILE_FILES
    return file.is_file() and file.suffix.lower() in FORMATS and not hidden and not volatile


def _rows(file: Path) -> Iterator[Any]:
    match file.suffix.lower():
        case ".jsonl":
            yield from read_jsonl(file)
        case ".json":
            value = json.loads(file.read_text(encoding="utf-8"))
            # A list of rows, by itself or under `data` (SQuAD); rows by id (PubMedQA); or one object of columns.
            rows = value.get("data", value) if isinstance(value, dict) else value
            yield from rows.values() if isinstance(rows, dict) else rows
        case ".csv" | ".tsv":
            csv.field_size_limit(2**31 - 1)
            # Published files are UTF-8 but for single stray bytes, which no comparison needs.
            text = file.read_bytes().decode("utf-8-sig", errors="replace")
            yield from csv.DictReader(io.StringIO(text), delimiter="," if file.suffix.lower() == ".csv" else "\t")
        case ".xlsx":
            yield from _workbook_rows(file)
        case _:
            import polars

            yield from polars.read_parquet(file).iter_rows(named=True)


def _workbook_rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        import openpyxl
    except ImportError:
        raise UserError(f"{file}: reading xlsx needs openpyxl; pip install 'medsmith[eval]'") from None
    book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    for sheet in book.worksheets:
        rows = sheet.iter_rows(values_only=True)
        header = [str(name) for name in next(rows, ())]
        for row in rows:
            yield dict(zip(header, row, strict=False))
    book.close()


def _strings(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(name, item)

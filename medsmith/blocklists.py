"""Benchmark files as published (tables and texts: row_files.py) → the texts that training rows must not hold."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from medsmith.books import data_files
from medsmith.errors import UserError
from medsmith.row_files import TABLES, TEXTS, files_in, stream_rows
from medsmith.shingles import split_words, text_key

log = logging.getLogger(__name__)

FORMATS = (*TABLES, *TEXTS)


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
    for file in [path] if path.is_file() else data_files(files_in(path, FORMATS), held_out=True):
        inner = file.relative_to(path).parts if path.is_dir() else ()
        benchmark = inner[0] if len(inner) > 1 else file.stem
        for number, row in enumerate(stream_rows(file, loose=True), 1):
            if row.fault and path.is_file():
                raise UserError(f"blocklist {file}: {row.fault}; mend it or leave it out")
            if row.fault:  # a scanned paper beside the benchmark, say
                log.warning("blocklist %s: not read: %s", file, row.fault)
            yield benchmark, f"{'/'.join(inner) or file.name}:{number}", list(_strings("", row.values))


def _strings(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(name, item)

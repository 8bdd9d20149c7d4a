"""The books of a run: files in which it put down what it left out or held out. They are never read as data.

`dropped.jsonl` holds benchmark texts, texts under a denied licence, texts that a person refused; `heldout.jsonl` is for
measuring. Whoever reads a folder as data asks `data_files`, and medsmith.run.start refuses such a file by its name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

LOG = logging.getLogger(__name__)

BOOK = re.compile(r"(dropped|failed|left_out)\b")
HELD_OUT = re.compile(r"heldout\b")


def is_book(path: Path) -> bool:
    """Whether a file's name is that of a book of what was left out."""
    return BOOK.match(path.name) is not None


def data_files(files: Iterable[Path], *, held_out: bool = False) -> list[Path]:
    """Files of a folder in order of names, without its books (and held-out rows, unless asked for); those are told."""
    found = sorted(files)
    kept = [path for path in found if not is_book(path) and (held_out or not HELD_OUT.match(path.name))]
    if left := [str(path) for path in found if path not in kept]:
        LOG.info("not read as data: %s", ", ".join(left))
    return kept

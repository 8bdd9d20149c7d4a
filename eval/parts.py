"""Parts of a published file that `eval.split` made: how they are recorded, and found again by whoever reads one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from medsmith.digests import RECORD, file_digest
from medsmith.run import find_record

COMMAND = "eval.split"
TRAINING = "train"
"""What the name of a part begins with that may be trained on."""


class Part(NamedTuple):
    """One part: its file, its rows, and of what it is a part."""

    name: str
    file: Path
    rows: int
    of: dict[str, Any]
    """The split: {benchmark, file, rows, sha256, as_published, by, draw, parts}."""

    def describe(self) -> str:
        """`a known part: test, 300 of 1,000 rows, split by content`."""
        by, draw = self.of["by"], f", draw {self.of['draw']}" if self.of["draw"] else ""
        return f"a known part: {self.name}, {self.rows:,} of {self.of['rows']:,} rows, split by {by}{draw}"


def find_part(path: Path) -> Part | None:
    """The part that a file, or the folder of a part, is; None where no finished `eval.split` wrote just these bytes."""
    record = find_record(path)
    if record is None or record["command"] != COMMAND:
        return None
    folder = next(parent for parent in (path, *path.parents) if (parent / RECORD).is_file())
    split = record["facts"]["split"]
    for name, part in split["parts"].items():
        file = folder / name / split["file"]
        if path.resolve() in (file.resolve(), file.parent.resolve()) and file_digest(file) == part["sha256"]:
            return Part(name, file, part["rows"], split)
    return None

"""What is known of the batches of a run: a line before and after every step, so that a kill forgets none of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

PREPARED, UPLOADED, CREATED, STORED, DONE, VOID = "prepared", "uploaded", "created", "stored", "done", "void"


@dataclass(frozen=True)
class Batch:
    """One batch as last written down. `key` is ours and goes along as metadata; `id` is the provider's.

    Attributes:
        state: prepared (about to be submitted), uploaded, created (paid for from here on), stored (its answers are on
            this disk), done (all of them are in the journal), void (never came to be).
        bound: the most that it may cost.
    """

    key: str
    teacher: str
    requests: int
    bound: float
    at: float = field(default_factory=time.time)
    state: str = PREPARED
    id: str | None = None
    input_file: str | None = None
    status: str | None = None

    def now(self, state: str, **known: Any) -> Batch:
        """The batch one step further."""
        return replace(self, state=state, **known)


class BatchBook:
    """`batches.jsonl` and the files of batches beside it; several teachers may share it, each sees its own."""

    def __init__(self, folder: Path, teacher: str) -> None:
        """`folder` is raw/ of a run folder; `teacher` is the name of the one whose batches these are."""
        self.path = folder / "batches.jsonl"
        self.teacher = teacher
        self._folder = folder / "batches"

    def open_batches(self) -> list[Batch]:
        """Those that still hold something, in the order in which they were begun."""
        last = {batch.key: batch for batch in self._read() if batch.teacher == self.teacher}
        return [batch for batch in last.values() if batch.state not in (DONE, VOID)]

    def write(self, batch: Batch) -> Batch:
        """Write down how far a batch is, surely; and return it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, (json.dumps(asdict(batch)) + "\n").encode())
            os.fsync(file)
        finally:
            os.close(file)
        if batch.state in (DONE, VOID):
            for kind in ("input", "output", "errors"):
                self.file(batch, kind).unlink(missing_ok=True)
        return batch

    def file(self, batch: Batch, kind: str) -> Path:
        """Where the lines of a batch lie: its `input`, `output` or `errors`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{batch.key}.{kind}.jsonl"

    def ids(self, batch: Batch) -> set[str]:
        """The ids of the requests in a batch, from its input."""
        return {line["custom_id"] for _, line in read_lines(self.file(batch, "input"))}

    def _read(self) -> Iterator[Batch]:
        if not self.path.exists():
            return
        good_until = 0
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    # Cut by a kill: what was about to be done was not done yet.
                    os.truncate(self.path, good_until)
                    return
                good_until += len(line)
                yield Batch(**json.loads(line))


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file of lines, each with the offset where it begins; none where there is no file.

    A line that is no JSON object, which a provider may have put there, is passed over: its call has no answer then.
    """
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as lines:
        for line in lines:
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield offset, row
            offset += len(line)

"""A journal of paid calls: JSON Lines, appended one whole line at a time, so that a kill loses only calls in flight."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from medsmith.errors import UserError

SYNC_EVERY = 64
"""Rows between two fsyncs: a killed process loses nothing, a power cut at most this many rows."""


class Journal:
    """An append-only file of rows {id, …, error}; the last row of an id counts.

    Opening it truncates a torn last line (the process was killed while it wrote) and counts it in `torn`.
    Only one process may hold a journal; the lock of the run folder sees to that.

    Raises:
        UserError: a line in the middle is not a JSON object with an id.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`, which need not exist yet; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.torn = 0
        self.rows: dict[str, dict[str, Any]] = {}
        self.spent_attempts = 0
        self.spent_cost = 0.0
        self._unsynced = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            for row in self._read():
                self._keep(row)
        except BaseException:
            os.close(self._file)
            raise

    def done(self) -> dict[str, dict[str, Any]]:
        """The rows that were answered and need no further call, by id."""
        return {key: row for key, row in self.rows.items() if not row.get("error")}

    def append(self, row: dict[str, Any]) -> None:
        """Write one row with one system call, so that no other row can come between and no half row stays behind."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", errors="surrogatepass")
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, f"wrote {written} of {len(line)} bytes", str(self.path))
        self._keep(row)
        self._unsynced += 1
        if self._unsynced >= SYNC_EVERY:
            os.fsync(self._file)
            self._unsynced = 0

    def close(self) -> None:
        """Flush to the disk and close."""
        os.fsync(self._file)
        os.close(self._file)

    def __enter__(self) -> Journal:
        """Return the journal itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the journal."""
        self.close()

    def _keep(self, row: dict[str, Any]) -> None:
        self.rows[row["id"]] = row
        self.spent_attempts += row.get("attempts", 0)
        self.spent_cost += row.get("cost", 0.0)

    def _read(self) -> Iterator[dict[str, Any]]:
        good_until = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    # append() writes a row and its newline together: a line without one was cut by a kill.
                    self.torn += 1
                    os.ftruncate(self._file, good_until)
                    return
                try:
                    row = json.loads(line)
                    row["id"]
                except (ValueError, TypeError, KeyError):
                    raise UserError(
                        f"{self.path} line {number}: not a journal row; remove that line and run again"
                    ) from None
                good_until += len(line)
                yield row

"""A journal of paid calls: JSON Lines, appended one whole line at a time, so that a kill loses only calls in flight.

Of a row only the place in the file is kept (about 26 bytes), so that a journal may hold millions.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from medsmith.ids import IdMap, IdSet
from medsmith.replies import mend_row

SYNC_EVERY = 64
SYNC_SECONDS = 1.0
"""A killed process loses nothing; a power cut loses the rows of about a second, or the last 63."""

READ_BYTES = 16384
SCAN_BYTES = 1 << 20

Row = dict[str, Any]


@dataclass
class Spent:
    """What calls have used: requests sent, and money."""

    attempts: int = 0
    cost: float = 0.0


class Journal:
    """An append-only file of rows {id, …, error}; the last row of an id counts.

    Opening it truncates a torn last line (the process was killed while it wrote) and counts it in `torn`. A line in the
    middle that is no row is passed over and counted in `damaged`: its call is made again.
    Only one process may hold a journal; the lock of the run folder sees to that. Rows may be read after it is closed.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`, which need not exist yet; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.torn = 0
        self.damaged = 0
        self.failed = 0
        self.spent: dict[str, Spent] = {}
        self._index = IdMap()
        self._started: dict[str, int] = {}
        self._unsynced = 0
        self._synced_at = time.monotonic()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._end = self._read()
        except BaseException:
            os.close(self._file)
            raise
        if self.damaged:
            print(f"note: {path}: {self.damaged} lines are no rows; their calls are made again", file=sys.stderr)
        self._lines = _Lines(path)
        self.rows = Rows(self, self._lines, self._index)

    @property
    def spent_attempts(self) -> int:
        """Requests sent by all calls of this journal, those cut short by a kill included."""
        return sum(one.attempts for one in self.spent.values())

    @property
    def spent_cost(self) -> float:
        """Money spent at most by all calls of this journal."""
        return sum(one.cost for one in self.spent.values())

    def done(self) -> Rows:
        """The rows that were answered and need no further call, by id."""
        return Rows(self, self._lines, self._index, answered=True)

    def rows_of(self, ids: IdSet) -> Rows:
        """The rows of some ids."""
        return Rows(self, self._lines, self._index, only=ids)

    def append(self, row: Row) -> None:
        """Write one row with one system call, so that no other row can come between and no half row stays behind."""
        started = self._started.pop(row["id"], 0)
        if started:
            row = {**row, "started": started}
        place = self._end
        self._write(row)
        self._keep(row, place)
        self._charge(row)

    def start(self, key: str, bound: float, teacher: str = "") -> None:
        """Note that an attempt begins which may cost `bound`: if no row of its call follows, it counts as spent."""
        self._write({"start": key, "bound": bound, "teacher": teacher})
        self._started[key] = self._started.get(key, 0) + 1

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

    def _write(self, row: Row) -> None:
        line = _encode(row)
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, f"wrote {written} of {len(line)} bytes", str(self.path))
        self._end += written
        self._unsynced += 1
        if self._unsynced >= SYNC_EVERY and time.monotonic() - self._synced_at >= SYNC_SECONDS:
            os.fsync(self._file)
            self._unsynced = 0
            self._synced_at = time.monotonic()

    def _keep(self, row: Row, place: int) -> None:
        failed = bool(row.get("error"))
        before = self._index.set(row["id"], place << 1 | failed)
        self.failed += failed - (before & 1 if before is not None else 0)

    def _charge(self, row: Row) -> None:
        spent = self.spent.setdefault(row.get("teacher", ""), Spent())
        attempts, cost = spent.attempts + row.get("attempts", 0), spent.cost + row.get("cost", 0.0)
        spent.attempts, spent.cost = attempts, cost

    def _read(self) -> int:
        """Index the rows and add up what they used; return where the last whole line ends."""
        place = 0
        open_starts: dict[str, list[Row]] = {}
        with self.path.open("rb", buffering=SCAN_BYTES) as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    # append() writes a row and its newline together: a line without one was cut by a kill.
                    self.torn += 1
                    os.ftruncate(self._file, place)
                    break
                try:
                    row = _decode(line)
                    if "start" in row:
                        open_starts.setdefault(row["start"], []).append(row)
                    else:
                        self._charge(row)
                        self._keep(row, place)
                        _end_starts(open_starts, row)
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    self.damaged += 1
                place += len(line)
        for start in (start for starts in open_starts.values() for start in starts):
            self._charge({"teacher": start["teacher"], "attempts": 1, "cost": start["bound"]})
        return place


class Rows(Mapping[str, Row]):
    """Rows of a journal by id, read from the file when they are looked at, in the order in which they were written."""

    def __init__(
        self, journal: Journal, lines: _Lines, index: IdMap, *, answered: bool = False, only: IdSet | None = None
    ) -> None:
        self._journal = journal
        self._lines = lines
        self._index = index
        self._answered = answered
        self._only = only

    def __getitem__(self, key: str) -> Row:
        """The last row of an id."""
        held = self._held(key)
        if held is None:
            raise KeyError(key)
        return _decode(self._lines.line_at(held >> 1))

    def __contains__(self, key: object) -> bool:
        """Does the id have a row?"""
        return isinstance(key, str) and self._held(key) is not None

    def __len__(self) -> int:
        """How many ids have a row."""
        if self._only is not None:
            return sum(1 for held in self._index.values_in(self._only) if not (self._answered and held & 1))
        return len(self._index) - (self._journal.failed if self._answered else 0)

    def __iter__(self) -> Iterator[str]:
        """The ids."""
        return (row["id"] for row in self._scan())

    def values(self) -> ValuesView[Row]:
        """The rows, in one pass over the file."""
        return _Values(self)

    def items(self) -> ItemsView[str, Row]:
        """The ids with their rows, in one pass over the file."""
        return _Items(self)

    def _held(self, key: str) -> int | None:
        held = self._index.get(key)
        if held is None or (self._answered and held & 1) or (self._only is not None and key not in self._only):
            return None
        return held

    def _scan(self) -> Iterator[Row]:
        for place, line in self._lines.all_lines():
            try:
                row = _decode(line)
                held = self._held(row["id"])
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue  # a start, or a line that is counted as damaged
            # An earlier row of the same id stands at another place.
            if held is not None and held >> 1 == place:
                yield row


class _Values(ValuesView[Row]):
    _mapping: Rows

    def __iter__(self) -> Iterator[Row]:
        return self._mapping._scan()


class _Items(ItemsView[str, Row]):
    _mapping: Rows

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        return ((row["id"], row) for row in self._mapping._scan())


class _Lines:
    """The file of a journal, open for reading for as long as somebody has rows of it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self._file)

    def line_at(self, place: int) -> bytes:
        parts = [os.pread(self._file, READ_BYTES, place)]
        while b"\n" not in parts[-1]:
            place += len(parts[-1])
            parts.append(os.pread(self._file, 8 * READ_BYTES, place))
            assert parts[-1], "the journal was cut while it was open"
        return b"".join(parts).split(b"\n", 1)[0]

    def all_lines(self) -> Iterator[tuple[int, bytes]]:
        """Each line with its place, up to where the file ends now."""
        end = os.fstat(self._file).st_size
        place, read, rest = 0, 0, b""
        while read < end:
            block = os.pread(self._file, min(SCAN_BYTES, end - read), read)
            assert block, "the journal was cut while it was open"
            read += len(block)
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield place, line
                place += len(line) + 1


def _end_starts(open_starts: dict[str, list[Row]], row: Row) -> None:
    """A row settles the attempts that it counts as its own; those of a call that was killed before stay open."""
    started = row.get("started", 0)
    if started:
        left = open_starts.pop(row["id"], [])[:-started]
        if left:
            open_starts[row["id"]] = left


def _encode(row: Row) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Half a surrogate pair, or a number beyond 64 bits: a text that a model wrote may hold anything.
        return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", errors="surrogatepass")


def _decode(line: bytes) -> Row:
    try:
        row: Row = orjson.loads(line)
        as_it_came = b"think" in line
    except ValueError:
        row, as_it_came = json.loads(line), True
    texts = row.get("texts")
    # An earlier version kept what came: reasoning among the text, halves of characters, contents that are no text.
    if texts and (as_it_came or not all(type(text) is str for text in texts)):
        row = mend_row(row)
    return row

"""What people decided: an append-only journal of one line a decision, shared by all who review the same folder."""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from medsmith.errors import UserError

Verdict = Literal["accept", "reject", "edit", "skip"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
JUDGING = ("accept", "reject", "edit")
"""The verdicts that say something of a row; a skip says that it was seen."""
PARTS = ("instruction", "input", "output")


@dataclass(frozen=True)
class Decision:
    """One line. The last line of a row and reviewer counts; `undo` says that it takes the one before back."""

    row_id: str
    reviewer: str
    decision: Verdict
    edited: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""
    at: str = ""
    undo: bool = False

    def line(self) -> dict[str, Any]:
        """As it stands in the file."""
        plain = {
            "row_id": self.row_id,
            "reviewer": self.reviewer,
            "decision": self.decision,
            "edited": dict(self.edited),
            "comment": self.comment,
            "at": self.at,
        }
        return plain | {"undo": True} if self.undo else plain


def parse_decision(values: Any, where: str) -> Decision:
    """A decision from its line.

    Raises:
        UserError: something else stands there.
    """
    try:
        edited = dict(values.get("edited") or {})
        one = Decision(
            str(values["row_id"]),
            str(values["reviewer"]),
            values["decision"],
            edited,
            str(values.get("comment") or ""),
            str(values.get("at") or ""),
            bool(values.get("undo")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not a decision ({error}); mend or remove the line") from None
    if one.decision not in VERDICTS:
        raise UserError(f"{where}: decision '{one.decision}' is none of {', '.join(VERDICTS)}")
    wrong = [name for name, text in edited.items() if name not in PARTS or not isinstance(text, str)]
    if wrong:
        raise UserError(f"{where}: edited '{wrong[0]}' is no text of a row; known are {', '.join(PARTS)}")
    return one


class Decisions:
    """The journal at `path`, and what holds by row and reviewer. Several processes may have it open at once.

    A line is written whole, under a lock, and synced before anyone is told that it is saved. Half a line at the end
    was never told to anyone: the next writer cuts it off, and readers wait for its end.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`, which need not exist yet, and read what is there."""
        self.path = path
        self.latest: dict[str, dict[str, Decision]] = {}
        self._lines: dict[tuple[str, str], list[Decision]] = defaultdict(list)
        self._done: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._offset = 0
        self._number = 0
        self._guard = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self.refresh()

    @property
    def reviewers(self) -> list[str]:
        """Everyone who has decided anything, by name."""
        with self._guard:
            return sorted({reviewer for held in self.latest.values() for reviewer in held})

    def of(self, row_id: str) -> dict[str, Decision]:
        """What each reviewer holds of a row now."""
        with self._guard:
            return dict(self.latest.get(row_id, {}))

    def refresh(self) -> list[str]:
        """Read what others have added; return the ids of the rows concerned."""
        with self._guard:
            if not self.path.is_file():
                return []
            with self.path.open("rb") as file:
                file.seek(self._offset)
                read = file.read()
            whole = read[: read.rfind(b"\n") + 1]
            changed = []
            for line in whole.splitlines():
                self._number += 1
                if line.strip():
                    changed.append(self._keep(self._parse(line)).row_id)
            self._offset += len(whole)
            return changed

    def add(
        self, row_id: str, reviewer: str, decision: Verdict, edited: Mapping[str, str] | None = None, comment: str = ""
    ) -> Decision:
        """Write one decision; it is on the disk when this returns."""
        return self._write(Decision(row_id, reviewer, decision, edited or {}, comment, _now()))

    def undo(self, reviewer: str) -> Decision | None:
        """Take this reviewer's last decision back: what held before holds again. None where there is none."""
        with self._guard:
            self.refresh()
            if not self._done[reviewer]:
                return None
            key = self._done[reviewer][-1]
            before = self._lines[key][:-1]
            # A reader that knows nothing of undoing takes the last line: it says what held before, or nothing.
            last = before[-1] if before else Decision(key[0], reviewer, "skip")
            return self._write(Decision(key[0], reviewer, last.decision, last.edited, last.comment, _now(), undo=True))

    def _write(self, decision: Decision) -> Decision:
        line = json.dumps(decision.line(), ensure_ascii=False).encode("utf-8", errors="surrogatepass") + b"\n"
        with self._guard, self._lock:
            self.refresh()
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                # Under the lock nobody else is writing: what comes after the last whole line is torn.
                os.ftruncate(file, self._offset)
                written = os.write(file, line)
                if written != len(line):
                    os.ftruncate(file, self._offset)
                    raise OSError(f"{self.path}: the disk is full; the decision was not saved")
                os.fsync(file)
            finally:
                os.close(file)
            self.refresh()
        return decision

    def _parse(self, line: bytes) -> Decision:
        where = f"{self.path} line {self._number}"
        try:
            values = json.loads(line)
        except ValueError:
            raise UserError(f"{where}: not valid JSON; mend or remove the line") from None
        return parse_decision(values, where)

    def _keep(self, one: Decision) -> Decision:
        key = (one.row_id, one.reviewer)
        if one.undo and self._lines[key]:
            self._lines[key].pop()
            done = self._done[one.reviewer]
            if key in done:
                del done[len(done) - 1 - done[::-1].index(key)]
        else:
            self._lines[key].append(one)
            self._done[one.reviewer].append(key)
        held = self.latest.setdefault(one.row_id, {})
        if self._lines[key]:
            held[one.reviewer] = self._lines[key][-1]
        else:
            held.pop(one.reviewer, None)
        return one


def disagree(held: Mapping[str, Decision]) -> bool:
    """Whether reviewers judged one row differently; who skipped it has not judged it."""
    return len({one.decision for one in held.values() if one.decision in JUDGING}) > 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""How far a long step is: a bar on a terminal, quiet elsewhere.

    for row in track(rows, "judging", unit="rows"): ...
    with Bar("training", total=steps, unit="steps", done=resumed_at) as bar:
        bar.advance(note="loss 1.23")

Where the environment names a file in MEDSMITH_PROGRESS, the state is written there instead, a few times a second, as
JSON {description, done, total, rate, note, unit}; the pipeline runner draws its display from these files.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from medsmith import processes

VARIABLE = "MEDSMITH_PROGRESS"
INTERVAL_SECONDS = 0.25

T = TypeVar("T")


class Bar:
    """Counts what is done; a context manager. `done` is what an earlier, killed try had done: it is not in the rate.

    Attributes:
        done: units done so far.
        rate: units a second since this bar began, 0.0 before the first.
    """

    def __init__(self, description: str, total: int | None = None, unit: str = "rows", done: int = 0) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done = done
        self.note = ""
        self._first = done
        self._began = time.monotonic()
        self._written = float("-inf")
        # Of several processes one shows how far they are.
        main = processes.is_main()
        target = os.environ.get(VARIABLE) if main else None
        self._file = Path(target) if target else None
        self._terminal = None if self._file or not main else _terminal_bar(description, total, unit, done)

    @property
    def rate(self) -> float:
        """Units a second, by this process."""
        seconds = time.monotonic() - self._began
        return (self.done - self._first) / seconds if seconds > 0 else 0.0

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more; `note` (a loss, say) stays until the next one."""
        self.done += n
        self.note = note or self.note
        if self._terminal is not None:
            if note:
                self._terminal.set_postfix_str(note, refresh=False)
            self._terminal.update(n)
        elif self._file and time.monotonic() - self._written >= INTERVAL_SECONDS:
            self._write(self._file)

    def __enter__(self) -> Self:
        if self._file:
            self._write(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._terminal is not None:
            self._terminal.close()
        elif self._file:
            self._write(self._file)

    def _write(self, file: Path) -> None:
        self._written = time.monotonic()
        names = ("description", "done", "total", "note", "unit")
        state = {name: getattr(self, name) for name in names} | {"rate": round(self.rate, 3)}
        partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
        # A display must never end the work that it shows: the folder may be gone or the disk full.
        with contextlib.suppress(OSError):
            partial.write_text(json.dumps(state))
            partial.replace(file)


def track(items: Iterable[T], description: str, unit: str = "rows", total: int | None = None) -> Iterator[T]:
    """Yield the items and count them; `total` is taken from their length where they have one."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Bar(description, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()


def read_progress(file: Path) -> dict[str, Any] | None:
    """The last state that a Bar wrote, or None where there is none."""
    try:
        state = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _terminal_bar(description: str, total: int | None, unit: str, done: int) -> Any:
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm(total=total, desc=description, unit=f" {unit}", initial=done, dynamic_ncols=True)

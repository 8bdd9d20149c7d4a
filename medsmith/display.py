"""What a running pipeline shows: a line an event, and on a terminal one live line for each running step."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

REFRESH_SECONDS = 0.25

Running = tuple[str, float, dict[str, Any] | None]
"""A running step: name, seconds so far, and what its Bar last wrote."""


class Display(Protocol):
    """Where the runner tells what happens."""

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def update(self, done: int, running: Callable[[], Sequence[Running]]) -> None:
        """Show how many steps are done and what runs now; called often."""


class Plain:
    """Lines only: for logs and pipes."""

    def say(self, line: str) -> None:
        """Print a line with the time of day."""
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    def update(self, done: int, running: Callable[[], Sequence[Running]]) -> None:
        """Show nothing between the lines."""


class Terminal:
    """Lines above, running steps with bar, rate and remaining time below."""

    def __init__(self, live: Any, steps: int) -> None:
        self._live = live
        self._steps = steps
        self._began = time.monotonic()
        self._next = 0.0

    def say(self, line: str) -> None:
        """Print a line above the running steps."""
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def update(self, done: int, running: Callable[[], Sequence[Running]]) -> None:
        """Redraw a few times a second."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REFRESH_SECONDS
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        table = _table(running())
        table.add_row(f"{done} of {self._steps} steps", f"{minutes}:{seconds:02}")
        self._live.update(table, refresh=True)


@contextlib.contextmanager
def open_display(steps: int) -> Iterator[Display]:
    """A live display on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        yield Plain()
        return
    from rich.console import Console
    from rich.live import Live

    # No refresh thread: the runner's loop draws, and nothing is drawn while it starts a process.
    with Live(console=Console(), auto_refresh=False, transient=True) as live:
        yield Terminal(live, steps)


def _table(running: Sequence[Running]) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, seconds, state in running:
        state = state or {"description": "starting", "done": 0, "total": None, "rate": 0.0, "note": "", "unit": ""}
        total, done = state["total"], state["done"]
        bar = ProgressBar(total=total, completed=done, width=24) if total else Text("")
        parts = (name, f"{seconds:.0f} s", state["description"], bar, describe(state))
        table.add_row(*(Text(part) if isinstance(part, str) else part for part in parts))
    return table


def describe(state: dict[str, Any]) -> str:
    """Progress in words: done of total, rate, remaining time, note."""
    done, total, rate = state["done"], state["total"], state["rate"]
    if not done and not total:
        return ""
    words = [f"{done}/{total} {state['unit']}" if total else f"{done} {state['unit']}"]
    if rate:
        words.append(f"{rate:.1f}/s" if rate >= 0.1 else f"{1 / rate:.0f} s each")
        if total and total > done:
            left = (total - done) / rate
            words.append(f"{left:.0f} s left" if left < 120 else f"{left / 60:.0f} min left")
    return ", ".join(filter(None, [*words, state["note"]]))


def count_words(counts: dict[str, int], most: int = 6) -> str:
    """A run's counts in words, the first of them where there are many."""
    words = [f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()]
    more = [f"and {len(words) - most} more"] if len(words) > most else []
    return ", ".join([*words[:most], *more])

"""Run a merge as a process and see what it used, and what the machine itself needs to move the same bytes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ROOT, kill_session

SAMPLE_SECONDS = 0.02
BUFFER = 1 << 20
"""Bytes that are read or written at once: they stay in the processor's cache."""


@dataclass(frozen=True)
class Spent:
    """What one process used from its start to its end."""

    code: int
    cpu: float
    """Of the process and the children that it waited for, by the kernel's account."""
    wall: float
    anonymous_mb: float
    """The peak of its own memory without mapped files, looked at 50 times a second: a shorter peak is not seen."""


@dataclass(frozen=True)
class Limit:
    """The seconds that this machine needs to read some files once and to write as many bytes as a result has."""

    read: float
    write: float
    sync: float
    """From the last byte written until all of them are on disk."""

    @property
    def with_sync(self) -> float:
        """For a program that waits until its result is on disk."""
        return self.read + self.write + self.sync

    @property
    def without_sync(self) -> float:
        """For a program that leaves its result to the system, as mergekit and the streaming engine do."""
        return self.read + self.write


def run_merge(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Spent:
    """Run one merge to its end; what it says goes to `log`."""
    with log.open("wb") as said:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watch = _Watch(process.pid)
        watch.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.monotonic() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            watch.stop()
            if process.returncode is None:
                kill_session(process.pid)
    return Spent(process.returncode, usage.ru_utime + usage.ru_stime, wall, watch.peak_kb / 1024)


class _Watch(threading.Thread):
    """Looks at a process's anonymous memory. Needs Linux's /proc; elsewhere it sees nothing."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_kb = 0
        self._status = Path(f"/proc/{pid}/status")
        self._end = threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        while not self._end.is_set():
            with contextlib.suppress(OSError):
                self.peak_kb = max(self.peak_kb, anonymous_kb(self._status.read_text()))
            self._end.wait(SAMPLE_SECONDS)

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        self.join()


def anonymous_kb(status: str) -> int:
    """What /proc/PID/status says of memory that no file stands behind; 0 for a process that has ended."""
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


def measure_limit(sources: Sequence[Path], target: Path, size: int, threads: int, tries: int = 3) -> Limit:
    """Read `sources` once through the page cache, write a new file `target` of `size` bytes; it is removed again.

    Reading copies each byte once, into a buffer that stays in the cache: what any merge must do at the least. The best
    of some tries, each when nothing else waits to be written.
    """
    found = []
    for _ in range(tries):
        os.sync()
        found.append(_try_limit(sources, target, size, threads))
    write = min(limit.write for limit in found)
    return Limit(min(limit.read for limit in found), write, min(limit.write + limit.sync for limit in found) - write)


def _try_limit(sources: Sequence[Path], target: Path, size: int, threads: int) -> Limit:
    pieces = [piece for path in sources for piece in _pieces(path.stat().st_size, path, threads)]
    with ThreadPoolExecutor(threads) as pool:
        before = time.monotonic()
        assert sum(pool.map(_read, pieces)) == sum(path.stat().st_size for path in sources), "every byte is read"
        read = time.monotonic() - before
        target.unlink(missing_ok=True)
        before = time.monotonic()
        with target.open("wb") as file:
            number = file.fileno()
            list(pool.map(lambda piece: _write(number, piece), _pieces(size, target, threads)))
            write = time.monotonic() - before
            os.fsync(number)
        sync = time.monotonic() - before - write
    target.unlink()
    return Limit(read, write, sync)


def copy_rate(megabytes: int = 256, repeats: int = 5) -> float:
    """Bytes a second that one thread copies from memory to memory, at best."""
    import numpy

    source, target = (numpy.ones(megabytes << 20, numpy.uint8) for _ in range(2))
    times = []
    for _ in range(repeats):
        before = time.monotonic()
        numpy.copyto(target, source)
        times.append(time.monotonic() - before)
    return (megabytes << 20) / min(times)


Piece = tuple[Path, int, int]


def _pieces(size: int, path: Path, threads: int) -> list[Piece]:
    """A file of that size in as many stretches as there are threads, as (path, begin, end)."""
    bounds = [size * number // threads for number in range(threads + 1)]
    return [(path, begin, end) for begin, end in zip(bounds, bounds[1:], strict=False)]


def _read(piece: Piece) -> int:
    path, begin, end = piece
    buffer = memoryview(bytearray(BUFFER))
    done = begin
    with path.open("rb", buffering=0) as file:
        while done < end:
            done += os.preadv(file.fileno(), [buffer[: min(BUFFER, end - done)]], done)
    return done - begin


def _write(number: int, piece: Piece) -> None:
    _, done, end = piece
    # Not zeros: a disk that compresses would be faster than it is.
    buffer = memoryview(os.urandom(BUFFER))
    while done < end:
        done += os.pwrite(number, buffer[: min(BUFFER, end - done)], done)

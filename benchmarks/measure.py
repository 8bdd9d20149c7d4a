"""Run a system as a whole process tree and see what it used: CPU, memory, wall, and what it left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import SCHEMA

ROOT = Path(__file__).parent.parent
SAMPLES_PER_SECOND = 10
STOP_SECONDS = 5.0


class MockServer:
    """The mock server in a process of its own."""

    def __init__(self, base_url: str) -> None:
        """`base_url` is what a client is given."""
        self.base_url = base_url

    def reset(self, **behaviour: float) -> None:
        """Forget all counts and behave so; see benchmarks.mock_server.Behaviour."""
        self._get("/reset?" + "&".join(f"{name}={value}" for name, value in behaviour.items()))

    def stats(self, keys: bool = False) -> dict[str, Any]:
        """What it has seen since the reset."""
        return self._get("/stats?keys=1" if keys else "/stats")

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.base_url.removesuffix("/v1") + path, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


@contextmanager
def mock_server(**behaviour: float) -> Iterator[MockServer]:
    """Start the server on a free port; it ends with the block."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.mock_server",
        *(f"{name}={value}" for name, value in behaviour.items()),
    ]
    # Ctrl-C is for the benchmark, which then ends the server.
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None, "stdin was asked for"
    assert process.stdout is not None, "stdout was asked for"
    try:
        line = process.stdout.readline()
        assert line, "the mock server did not start; what it said is above"
        yield MockServer(json.loads(line)["base_url"])
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Used:
    """What one process tree used. `cpu` and `seconds` are of the whole tree, start-up included."""

    code: int
    cpu: float
    seconds: float
    peak_mb: float
    stopped: bool
    """It was still running at the limit, and was killed."""
    ready_cpu: float = 0.0
    """Of imports and set-up, before the first record; 0 where it did not get so far."""
    ready_seconds: float = 0.0


def run_measured(
    command: Sequence[str],
    out: Path,
    limit: float,
    environment: dict[str, str] | None = None,
    watch: Callable[[], bool] | None = None,
) -> Used:
    """Run `command` to its end, or kill its tree after `limit` seconds (or as soon as `watch` says so).

    CPU is what the kernel accounts to the process and the children that it waited for, or the sum over all processes
    seen in its session where that is more: a pool that is never waited for would cost nothing otherwise.
    """
    began, began_clock = time.monotonic(), time.time()
    with (out / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        sampler = _Sampler(process.pid)
        sampler.start()
        stopped = False
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if not stopped and (time.monotonic() - began > limit or (watch is not None and watch())):
                    stopped = True
                    kill_session(process.pid)
                time.sleep(0.002 if watch else 0.02)
            seconds = time.monotonic() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            sampler.stop()
            kill_session(process.pid)
    used = Used(
        process.returncode, max(usage.ru_utime + usage.ru_stime, sampler.cpu), seconds, sampler.peak_mb, stopped
    )
    with contextlib.suppress(OSError, ValueError):
        ready = json.loads((out / "ready.json").read_text())
        used.ready_cpu, used.ready_seconds = ready["cpu"], ready["time"] - began_clock
    return used


def kill_session(leader: int) -> None:
    """SIGKILL to every process of the session that `leader` began, and to nobody else."""
    for pid in _session(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class _Sampler(threading.Thread):
    """Looks at the processes of a session ten times a second. Needs Linux's /proc; elsewhere it sees nothing."""

    def __init__(self, leader: int) -> None:
        super().__init__(daemon=True)
        self.leader = leader
        self.peak_mb = 0.0
        self._cpu: dict[int, float] = {}
        self._end = threading.Event()

    @property
    def cpu(self) -> float:
        return sum(self._cpu.values())

    def run(self) -> None:
        page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
        while not self._end.is_set():
            resident = 0
            for pid in _session(self.leader):
                with contextlib.suppress(OSError, IndexError, ValueError):
                    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    self._cpu[pid] = (int(values[11]) + int(values[12])) / tick
                    resident += int(values[21]) * page
            self.peak_mb = max(self.peak_mb, resident / 2**20)
            self._end.wait(1 / SAMPLES_PER_SECOND)

    def stop(self) -> None:
        self._end.set()
        self.join()


def _session(leader: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with contextlib.suppress(OSError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


@dataclass
class Checked:
    """The records that a system left: of the planned ones, each counted once."""

    valid: int = 0
    bad: int = 0
    """Handed over as records, but not of the schema, not planned, or twice there."""
    missing: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Planned, and not even there as something bad."""
        return max(0, self.missing - self.bad)


def check_records(path: Path, planned: Sequence[str]) -> Checked:
    """Check every line of `records.jsonl` with `jsonschema`, the authority, and against the keys that were planned."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(SCHEMA)
    checked = Checked()
    open_keys = set(planned)
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        row = json.loads(line)
        reason = None if validator.is_valid(row) else "not of the schema"
        if reason is None and row["id"] not in open_keys:
            reason = "twice or not planned"
        if reason:
            checked.bad += 1
            checked.reasons[reason] = checked.reasons.get(reason, 0) + 1
        else:
            open_keys.discard(row["id"])
            checked.valid += 1
    checked.missing = len(open_keys)
    return checked


def median_spread(values: Sequence[float], digits: int = 2) -> str:
    """`1.24 (1.20–1.31)`: the median and the whole range; where all are equal the one value."""
    low, middle, high = (f"{one:.{digits}f}" for one in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def machine() -> str:
    """One line about where figures come from."""
    name = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown processor",
    )
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC; {name}, {os.cpu_count()} cores, load {load:.1f}; "
        f"Python {sys.version.split()[0]}"
    )

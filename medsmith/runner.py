"""Run a pipeline: skip what is finished, continue what was killed, rebuild what is stale, side by side where possible.

A step runs as a process of its own, `python -m medsmith.cli <command> <step>/log/step.json`, with its threads fixed
by the pipeline and the machine, never by what else is running: thread counts can change a float's last digits. Steps
run side by side while the sum of their threads fits the cores. Whether a step is still current is asked when its turn
comes, so a step that was rebuilt to the same content does not rebuild what follows.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from medsmith import machine, progress, run
from medsmith.display import Display, count_words, open_display
from medsmith.errors import UserError
from medsmith.pipeline import Pipeline, Step
from medsmith.records import write_json
from medsmith.standing import REASON, Standing, assess

POLL_SECONDS = 0.05
GRACE_SECONDS = 20.0
NOTE = "pipeline.json"
"""In a pipeline's folder: the file and arguments of its last run, for `medsmith status`."""


class Outcome(NamedTuple):
    """What a run of a pipeline came to."""

    built: list[str]
    current: list[str]
    failed: list[str]
    interrupted: bool


class Job(NamedTuple):
    """A step under way."""

    step: Step
    key: str
    process: subprocess.Popen[bytes]
    began: float


@dataclass
class _Work:
    """Where a run of a pipeline is."""

    pipeline: Pipeline
    display: Display
    jobs: int
    todo: dict[str, Step]
    ready: dict[str, Standing] = field(default_factory=dict)
    running: dict[str, Job] = field(default_factory=dict)
    built: list[str] = field(default_factory=list)
    current: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)

    @property
    def stopping(self) -> bool:
        return bool(self.failed or self.signals)


def execute(pipeline: Pipeline, jobs: int | None = None) -> Outcome:
    """Bring every step up to date; `jobs` is the most steps at a time (default: as many as there are cores).

    After a failure nothing new is started and what runs may finish. After SIGINT, SIGTERM or SIGHUP what runs is
    stopped gently; a second signal, or GRACE_SECONDS, ends it at once. Either way every step can be continued.

    Raises:
        UserError: a wrong setting anywhere, or another process is running this pipeline.
    """
    pipeline.check()
    with _locked(pipeline.out), open_display(len(pipeline.steps)) as display:
        write_json(pipeline.out / NOTE, {"file": str(pipeline.file.absolute()), "arguments": list(pipeline.arguments)})
        work = _Work(pipeline, display, jobs or machine.cores(), dict(pipeline.steps))
        with _signals(work):
            try:
                _loop(work)
            finally:
                _stop(work.running.values(), signal.SIGKILL)  # only where an error of our own ended the loop
    return Outcome(work.built, work.current, work.failed, bool(work.signals))


def run_pipeline(pipeline: Pipeline, jobs: int | None = None) -> int:
    """Execute, say in a line what it came to, print where it lies; return the exit code."""
    began = time.monotonic()
    outcome = execute(pipeline, jobs)
    spent = f"{time.monotonic() - began:.1f} s, {_cpu_seconds():.1f} s of CPU"
    words = [f"{len(outcome.built)} built", f"{len(outcome.current)} up to date"]
    words += [f"failed: {', '.join(outcome.failed)}"] if outcome.failed else []
    print(f"{pipeline.name}: {', '.join(words)} ({spent})")
    if outcome.interrupted:
        again = shlex.join(["medsmith", "run", str(pipeline.file), *pipeline.arguments])
        print(f"interrupted; to continue: {again}", file=sys.stderr)
        return 130
    if outcome.failed:
        return 1
    report = list(pipeline.steps.values())[-1].folder / "report.html"
    print(f"open {_near(report)}" if report.is_file() else f"results: {_near(pipeline.out)}")
    return 0


def _loop(work: _Work) -> None:
    told, deadline = 0, float("inf")
    while (work.todo or work.ready) and not work.stopping or work.running:
        if not work.stopping:
            _assess_ready(work)
            _start_ready(work)
        for job in list(work.running.values()):
            if job.process.poll() is not None:
                del work.running[job.step.name]
                _end(work, job)
        if len(work.signals) > told:
            told = len(work.signals)
            if told == 1:
                deadline = time.monotonic() + GRACE_SECONDS
                work.display.say(f"stopping {', '.join(work.running) or 'now'}; once more to stop at once")
                _stop(work.running.values(), signal.SIGTERM)
        if told > 1 or time.monotonic() > deadline:
            _stop(work.running.values(), signal.SIGKILL)
        done = len(work.built) + len(work.current)
        work.display.update(done, lambda: [_shown(job) for job in work.running.values()])
        if work.running:
            time.sleep(POLL_SECONDS)


def _assess_ready(work: _Work) -> None:
    """Ask of each step whose needs are done whether it is current; a skipped step may make others ready."""
    # Needs come before what needs them, so one pass sees all that skipping makes ready.
    for step in list(work.todo.values()):
        if work.signals or not {*work.built, *work.current}.issuperset(step.needs):
            continue
        del work.todo[step.name]
        try:
            standing = assess(step, work.pipeline, [])
        except UserError as error:
            work.failed.append(step.name)
            work.display.say(f"{step.name}: FAILED: {error}")
            return
        if standing.state == "finished":
            work.current.append(step.name)
            work.display.say(f"{step.name}: up to date")
        else:
            work.ready[step.name] = standing


def _start_ready(work: _Work) -> None:
    """Start what fits, those with the longest way to go first."""
    free = machine.cores() - sum(job.step.threads for job in work.running.values())
    order = list(work.pipeline.steps)
    for standing in sorted(work.ready.values(), key=lambda one: (-one.step.height, order.index(one.step.name))):
        step = standing.step
        if step.threads > free or len(work.running) >= work.jobs:
            continue
        del work.ready[step.name]
        work.running[step.name] = start_job(standing)
        verb = "continues" if standing.state == "interrupted" else "started"
        work.display.say(f"{step.name}: {verb} ({standing.reasons[0]})" if standing.reasons else f"{step.name}: {verb}")
        free -= step.threads


def start_job(standing: Standing) -> Job:
    """Start a step as a child process. This and `_end` are all that another engine would replace."""
    step = standing.step
    log = step.folder / "log"
    key = run.key_of(run.step_identity(step.run, step.config))
    try:
        log.mkdir(parents=True, exist_ok=True)
        (log / "progress.json").unlink(missing_ok=True)
        write_json(log / "step.json", step.values)
        with (log / "step.log").open("a", encoding="utf-8") as out:
            out.write(f"== try {datetime.now(UTC).isoformat(timespec='seconds')}: {step.run}, {step.threads} threads\n")
            out.writelines(f"{REASON}{reason}\n" for reason in standing.reasons)
            out.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "medsmith.cli", step.run, str(log / "step.json")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=_environment(step),
                # Ctrl-C of the terminal goes to us alone; we stop the children in order.
                start_new_session=True,
            )
    except OSError as error:
        raise UserError(f"{log}: {error.strerror}; free space, mend permissions or choose another out=") from None
    return Job(step, key, process, time.monotonic())


def _environment(step: Step) -> dict[str, str]:
    paths = [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    floor = Path(__file__).parents[1]
    if floor.name not in ("site-packages", "dist-packages"):
        paths.append(str(floor))
    return {
        **os.environ,
        **machine.thread_environment(step.threads),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        progress.VARIABLE: str(step.folder / "log" / "progress.json"),
        machine.PARENT: str(os.getpid()),
    }


def _end(work: _Work, job: Job) -> None:
    """Say how a step ended and sort it."""
    step, code = job.step, job.process.returncode
    seconds = time.monotonic() - job.began
    record = run.read_record(step.folder)
    if code == 0 and record is not None and record["key"] != job.key:
        work.failed.append(step.name)
        work.display.say(
            f"{step.name}: made of other code or inputs than were there when the pipeline began, for they were changed "
            "while it ran; run the pipeline again, which makes anew what that touches"
        )
    elif code == 0 and record is not None:
        work.built.append(step.name)
        counts = count_words(record["counts"])
        work.display.say(f"{step.name}: finished in {seconds:.1f} s{' (' + counts + ')' if counts else ''}")
    elif work.signals:
        work.display.say(f"{step.name}: stopped after {seconds:.0f} s")
    else:
        work.failed.append(step.name)
        log = step.folder / "log" / "step.log"
        work.display.say(f"{step.name}: FAILED after {seconds:.1f} s\n{_complaint(log, code)}\n  log: {_near(log)}")
        if work.running:
            work.display.say(f"waiting for {', '.join(work.running)} to finish (Ctrl-C stops; it can be continued)")


def _complaint(log: Path, code: int) -> str:
    """The one-line error of a step, or else the last lines of its log."""
    if code < 0:
        hint = " (the machine may be out of memory)" if code == -signal.SIGKILL else ""
        return f"  killed by {signal.Signals(-code).name}{hint}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if code == 0:
        lines.append("error: the command ended without finishing its run (no run.json)")
    if lines and lines[-1].startswith("error: "):
        return f"  {lines[-1]}"
    return "\n".join(f"  | {line}" for line in lines[-15:] if not line.startswith("== "))


def _near(path: Path) -> Path:
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def _shown(job: Job) -> tuple[str, float, dict[str, Any] | None]:
    state = progress.read_progress(job.step.folder / "log" / "progress.json")
    return job.step.name, time.monotonic() - job.began, state


def _stop(jobs: Iterable[Job], number: int) -> None:
    """Signal children: gently the step alone, which then ends its own helpers; hard its whole session."""
    for job in jobs:
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(job.process.pid, number)
            elif job.process.poll() is None:
                job.process.send_signal(number)


@contextlib.contextmanager
def _signals(work: _Work) -> Iterator[None]:
    """Count the signals that ask us to stop instead of dying of them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    earlier = {number: signal.signal(number, lambda number, _: work.signals.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / run.LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(f"another `medsmith run` is working on {_near(out)}; wait for it or choose out=") from None
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}; choose another place with out=") from None
    try:
        yield
    finally:
        lock.release()


def _cpu_seconds() -> float:
    """CPU seconds of this process and all children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def read_note(out: Path) -> tuple[Path, list[str]] | None:
    """The pipeline file and arguments of the last run in this folder, or None."""
    try:
        note = json.loads((out / NOTE).read_text(encoding="utf-8"))
        return Path(note["file"]), list(note["arguments"])
    except (OSError, ValueError, KeyError):
        return None

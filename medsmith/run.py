"""A run is a folder, and `run.json` is written last: its presence means "finished".

    with run.start(config, "align.sft") as this:
        ...                                   # write into config.out
        return this.finish(rows=1200)         # counts; writes run.json atomically

While it works the folder holds `started.json`. A killed run is continued: where the identity in `started.json` is
still the same, everything that lies there is kept. Where it differs, or where a finished run is made again,
everything goes but `raw/`, the journals of paid work, whose rows are addressed by content and are reused only where
they still fit; checkpoints of an unfinished training are never cleared unasked (medsmith/resumption.py).

What carries a time belongs into `log/`, which is no part of the folder's digest (medsmith/digests.py).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medsmith import licences, processes
from medsmith.code_identity import code_of
from medsmith.config import Config, artefacts, identity
from medsmith.digests import RECORD, STARTED, combined, file_digest, output_digests
from medsmith.errors import UserError
from medsmith.records import write_json
from medsmith.resumption import check_maker

LOCK = ".lock"
RUNNER_FILES = {"step.log", "step.json"}
"""What the pipeline runner keeps in `log/`, over all tries of a step."""


@dataclass
class Run:
    """A run under way. `resumed` is True where an earlier, killed try of the same identity is being continued."""

    folder: Path
    command: str
    config: Config
    identity: dict[str, Any]
    resumed: bool
    facts: dict[str, Any] = field(default_factory=dict)
    """What the artefact says of itself: licences {source: licence}, credentialed (what is under an agreement),
    simulated, and whatever a card should show."""
    started: float = field(default_factory=time.time)
    main: bool = True
    """False in a process that follows another one; its folder is scratch, and it finishes nothing."""

    def state_licences(self, field: str, stated: Mapping[str, str]) -> None:
        """Put down what an input of plain files is under, by its sources, in the place of `unknown`."""
        for name, path in artefacts(self.config).items():
            if f"{name}.".startswith(f"{field}.") and find_record(path) is None:
                self.facts["licences"].pop(path.name, None)
        self.facts["licences"] |= stated

    def finish(self, **counts: int) -> Path:
        """Write run.json, last and atomically. Counts are the rows of in = kept + dropped + failed.

        Raises:
            UserError: an input changed while this ran, so that nobody can say what was read.
        """
        if not self.main:
            return self.config.out
        ended = time.time()
        for name, path in artefacts(self.config).items():
            if digest(path) != self.identity["inputs"][name]:
                raise UserError(f"the input '{name}' ({path}) changed while {self.command} ran; run it again")
        outputs = output_digests(self.folder)
        write_json(
            self.folder / RECORD,
            {
                "command": self.command,
                "identity": self.identity,
                "key": key_of(self.identity),
                "digest": combined(outputs),
                "config": json.loads(self.config.model_dump_json()),
                "inputs": {name: str(path) for name, path in artefacts(self.config).items()},
                "parents": {name: _origin(path)["key"] for name, path in artefacts(self.config).items()},
                "ancestry": _ancestry(self.config),
                "counts": counts,
                "facts": self.facts,
                "outputs": outputs,
                "git": git_state(),
                "versions": _versions(type(self.config).libraries),
                "started": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
                "ended": datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds"),
                "seconds": round(ended - self.started, 2),
                **cost(),
            },
        )
        (self.folder / STARTED).unlink(missing_ok=True)
        # Not before run.json: until then a kill must find the finished training again.
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        return self.folder


@contextlib.contextmanager
def start(config: Config, command: str) -> Iterator[Run]:
    """Open the run folder `config.out` under a lock, clear what is stale, hand over a Run to finish.

    Of several processes the main one does so, and the others are given its word and a scratch folder (processes.py).

    Raises:
        UserError: an input does not exist or is not finished, or is under an agreement and a setting would send it
            elsewhere; another process holds the folder, it holds what this run must not clear, or the disk is full.
    """
    folder, ours = config.out, False
    if folder.is_file():
        raise UserError(f"out={folder} is a file, and a run is a folder; choose another out=")
    wanted = step_identity(command, config)
    facts = licences.inherit(config, {name: (path, find_record(path)) for name, path in artefacts(config).items()})
    if not processes.is_main():
        resumed = processes.tell(False)
        with processes.scratch_for(folder) as scratch, licences.in_force(facts):
            yield Run(scratch, command, config, wanted, resumed, facts, main=False)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        # Not 0: `is_held` takes the lock for a moment, and a killed process frees it a moment after its parent's end.
        lock.acquire(timeout=1, poll_interval=0.05)
    except Timeout:
        raise UserError(f"{folder} is being written by another process; wait for it or choose another out=") from None
    except OSError as error:
        fault = _storage_fault(error, folder) or UserError(f"{folder}: {error.strerror}; choose another out=")
        raise fault from None
    try:
        _refuse_what_is_not_ours(folder, command, config)
        _refuse_other_training(folder, command, wanted)
        ours = True
        resumed = processes.tell(_prepare(folder, wanted))
        with licences.in_force(facts):
            yield Run(folder, command, config, wanted, resumed, facts)
    except Exception as error:  # marked and raised again: nothing is swallowed here
        with contextlib.suppress(OSError):
            # A mark on a folder of others would let the next try clear it.
            if ours and folder.is_dir() and read_record(folder) is None:
                _mark(folder, wanted, f"{type(error).__name__}: {error}".strip().splitlines()[0])
        raise _storage_fault(error, folder) or error from error.__cause__
    finally:
        lock.release()


def step_identity(command: str, config: Config, unknown: Sequence[Path] = ()) -> dict[str, Any]:
    """What a step is: command, schema version, settings, digests of inputs, libraries that matter, and our code.

    Inputs inside the folders `unknown`, whose content may still change, get None.
    """

    def content(path: Path) -> str | None:
        return None if any(folder == path or folder in path.parents for folder in unknown) else digest(path)

    found = {
        "command": command,
        "schema_version": type(config).schema_version,
        "settings": identity(config),
        "inputs": {name: content(path) for name, path in artefacts(config).items()},
        "libraries": _versions(type(config).libraries),
        "code": code_of(command),
    }
    # As it will be read back, so that the two compare equal.
    return dict(json.loads(json.dumps(found, default=str)))


def key_of(identity: dict[str, Any]) -> str:
    """16 hexadecimal digits that name an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def read_record(folder: Path) -> dict[str, Any] | None:
    """The folder's run.json, or None where there is none; a torn one counts as none."""
    return _read_mapping(folder / RECORD)


def read_started(folder: Path) -> dict[str, Any] | None:
    """What a try that did not finish left: {identity, error, pid, started}; None where there is none."""
    return _read_mapping(folder / STARTED)


def is_intact(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the folder still holds what its record says."""
    return bool(combined(output_digests(folder)) == record.get("digest"))


def is_current(command: str, config: Config) -> bool:
    """Whether `config.out` holds the finished, untouched result of just this command, settings and inputs."""
    record = read_record(config.out)
    return (
        record is not None
        and record.get("identity") == step_identity(command, config)
        and is_intact(config.out, record)
    )


def is_held(folder: Path) -> bool:
    """Whether a living process is writing this folder."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def require_finished(folder: Path) -> dict[str, Any]:
    """Return the folder's run.json; UserError where the run is unfinished or missing."""
    record = read_record(folder)
    if record is None:
        torn = (folder / STARTED).is_file() or (folder / RECORD).is_file()
        state = "was started and not finished" if torn else "is not a finished run"
        raise UserError(f"{folder} {state} (no whole {RECORD}); run the step that makes it first")
    return record


def find_record(path: Path) -> dict[str, Any] | None:
    """The run.json of the run folder that holds `path` (itself or a parent), or None for a user's own files."""
    return next((record for folder in (path, *path.parents) if (record := read_record(folder)) is not None), None)


def digest(path: Path) -> str:
    """The sha256 of a file, or of the names and digests of a folder's files without the volatile ones.

    Raises:
        UserError: nothing lies there, or it belongs to a run that was started and not finished.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    for folder in (path, *path.parents):
        if (folder / RECORD).is_file() or (folder / STARTED).is_file():
            if read_record(folder) is None:
                raise UserError(f"{path} belongs to an unfinished run ({folder}); finish that run first")
            break
    return file_digest(path) if path.is_file() else combined(output_digests(path))


def _read_mapping(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_what_is_not_ours(folder: Path, command: str, config: Config) -> None:
    """Refuse a folder whose content this run must not clear: of others, of another command, or one of its inputs."""
    marked = (folder / RECORD).exists() or (folder / STARTED).exists()
    # A kill in the first moment leaves a started.json that was not yet renamed into place.
    if not marked and any(path.name not in {LOCK, "log", f"{STARTED}.partial"} for path in folder.iterdir()):
        raise UserError(f"{folder} holds files that no run of ours wrote; choose an empty or new folder as out=")
    for name, path in artefacts(config).items():
        if path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"out={folder} would clear the input {name}={path}; choose another folder as out=")
    left = read_record(folder) or (read_started(folder) or {}).get("identity") or {}
    if (held := left.get("command", command)) != command:
        raise UserError(f"{folder} holds a run of {held}, not of {command}; choose another out= or remove it")


def _refuse_other_training(folder: Path, command: str, wanted: dict[str, Any]) -> None:
    """Refuse to clear the checkpoints of an unfinished training of another identity or code; nothing is removed."""
    tried = read_started(folder)
    if read_record(folder) is None and tried and tried.get("identity") and check_maker(folder, wanted):
        _mark(folder, wanted)


def _prepare(folder: Path, wanted: dict[str, Any]) -> bool:
    """Leave in the folder only what a run of this identity may use; True where an unfinished try is continued."""
    finished, tried = read_record(folder) is not None, read_started(folder)
    if not finished and tried and tried.get("identity") == wanted:
        _mark(folder, wanted)
        return True
    # A kill from here on must find neither a finished run nor one of the wanted identity in a half-cleared folder.
    _mark(folder, {})
    (folder / RECORD).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name == "log":
            _remove(*(inner for inner in path.iterdir() if inner.name not in RUNNER_FILES))
        elif path.name not in {"raw", LOCK, STARTED}:
            _remove(path)
    _mark(folder, wanted)
    return False


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _mark(folder: Path, identity: dict[str, Any], error: str | None = None) -> None:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / STARTED, {"identity": identity, "error": error, "pid": os.getpid(), "started": started})


STORAGE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def _storage_fault(error: Exception, folder: Path) -> UserError | None:
    """The one-line error for a full or unwritable disk; libraries in Rust report theirs as text only."""
    code = error.errno if isinstance(error, OSError) else None
    if code not in STORAGE_FAULTS and "No space left on device" not in str(error):
        return None
    if code in (errno.EROFS, errno.EACCES):
        place = getattr(error, "filename", None) or folder
        return UserError(f"{place}: {os.strerror(code)}; mend the permissions or choose another out=")
    return UserError(f"the disk that holds {folder} is full; free some space and run the same again to continue")


def cost() -> dict[str, Any]:
    """CPU seconds and peak memory of this process and the children that it waited for."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = own.ru_maxrss
    with contextlib.suppress(OSError, StopIteration, ValueError):
        # ru_maxrss survives exec: the child of a large process would seem large. VmHWM is this program's own.
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return {
        "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 2),
        "peak_memory_bytes": max(peak, children.ru_maxrss) * 1024,
    }


def _origin(path: Path) -> dict[str, Any]:
    """The entry in an ancestry of the run, or else the file, that an input is."""
    record = find_record(path)
    if record is None:
        return {"key": f"file:{digest(path)[:16]}", "command": "file", "name": path.name}
    return {
        "key": record["key"],
        "command": record["command"],
        "name": Path(record["config"]["out"]).name,
        "digest": record["digest"],
        "settings": record["identity"]["settings"],
        "parents": sorted(set(record.get("parents", {}).values())),
        "facts": record["facts"],
        "counts": record["counts"],
    }


def _ancestry(config: Config) -> list[dict[str, Any]]:
    """Every run on the way here, each once, in order of making: command, name, key, parents by key, and its facts."""
    found: dict[str, dict[str, Any]] = {}
    for field_name, path in artefacts(config).items():
        record = find_record(path)
        for entry in record["ancestry"] if record else []:
            found.setdefault(entry["key"], entry)
        origin = _origin(path)
        found.setdefault(origin["key"], origin if record else {**origin, "field": field_name})
    return list(found.values())


@functools.cache
def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    return {library: version for library in libraries if (version := _version(library))}


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the clone that this code runs from; empty where it runs from an installed wheel."""
    clone = Path(__file__).parents[1]

    def ask(*words: str) -> str:
        try:
            done = subprocess.run(["git", *words], cwd=clone, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return ""
        return done.stdout.strip()

    commit, _, root = ask("rev-parse", "HEAD", "--show-toplevel").partition("\n")
    if not root or Path(root).resolve() != clone.resolve():
        return {}
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}

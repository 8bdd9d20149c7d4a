"""A run is a folder, and `run.json` is written last: its presence means "finished".

    with run.start(config, "align.sft") as this:
        ...                                   # write into config.out
        return this.finish(rows=1200)         # counts; writes run.json atomically

While it works the folder holds `started.json`. A killed run is continued: where the identity in `started.json` is
still the same, everything that lies there is kept; where it differs, everything goes but `raw/`, the journals of
paid work, whose rows are addressed by content and are reused only where they still fit.

Kept out of the folder's digest, because they differ between two equal runs: `run.json`, `started.json`,
`published.json`, `*.log`, hidden files, and the folders `log/` and `checkpoints/`. What carries a time belongs there.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medsmith.config import Config, artefacts, identity
from medsmith.errors import UserError
from medsmith.records import read_json, write_json

RECORD = "run.json"
STARTED = "started.json"
VOLATILE_FOLDERS = {"log", "checkpoints"}
VOLATILE_FILES = {RECORD, STARTED, "published.json"}


@dataclass
class Run:
    """A run under way. `resumed` is True where an earlier, killed try of the same identity is being continued."""

    folder: Path
    command: str
    config: Config
    identity: dict[str, Any]
    resumed: bool
    facts: dict[str, Any] = field(default_factory=dict)
    """What the artefact says of itself: licences {source: licence}, simulated, and whatever a card should show."""
    started: float = field(default_factory=time.time)

    def finish(self, **counts: int) -> Path:
        """Write run.json, last and atomically. Counts are the rows of in = kept + dropped + failed."""
        ended = time.time()
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        outputs = {str(path.relative_to(self.folder)): file_digest(path) for path in _stable_files(self.folder)}
        write_json(
            self.folder / RECORD,
            {
                "command": self.command,
                "identity": self.identity,
                "key": key_of(self.identity),
                "digest": _combined(outputs),
                "config": json.loads(self.config.model_dump_json()),
                "inputs": {name: str(path) for name, path in artefacts(self.config).items()},
                "ancestry": _ancestry(self.config),
                "counts": counts,
                "facts": self.facts,
                "outputs": outputs,
                "git": _git(),
                "versions": _versions(type(self.config).libraries),
                "started": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
                "ended": datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds"),
                "seconds": round(ended - self.started, 2),
                "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 2),
                "peak_memory_bytes": max(own.ru_maxrss, children.ru_maxrss) * 1024,
            },
        )
        (self.folder / STARTED).unlink(missing_ok=True)
        # Not before run.json: until then a kill must find the finished training again.
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        return self.folder


@contextlib.contextmanager
def start(config: Config, command: str) -> Iterator[Run]:
    """Open the run folder `config.out` under a lock, clear what is stale, hand over a Run to finish.

    Raises:
        UserError: an input does not exist or is not finished, or another process holds the folder.
    """
    folder = config.out
    wanted = step_identity(command, config)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is being written by another process; wait for it or choose another out=") from None
    try:
        earlier = _earlier_identity(folder)
        resumed = earlier == wanted
        if earlier is not None and not resumed:
            _clear(folder)
        (folder / RECORD).unlink(missing_ok=True)
        write_json(folder / STARTED, wanted)
        yield Run(folder, command, config, wanted, resumed, _inherited_facts(config))
    finally:
        lock.release()


def step_identity(command: str, config: Config) -> dict[str, Any]:
    """What a step is: command, schema version, settings, digests of inputs, versions of the libraries that matter."""
    return {
        "command": command,
        "schema_version": type(config).schema_version,
        "settings": identity(config),
        "inputs": {name: digest(path) for name, path in artefacts(config).items()},
        "libraries": _versions(type(config).libraries),
    }


def key_of(identity: dict[str, Any]) -> str:
    """16 hexadecimal digits that name an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def require_finished(folder: Path) -> dict[str, Any]:
    """Return the folder's run.json; UserError where the run is unfinished or missing."""
    if not (folder / RECORD).is_file():
        state = "was started and not finished" if (folder / STARTED).is_file() else "is not a finished run"
        raise UserError(f"{folder} {state} (no {RECORD}); run the step that makes it first")
    record: dict[str, Any] = read_json(folder / RECORD)
    return record


def find_record(path: Path) -> dict[str, Any] | None:
    """The run.json of the run folder that holds `path` (itself or a parent), or None for a user's own files."""
    for folder in (path, *path.parents):
        if (folder / RECORD).is_file():
            record: dict[str, Any] = read_json(folder / RECORD)
            return record
    return None


def digest(path: Path) -> str:
    """The sha256 of a file, or of the names and digests of a folder's files without the volatile ones.

    Raises:
        UserError: nothing lies there, or it belongs to a run that was started and not finished.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    for folder in (path, *path.parents):
        if (folder / STARTED).is_file() and not (folder / RECORD).is_file():
            raise UserError(f"{path} belongs to an unfinished run ({folder}); finish that run first")
        if (folder / RECORD).is_file():
            break
    if path.is_file():
        return file_digest(path)
    return _combined({str(file.relative_to(path)): file_digest(file) for file in _stable_files(path)})


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, remembered by path, size, mtime_ns and inode, so a large file is read once."""
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"
    # A file touched in the last two seconds may change again within one mtime tick: read it, do not remember it.
    settled = time.time_ns() - status.st_mtime_ns > 2_000_000_000
    with contextlib.closing(_memo()) as memo:
        found = memo.execute("SELECT sha256 FROM digests WHERE key = ?", (key,)).fetchone()
        if found:
            return str(found[0])
        with path.open("rb") as file:
            value = hashlib.file_digest(file, "sha256").hexdigest()
        if settled:
            memo.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (key, value))
            memo.commit()
    return value


def _memo() -> sqlite3.Connection:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "medsmith"
    cache.mkdir(parents=True, exist_ok=True)
    memo = sqlite3.connect(cache / "digests.sqlite", timeout=30)
    memo.execute("CREATE TABLE IF NOT EXISTS digests (key TEXT PRIMARY KEY, sha256 TEXT)")
    return memo


def _combined(digests: dict[str, str]) -> str:
    lines = "".join(f"{name} {value}\n" for name, value in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _stable_files(folder: Path) -> list[Path]:
    files = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        volatile = parts[0] in VOLATILE_FOLDERS or path.name in VOLATILE_FILES or path.suffix == ".log"
        if path.is_file() and not hidden and not volatile:
            files.append(path)
    return files


def _earlier_identity(folder: Path) -> dict[str, Any] | None:
    """The identity of what lies in the folder; {} where files of unknown origin do, None where nothing does."""
    for name in (STARTED, RECORD):
        if (folder / name).is_file():
            try:
                value = json.loads((folder / name).read_text())
            except json.JSONDecodeError:
                continue
            return dict(value if name == STARTED else value.get("identity", {}))
    return {} if any(path.name != ".lock" for path in folder.iterdir()) else None


def _clear(folder: Path) -> None:
    if not any((folder / name).is_file() for name in (STARTED, RECORD)):
        raise UserError(f"{folder} holds files that no run of ours wrote; choose an empty or new folder as out=")
    for path in folder.iterdir():
        if path.name in {"raw", ".lock"}:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _inherited_facts(config: Config) -> dict[str, Any]:
    licences: dict[str, str] = {}
    simulated = False
    for path in artefacts(config).values():
        record = find_record(path)
        if record:
            licences |= record["facts"].get("licences", {})
            simulated = simulated or bool(record["facts"].get("simulated"))
    return {"licences": licences, "simulated": simulated}


def _ancestry(config: Config) -> list[dict[str, Any]]:
    """Every run on the way here, each once, in order of making: command, name, key, parents by key, and its facts."""
    found: dict[str, dict[str, Any]] = {}
    for field_name, path in artefacts(config).items():
        record = find_record(path)
        if record is None:
            found.setdefault(
                f"file:{digest(path)[:16]}",
                {"key": f"file:{digest(path)[:16]}", "command": "file", "name": path.name, "field": field_name},
            )
            continue
        for entry in record["ancestry"]:
            found.setdefault(entry["key"], entry)
        found.setdefault(
            record["key"],
            {
                "key": record["key"],
                "command": record["command"],
                "name": Path(record["config"]["out"]).name,
                "digest": record["digest"],
                "settings": record["identity"]["settings"],
                "parents": [
                    find["key"]
                    for find in (find_record(Path(parent)) for parent in record["inputs"].values())
                    if find
                ],
                "facts": record["facts"],
                "counts": record["counts"],
            },
        )
    return list(found.values())


def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for library in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return versions


def _git() -> dict[str, Any]:
    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))} if commit else {}

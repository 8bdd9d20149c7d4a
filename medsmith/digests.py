"""Digests of files and folders, each file read once.

Kept out of the digest of a run's folder, because they differ between two equal runs: `run.json`, `started.json`,
`published.json`, `README.md`, `*.log`, `*.partial`, and the folders `log/`, `checkpoints/` and `raw/` (a journal holds
calls in the order in which they ended; what was read from it lies beside it). Of any other folder every file counts.
Hidden files never do, and nothing reads them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

RECORD = "run.json"
STARTED = "started.json"
VOLATILE_FOLDERS = {"log", "checkpoints", "raw"}
VOLATILE_FILES = {RECORD, STARTED, "published.json", "README.md"}
VOLATILE_SUFFIXES = {".log", ".partial"}


def files_of(folder: Path) -> Iterator[Path]:
    """Every file of a folder that may be read, in order of names: links are followed, hidden files left out.

    Of the folder of a run, wherever it lies, what is volatile is left out as well.
    """
    above = folder.absolute().parents
    in_run = any((place / name).is_file() for place in above for name in (RECORD, STARTED))
    yield from _files_of(folder, in_run, (os.path.realpath(folder),))


def _files_of(folder: Path, in_run: bool, above: tuple[str, ...]) -> Iterator[Path]:
    names = sorted(path.name for path in folder.iterdir())
    is_run = RECORD in names or STARTED in names
    in_run = in_run or is_run
    for name in names:
        path = folder / name
        if name[0] == ".":
            continue
        if path.is_dir():
            real = os.path.realpath(path)
            # A link to a folder above would have no end.
            if real not in above and not (is_run and name in VOLATILE_FOLDERS):
                yield from _files_of(path, in_run, (*above, real))
        elif path.is_file() and not (in_run and (name in VOLATILE_FILES or path.suffix in VOLATILE_SUFFIXES)):
            yield path


def output_digests(folder: Path) -> dict[str, str]:
    """The digest of every file that `files_of` finds, by its relative name."""
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files_of(folder)}


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, remembered by path, size, times and inode, so a large file is read once."""
    status = path.stat()
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"
    if known := _recall(key):
        return known
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    # A file touched in the last two seconds may change again within one mtime tick: it is not remembered.
    if time.time_ns() - changed > 2_000_000_000:
        _keep(key, value)
    return value


def remembered(key: str, make: Callable[[], str]) -> str:
    """What `make` makes of something whose whole content `key` names; made once a user."""
    value = _recall(key)
    if value is None:
        value = make()
        _keep(key, value)
    return value


def _recall(key: str) -> str | None:
    with contextlib.suppress(sqlite3.Error):
        found = _opened_memo().execute("SELECT sha256 FROM digests WHERE key = ?", (key,)).fetchone()
        return str(found[0]) if found else None
    return None


def _keep(key: str, value: str) -> None:
    with contextlib.suppress(sqlite3.Error), _opened_memo() as memo:
        memo.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (key, value))


def _opened_memo() -> sqlite3.Connection:
    return _memo(os.environ.get("XDG_CACHE_HOME", ""), os.getpid(), threading.get_ident())


def cache_folder() -> Path:
    """Where what can be made again is kept for this user; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "medsmith"


@functools.lru_cache(maxsize=8)
def _memo(cache_home: str, process: int, thread: int) -> sqlite3.Connection:
    """The memo of this user; in memory only where the cache folder cannot be written. Never shared over a fork."""
    cache = Path(cache_home or Path.home() / ".cache") / "medsmith"
    create = "CREATE TABLE IF NOT EXISTS digests (key TEXT PRIMARY KEY, sha256 TEXT)"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        memo = sqlite3.connect(cache / "digests.sqlite", timeout=30)
        memo.execute("PRAGMA synchronous = OFF")  # a memo lost with the power is only work done once more
        memo.execute(create)
    except (OSError, sqlite3.Error):
        memo = sqlite3.connect(":memory:")
        memo.execute(create)
    return memo


def combined(digests: dict[str, str]) -> str:
    """One digest of many: of the names and the contents."""
    lines = "".join(f"{name} {value}\n" for name, value in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()

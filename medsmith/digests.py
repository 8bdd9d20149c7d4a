"""Digests of files and folders, each file read once.

Kept out of a folder's digest, because they differ between two equal runs: `run.json`, `started.json`,
`published.json`, `*.log`, `*.partial`, hidden files, and the folders `log/`, `checkpoints/` and `raw/` (a journal
holds calls in the order in which they ended; what was read from it lies beside it).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sqlite3
import threading
import time
from pathlib import Path

RECORD = "run.json"
STARTED = "started.json"
VOLATILE_FOLDERS = {"log", "checkpoints", "raw"}
VOLATILE_FILES = {RECORD, STARTED, "published.json", "README.md"}
VOLATILE_SUFFIXES = {".log", ".partial"}


def output_digests(folder: Path) -> dict[str, str]:
    """The digest of every file of a folder that is not volatile, by its relative name."""
    found = {}
    for parent, folders, names in os.walk(folder):
        at_top = parent == str(folder)
        folders[:] = [name for name in folders if name[0] != "." and not (at_top and name in VOLATILE_FOLDERS)]
        for name in names:
            path = Path(parent, name)
            volatile = name[0] == "." or name in VOLATILE_FILES or path.suffix in VOLATILE_SUFFIXES
            if not volatile and path.is_file():
                found[path.relative_to(folder).as_posix()] = file_digest(path)
    return found


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, remembered by path, size, times and inode, so a large file is read once."""
    status = path.stat()
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"
    memo = _memo(os.environ.get("XDG_CACHE_HOME", ""), os.getpid(), threading.get_ident())
    with contextlib.suppress(sqlite3.Error):
        found = memo.execute("SELECT sha256 FROM digests WHERE key = ?", (key,)).fetchone()
        if found:
            return str(found[0])
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    # A file touched in the last two seconds may change again within one mtime tick: it is not remembered.
    if time.time_ns() - changed > 2_000_000_000:
        with contextlib.suppress(sqlite3.Error), memo:
            memo.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (key, value))
    return value


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

"""What this machine offers, and how a child process is tied to its parent."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PARENT = "MEDSMITH_PARENT"

IMPORTED_AS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Modules whose package has a name of its own."""


@contextlib.contextmanager
def seldom_collected() -> Iterator[None]:
    """Look for cyclic garbage after 50,000 new objects instead of 700: a sixth of the CPU of many calls, or imports."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for its next step (glibc; elsewhere nothing happens).

    Every step of a training takes and frees the same gigabytes. By default each large block is a mapping of its own,
    which the kernel clears page by page: of a step of 135 million parameters (4 x 256 tokens, one thread) that was two
    of five seconds. The peak stays what it was.
    """
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(AttributeError):  # another C library has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_MAX of malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**26)


def cores() -> int:
    """The cores that this process may use: affinity and container quota, not what the box holds."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def thread_environment(threads: int) -> dict[str, str]:
    """What gives the numerical libraries of a child process this many threads."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON")
    return {
        **{f"{name}_NUM_THREADS": str(threads) for name in names},
        "POLARS_MAX_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads of one step must not burn the cores of another
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
    }


def die_with_parent(parent: int | None = None) -> None:
    """End with what started this process, however hard that ends: no orphan may keep a lock.

    `parent` is its process; None: the pipeline runner, if that did.
    """
    given = os.environ.pop(PARENT, None)  # not for our own children, whose parent we are
    if parent is None and given is None:
        return
    parent = parent or int(given or 0)
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def install_hint(module: str) -> str:
    """The command that installs the package of a module, in the version that our own metadata ask for."""
    bare = package = IMPORTED_AS.get(module, module.replace("_", "-"))
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for requirement in importlib.metadata.requires("medsmith") or []:
            name = re.match(r"[A-Za-z0-9._-]+", requirement)
            if name and re.sub(r"[-_.]+", "-", name[0]).lower() == package.lower():
                package = requirement.partition(";")[0].strip()
                break
    lock = Path("requirements.lock")
    locked = lock.is_file() and f"\n{bare.lower()}==" in lock.read_text(encoding="utf-8").lower()
    return f"install it: pip install{' -c requirements.lock' if locked else ''} '{package}'"

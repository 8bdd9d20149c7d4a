"""A local OpenAI-compatible server that lives exactly as long as the run that needs it."""

from __future__ import annotations

import ctypes
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from typing import IO

from medsmith.errors import UserError

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 5.0


@contextmanager
def local_server(command: str, timeout_seconds: float) -> Iterator[str]:
    """Start `command`, yield the base_url of its first line on stdout, and stop it by closing its stdin.

    The server also ends when this process is killed: its stdin closes, and on Linux the kernel sends it SIGTERM.
    """
    words = shlex.split(command)
    if words and words[0] in ("python", "python3"):
        words[0] = sys.executable
    with tempfile.TemporaryFile() as errors:
        try:
            server = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=_die_with_parent(),
                # Ctrl-C is for us: a server that it ended first would turn the calls in flight into failures.
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"teacher.serve: cannot start {words[0]!r}: {error.strerror}") from None
        try:
            assert server.stdout is not None, "stdout was asked for"
            yield _address(command, server.stdout, errors, timeout_seconds)
        finally:
            _stop(server)


def _address(command: str, output: IO[bytes], errors: IO[bytes], timeout_seconds: float) -> str:
    """Read the first line, then go on reading in the background: a full pipe would stop the server."""
    first: Queue[bytes] = Queue()

    def drain() -> None:
        first.put(output.readline())
        while output.read(65536):
            pass

    threading.Thread(target=drain, daemon=True).start()
    try:
        line = first.get(timeout=timeout_seconds)
    except Empty:
        raise UserError(
            f"teacher.serve: {command!r} named no address within {timeout_seconds:g} s; raise serve_timeout_seconds"
        ) from None
    try:
        return str(json.loads(line)["base_url"])
    except (ValueError, TypeError, KeyError):
        errors.seek(0)
        said = (line + errors.read()).decode(errors="replace").strip().splitlines()
        last = said[-1] if said else "nothing"
        raise UserError(f'teacher.serve: {command!r} must print {{"base_url": …}} first; it said: {last}') from None


def _stop(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None, "stdin was asked for"
    server.stdin.close()
    for sharper in (server.terminate, server.kill):
        try:
            server.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            sharper()
    server.wait()


def _die_with_parent() -> Callable[[], None] | None:
    """A function for the child, between fork and exec; nothing but one system call happens there."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask

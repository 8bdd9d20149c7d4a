"""What the machine is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from medsmith.machine import keep_freed_memory

{call}
def step():
    del [bytearray(b"x") * 2**26][:]

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_a_second_step_finds_its_memory_where_the_first_left_it() -> None:
    """64 MiB taken, freed and taken again: 16,384 pages are faulted in anew, and hardly one where they are kept."""

    def faults(call: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(call=call)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert faults("") > 5000
    assert faults("keep_freed_memory()") < 500

"""One function over many items: order, look-ahead and errors are the same inline, on processes and on Ray."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from medsmith.errors import UserError
from medsmith.spread import spread


def slow_first(number: int) -> tuple[int, int, str]:
    """The first items take longest, so that order is no accident."""
    time.sleep(0.2 if number == 0 else 0)
    return number, os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


def fail_at(bad: int, number: int) -> int:
    if number == bad:
        raise UserError(f"row {number} is torn")
    return number


def die_once(marker: Path, number: int) -> int:
    """The worker that gets item 1 dies, the first time."""
    if number == 1 and not marker.exists():
        marker.touch()
        os._exit(1)
    return number


class Counted:
    """An endless source that knows how many items were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.taken += 1
            yield self.taken - 1


def test_one_worker_is_this_process_and_takes_an_item_at_a_time() -> None:
    """Inline: no other process, no look-ahead, and even a lambda will do."""
    source = Counted()
    results = spread(lambda number: (number, os.getpid()), source)
    assert [next(results) for _ in range(3)] == [(n, os.getpid()) for n in range(3)]
    assert source.taken == 3


def test_processes_keep_order_and_hold_few_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes: in order though the first is slowest, at most 2 x workers ahead, each with one thread."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    source = Counted()
    results = spread(slow_first, source, workers=2)
    got = [next(results) for _ in range(9)]
    assert [number for number, _, _ in got] == list(range(9))
    assert source.taken <= 9 + 3
    assert len({pid for _, pid, _ in got} - {os.getpid()}) == 2
    assert {threads for _, _, threads in got} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7", "the setting of the workers leaked into this process"
    results.close()  # type: ignore[attr-defined]


def test_what_the_function_raises_and_a_dead_worker_are_told() -> None:
    """An error of item 2 comes after the results before it; a worker that dies is one line, not a traceback."""
    results = spread(partial(fail_at, 2), range(5), workers=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(UserError, match="row 2 is torn"):
        next(results)
    with pytest.raises(UserError, match="worker processes died.*lower workers"):
        list(spread(os._exit, [1], workers=2))


def test_no_workers_is_refused() -> None:
    """Before anything is started."""
    with pytest.raises(UserError, match="at least 1"):
        spread(abs, [1], workers=0)


@pytest.mark.slow
def test_ray_gives_what_processes_give(tmp_path: Path) -> None:
    """A cluster of this machine: same order and look-ahead, the error itself, a dead worker's task is done again."""
    from medsmith.spread import ray_cluster

    pytest.importorskip("ray")
    with ray_cluster(None, cpus=2):
        source = Counted()
        results: Any = spread(slow_first, source, engine="ray", workers=2)
        got = [next(results) for _ in range(9)]
        assert [(number, threads) for number, _, threads in got] == [(n, "1") for n in range(9)]
        assert source.taken <= 9 + 3
        assert os.getpid() not in {pid for _, pid, _ in got}
        with pytest.raises(UserError, match="row 2 is torn"):
            list(spread(partial(fail_at, 2), range(5), engine="ray", workers=2))
        assert list(spread(partial(die_once, tmp_path / "died"), range(4), engine="ray", workers=2)) == [0, 1, 2, 3]
        assert (tmp_path / "died").exists()

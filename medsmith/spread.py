"""One function over many items, on several processes or a Ray cluster; the results come in the order of the items.

    for found in spread(find_pairs, chunks, engine="local", workers=8): ...

`function` and the items go to other processes, so they must be picklable: a function at the top of a module (or a
`functools.partial` of one), not a lambda. At most 2 x workers items are held at a time, so the items may be endless
and the results may be larger than memory. Each worker computes with one thread.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from medsmith.errors import UserError

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}
"""For workers: as many processes as cores, each with a thread per core, would crawl."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    engine: Literal["local", "ray"] = "local",
    workers: int = 1,
    address: str | None = None,
) -> Iterator[Result]:
    """Yield function(item) for each item, in order; what the function raises is raised here.

    One local worker is this very process. `engine` "ray" uses the cluster at `address` (or RAY_ADDRESS; without
    either, one on this machine), where `workers` bounds the tasks at a time.

    Raises:
        UserError: workers below 1, or Ray is asked for and not installed.
    """
    if workers < 1:
        raise UserError(f"workers must be at least 1 (got {workers})")
    if engine == "ray":
        return _over_ray(function, items, workers, address)
    if workers == 1:
        return map(function, items)
    return _over_processes(function, items, workers)


def _over_processes(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Spawned, for a fork of a process whose libraries hold threads and locks may hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    waiting: deque[Any] = deque()
    try:
        for item in items:
            with _environment(ONE_THREAD):  # read when the worker's libraries are loaded
                waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            f"one of {workers} worker processes died, most likely for want of memory; lower workers and run again"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _over_ray(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, address: str | None
) -> Iterator[Result]:
    with ray_cluster(address, workers) as ray:
        remote = ray.remote(num_cpus=1)(_apply)
        shared = ray.put(function)
        source = iter(items)
        waiting = deque(remote.remote(shared, item) for item in islice(source, 2 * workers))
        while waiting:
            try:
                # Taken out of the queue first, so that its memory in the object store is given back.
                result = ray.get(waiting.popleft())
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise UserError(f"Ray lost a task for good: {' '.join(str(error).split())[:200]}; run again") from None
            yield result
            waiting.extend(remote.remote(shared, item) for item in islice(source, 1))


def _apply(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


@contextmanager
def ray_cluster(address: str | None, cpus: int | None = None) -> Iterator[Any]:
    """The module `ray`, connected to `address`, to RAY_ADDRESS, or to a cluster of `cpus` that lives in this block.

    A connection that the process already has is used and left open.

    Raises:
        UserError: Ray is not installed, or nothing answers at the address.
    """
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise UserError("engine ray needs the package ray; install medsmith with its extra: 'medsmith[ray]'")
    address = address or os.environ.get("RAY_ADDRESS")
    # Read when Ray is imported. A cluster of one's own needs no token in one's home, and nobody is told of its use.
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if address is None:
        quiet["RAY_AUTH_MODE"] = "disabled"
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    workers_see = {"env_vars": {**ONE_THREAD, "PYTHONPATH": _code_path()}}
    settings: dict[str, Any] = {"runtime_env": workers_see, "log_to_driver": False, "logging_level": "error"}
    _refuse_silence(address)
    if address is None:
        settings |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(**({"address": address} | settings))
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"no Ray cluster at {address or 'this machine'}: {said}; check RAY_ADDRESS") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _refuse_silence(address: str | None) -> None:
    """UserError where nobody listens at host:port, for which Ray itself would wait for minutes."""
    import socket

    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10.0).close()
    except OSError as error:
        raise UserError(f"no Ray cluster at {address}: {error.strerror or error}; check RAY_ADDRESS") from None


def _code_path() -> str:
    """Where workers find the code that this process runs: its path, less what belongs to Python and its environment.

    Other machines must hold that code at the same place, as on a shared disk or in a container, or have it installed.
    """
    own = str(Path(__file__).resolve().parent.parent)
    more = [str(Path(place or ".").resolve()) for place in sys.path]
    places = dict.fromkeys([own, *(place for place in more if not place.startswith((sys.prefix, sys.base_prefix)))])
    return os.pathsep.join([*places, "${PYTHONPATH}"])


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for the processes that are started in this block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

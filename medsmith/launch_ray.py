"""The entry of a Ray job: run a launch folder's run.sh once on each of so many nodes, all at the same time.

    python -m medsmith.launch_ray FOLDER NODES GPUS

Ray only finds the nodes; what runs on them talks as it would anywhere else. When it fails on one node it is stopped on
all, and the job fails.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from medsmith.command import guard
from medsmith.errors import UserError


def main(folder: Path, nodes: int, gpus: int) -> int:
    """Wait for the nodes, run, return 0.

    Raises:
        UserError: the script failed on a node.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init(ignore_reinit_error=True)  # a job finds its cluster in RAY_ADDRESS
    wants: dict[str, float] = {"CPU": 1.0, **({"GPU": float(gpus)} if gpus else {})}
    group = placement_group([wants] * nodes, strategy="STRICT_SPREAD")
    ray.get(group.ready())

    def on(bundle: int) -> dict[str, Any]:
        strategy = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=bundle)
        return {"scheduling_strategy": strategy, "num_cpus": 1, "num_gpus": gpus, "max_retries": 0}

    address, port = ray.get(ray.remote(find_place).options(**on(0)).remote())
    work = [ray.remote(run_node).options(**on(rank)).remote(folder, rank, address, port) for rank in range(nodes)]
    left = list(work)
    try:
        while left:
            ended, left = ray.wait(left)
            for code in ray.get(ended):
                if code:
                    raise UserError(f"{folder / 'run.sh'} ended with {code} on a node; its log is the job's")
    finally:
        for one in left:
            ray.cancel(one)
        remove_placement_group(group)
    return 0


def find_place() -> tuple[str, int]:
    """The address of the node that this runs on, and a port that is free there."""
    import socket

    import ray

    with socket.socket() as one:
        one.bind(("", 0))
        return str(ray.util.get_node_ip_address()), int(one.getsockname()[1])


def run_node(folder: Path, rank: int, address: str, port: int) -> int:
    """Run the script as one of several nodes; return its exit code."""
    place = {"NODE_RANK": str(rank), "HEAD": address, "PORT": str(port)}
    process = subprocess.Popen(["bash", str(folder / "run.sh")], env=os.environ | place, start_new_session=True)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)


if __name__ == "__main__":
    guard(lambda: main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))

"""Training by our commands beside plain TRL and a bare loop: CPU a token, what starting costs, what packing gains.

    python -m benchmarks.train                    # all lines, three by turns, then the losses of packed rows
    python -m benchmarks.train --only sft dpo --repeats 1
    python -m benchmarks.train --repeats 0        # the tables of all runs so far

Model: experts/nano. Data: benchmarks/train_data.py; settings: benchmarks/train_cases.py. Each side is a whole process
on one thread, without network (benchmarks/train_sides.py), by turns. Every run is a line of runs.jsonl in the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, median_spread, run_measured, table
from benchmarks.train_cases import CASES, Case
from benchmarks.train_data import make
from benchmarks.train_losses import report as report_losses
from benchmarks.train_sides import batches_file

FOLDER = Path("/tmp/train-benchmark")
LIMIT_SECONDS = 1200.0
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
}
SIDES = {"ours": "our command", "trl": "plain TRL", "loop": "bare loop"}
PACKING = ("sft padded", "sft", "sft packed")
"""The same rows in three ways."""

Runs = Mapping[str, Sequence[dict[str, Any]]]
"""The runs of one case by side, in the order of their turns."""


class RunFailed(Exception):
    """A run did not end well."""


def main() -> None:
    """Make what is needed, run all cases by turns, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args()
    make(given.folder)
    for case in (CASES[name] for name in given.only):
        if given.repeats and not batches_file(given.folder, case).is_file():
            run(case, "record", given.folder)
    for _ in range(given.repeats):
        for name in given.only:
            for side in CASES[name].sides:
                note(given.folder, run(CASES[name], side, given.folder))
    text = report(read(given.folder), shares_of_padding(given.folder)) + "\n\n" + report_losses(given.folder)
    (given.folder / "report.md").write_text(text + "\n")
    print(text)


def run(case: Case, side: str, folder: Path) -> dict[str, Any]:
    """Run one side as a process of its own; what it cost."""
    out = folder / f"out-{side}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    # An empty cache each time: data sets prepared by an earlier run would be found again.
    environment = {**os.environ, **ENVIRONMENT, "HF_HOME": str(out / "cache")}
    command = [sys.executable, "-m", "benchmarks.train_sides", side, case.name, str(folder), str(out)]
    used = run_measured(command, out, LIMIT_SECONDS, environment)
    if used.code:
        raise RunFailed(f"{side}, {case.name}: ended with {used.code}\n" + (out / "log.txt").read_text()[-3000:])
    row = {"case": case.name, "side": side, "machine": machine(), **asdict(used)}
    row |= json.loads((out / "measured.json").read_text())
    print(f"{case.name}, {side}: {row['train_cpu']:.1f} of {used.cpu:.1f} CPU s", file=sys.stderr)
    shutil.rmtree(out)
    return row


def note(folder: Path, row: dict[str, Any]) -> None:
    """Keep a run."""
    with (folder / "runs.jsonl").open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def read(folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """All runs so far: by case, then by side."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in (folder / "runs.jsonl").read_text().splitlines():
        row = json.loads(line)
        found[row["case"]][row["side"]].append(row)
    return {name: dict(found[name]) for name in CASES if name in found}


def shares_of_padding(folder: Path) -> dict[str, float]:
    """Of each recorded case the share of what the model computes that is padding."""
    import torch

    shares = {}
    for name, case in CASES.items():
        if batches_file(folder, case).is_file():
            phases = torch.load(batches_file(folder, case))
            computed = sum(batch["input_ids"].numel() for phase in phases for batch in phase["batches"])
            shares[name] = 1 - sum(phase["tokens"] for phase in phases) / computed
    return shares


def per_million(run: Mapping[str, Any], saving: bool = True) -> float:
    """CPU seconds of the training for a million tokens of text, with its checkpoints or without."""
    return 1e6 * float(run["train_cpu"] - (0 if saving else run["saving_cpu"])) / float(run["tokens"])


def ratios(peer: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]], saving: bool = True) -> list[float]:
    """How many times as many tokens a CPU second `ours` trains, turn by turn."""
    pairs = zip(peer, ours, strict=False)
    return [per_million(theirs, saving) / per_million(mine, saving) for theirs, mine in pairs]


def report(found: Mapping[str, Runs], padding: Mapping[str, float]) -> str:
    """The tables of speed and of packing, and what they were made with."""
    head = [
        "what",
        "who",
        "tokens",
        "until training, CPU s",
        "training, CPU s",
        "tokens / CPU s",
        "CPU s / million tokens",
    ]
    head += ["checkpoints: CPU s", "× plain TRL", "× without checkpoints", "whole process, CPU s"]
    lines = [
        line(name, side, {"trl": sides.get("trl", []), side: sides[side]})
        for name, sides in found.items()
        for side in SIDES
        if side in sides
    ]
    texts = [table(head, lines), "", table(*packing(found, padding)), ""]
    turns = max((len(runs) for sides in found.values() for runs in sides.values()), default=0)
    return "\n".join([*texts, f"at most {turns} by turns: median (range)", machine()])


def line(name: str, side: str, runs: Runs) -> list[str]:
    """One line of the table of speed."""
    own = runs[side]
    return [
        name,
        SIDES[side],
        f"{own[0]['tokens']:,}",
        median_spread([run["before_cpu"] for run in own], 1),
        median_spread([run["train_cpu"] for run in own], 1),
        median_spread([run["tokens"] / run["train_cpu"] for run in own], 0),
        median_spread([per_million(run) for run in own], 0),
        f"{own[0]['checkpoints']}: {median_spread([run['saving_cpu'] for run in own], 1)}",
        *(
            "" if side == "trl" or not runs["trl"] else median_spread(ratios(runs["trl"], own, with_it))
            for with_it in (True, False)
        ),
        median_spread([run["total_cpu"] for run in own], 1),
    ]


def packing(found: Mapping[str, Runs], padding: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """How much faster than rows at random, padded, the same rows are in another shape."""
    head = ["rows", "padding", *(f"{who}: times the tokens of padded rows" for who in ("our command", "plain TRL"))]
    shapes = {"sft padded": "at random, padded", "sft": "like lengths together, padded", "sft packed": "packed"}
    lines = []
    for name in PACKING:
        if name in found:
            gains = [
                median_spread(ratios(found["sft padded"][side], found[name][side]))
                if side in found[name] and side in found.get("sft padded", {})
                else ""
                for side in ("ours", "trl")
            ]
            lines.append([shapes[name], f"{padding[name]:.0%}" if name in padding else "", *gains])
    return head, lines


if __name__ == "__main__":
    main()

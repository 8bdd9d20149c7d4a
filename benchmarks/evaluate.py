"""`eval.run` beside lm-eval on the same items and model: equal answers, CPU, memory, and what starting costs.

    python -m benchmarks.evaluate --install            # makes the peer's environment first
    python -m benchmarks.evaluate --peer PYTHON --batch 8 --repeats 1

Items, model and the peer's tasks: benchmarks/evaluate_items.py. Both sides are whole processes, `lm_eval run` and
`python -m eval.run`, by turns, on one thread, without network; a repeat is one pair of runs of every line of the table.
Answers are compared item by item (benchmarks/evaluate_compare.py). Every run is a line of runs.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.evaluate_compare import Compared, compare
from benchmarks.evaluate_items import ITEMS, NEW_TOKENS, TASKS, make
from benchmarks.measure import Used, machine, median_spread, run_measured, table

FOLDER = Path("/tmp/evaluate-benchmark")
VENV = Path(__file__).parent / ".venvs" / "lm_eval"
REQUIREMENTS = ("torch==2.13.0", "lm-eval[hf]==0.4.13")
"""In this order: named by itself first, torch comes in the build that the machine's index has."""

SIDES = ("lm-eval", "ours")
LIMIT_SECONDS = 1800.0
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


class RunFailed(Exception):
    """A run did not end well."""


@dataclass(frozen=True)
class Case:
    """One line of the table: which tasks, how many items at once, and of how many items each."""

    name: str
    tasks: tuple[str, ...]
    batch: int
    limit: int | None = None


@dataclass
class Measured:
    """The runs of one case, by side, and how the answers of the last pair compare."""

    case: Case
    runs: dict[str, list[Used]]
    compared: Compared


def main() -> None:
    """Make what is needed, run all cases by turns, print one table."""
    given = _arguments()
    if given.install:
        install(VENV)
    make(given.folder)
    measured = [
        measure(case, given.peer, given.folder, given.repeats)
        for case in cases(given.batch)
        if not given.only or case.name in given.only
    ]
    text = report(measured, given.repeats)
    (given.folder / "report.md").write_text(text + "\n")
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="make the peer's environment")
    parser.add_argument("--peer", type=Path, default=VENV / "bin" / "python", help="the peer's interpreter")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", nargs="+", help="cases by name: start, choices, texts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    return parser.parse_args()


def install(folder: Path) -> None:
    """Make the environment of the peer."""
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for number in range(1, len(REQUIREMENTS) + 1):
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", *REQUIREMENTS[:number]], check=True)


def cases(batches: Sequence[int]) -> list[Case]:
    """Starting (one item of each), then each task at every batch size."""
    both = tuple(TASKS)
    sized = [Case(TASKS[task], (task,), batch) for task in both for batch in batches]
    return [Case("start", both, 1, limit=1), *sized]


def measure(case: Case, peer: Path, folder: Path, repeats: int) -> Measured:
    """Run both sides by turns and compare what they answered."""
    runs: dict[str, list[Used]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side in SIDES:
            out = folder / f"out-{side}"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            command = peer_command(case, peer, folder, out) if side == "lm-eval" else our_command(case, folder, out)
            environment = {
                **os.environ,
                **ONE_THREAD,
                **OFFLINE,
                "HOME": str(folder),
                "XDG_CACHE_HOME": str(out / "cache"),
            }
            used = run_measured(command, out, LIMIT_SECONDS, environment)
            if used.code:
                raise RunFailed(f"{side}, {case}: ended with {used.code}\n" + (out / "log.txt").read_text()[-3000:])
            runs[side].append(used)
            row = {"machine": machine(), "side": side, **asdict(case), **asdict(used)}
            with (folder / "runs.jsonl").open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            print(f"{side} {case.name} {case.batch}: {used.cpu:.1f} CPU s, {used.peak_mb:.0f} MB", file=sys.stderr)
    # Of a few items each side takes others.
    return Measured(case, runs, Compared() if case.limit else compare(folder / "out-lm-eval", folder / "out-ours"))


def peer_command(case: Case, peer: Path, folder: Path, out: Path) -> list[str]:
    """lm-eval's own command, with its answers kept; its cache of requests is off, as by default."""
    limit = ["--limit", str(case.limit)] if case.limit else []
    return [
        str(peer.parent / "lm_eval"), "run", "--model", "hf", "--device", "cpu", "--batch_size", str(case.batch),
        "--model_args", f"pretrained={folder / 'model'}", "dtype=float32", "--include_path", str(folder / "tasks"),
        "--tasks", *(TASKS[task] for task in case.tasks), "--output_path", str(out), "--log_samples", *limit,
    ]  # fmt: skip


def our_command(case: Case, folder: Path, out: Path) -> list[str]:
    """`eval.run` with everything that it does: journal, scores, intervals."""
    suite = "both" if len(case.tasks) > 1 else case.tasks[0]
    data = [f"benchmarks.{task}={folder / 'data'}" for task in case.tasks]
    limit = [f"limit={case.limit}"] if case.limit else []
    return [
        sys.executable, "-m", "eval.run", f"out={out / 'run'}", f"model={folder / 'model'}",
        f"suite={folder / suite}.yml", "device=cpu", f"batch_rows={case.batch}", "keep_text=true", *data, *limit,
    ]  # fmt: skip


def report(measured: Sequence[Measured], repeats: int) -> str:
    """One table, and what it was made with."""
    head = [
        "what",
        "items at once",
        "lm-eval CPU s",
        "ours CPU s",
        "× CPU",
        "lm-eval MB",
        "ours MB",
        "the same answers",
    ]
    return "\n".join(
        [
            table(head, [_line(one) for one in measured]),
            "",
            f"{ITEMS} items each, {NEW_TOKENS} new tokens; {REQUIREMENTS[1]}; {repeats} by turns: median (range)",
            machine(),
        ]
    )


def _line(one: Measured) -> list[str]:
    peer, ours = (one.runs[side] for side in SIDES)
    ratios = [theirs.cpu / mine.cpu for theirs, mine in zip(peer, ours, strict=True)]
    return [
        one.case.name,
        str(one.case.batch),
        median_spread([run.cpu for run in peer], 1),
        median_spread([run.cpu for run in ours], 1),
        median_spread(ratios, 1),
        median_spread([run.peak_mb for run in peer], 0),
        median_spread([run.peak_mb for run in ours], 0),
        str(one.compared),
    ]


if __name__ == "__main__":
    main()

"""One million rows through `mediflow.curate`: time, memory, and what of the planted copies and leaks it finds.

    python -m benchmarks.curate --rows 1000000 --folder /tmp/curate --workers 2
    python -m benchmarks.curate --rows 100000 --folder /tmp/curate100k --peer-python /tmp/peers/bin/python
    python -m benchmarks.curate --rows 100000 --folder /tmp/heldout --frames heldout --seed 11

The rows and what is planted among them: benchmarks/curate_rows.py. `mediflow.curate` runs as a process; with
`--peer-python`, an environment that has datasketch and semhash, so do these on the same rows. The second run of ours
has another threshold, and finds the columns of the first.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars

from benchmarks import curate_frames_heldout as heldout
from benchmarks.curate_rows import MISSES as DEVELOPMENT_MISSES
from benchmarks.curate_rows import write_rows
from benchmarks.measure import Used, run_measured
from benchmarks.peers.duplicates import SEMHASH_ROWS
from medsmith import run
from medsmith.config import Config
from medsmith.records import read_json, read_jsonl, write_json

HOUR = 3600.0
PEERS = ("datasketch", "semhash")
MISSES = tuple(dict.fromkeys((*DEVELOPMENT_MISSES, *heldout.MISSES)))


class Made(Config):
    """The benchmark's own rows."""


def main() -> None:
    """Write rows, curate them, compare, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", choices=("development", "heldout"), default="development")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--settings", nargs="*", default=[], help="for mediflow.curate, as semantic.threshold=0.7")
    parser.add_argument("--peer-python", default="", help="a Python that has datasketch and semhash")
    given = parser.parse_args()
    folder = given.folder.resolve()
    make(folder, given.rows, given.seed, given.frames)
    results = [ours(folder, given.workers, given.rows, given.settings)]
    for peer in PEERS if given.peer_python else ():
        results.append(beside(folder, peer, given.peer_python))
    write_json(folder / "result.json", results)
    print(table(results))


def make(folder: Path, rows: int, seed: int, frames: str) -> None:
    """A generate folder, a judge folder and a benchmark, unless they are there."""
    if (folder / "judge" / "run.json").is_file():
        return
    with run.start(Made(out=folder / "generate"), "benchmark") as this:
        other = heldout.rows(rows, seed) if frames == "heldout" else None
        counts = write_rows(this.folder, rows, seed, rows=other)
        for name in ("scores.jsonl", "truth.jsonl", "benchmark"):
            (this.folder / name).rename(folder / name)
        this.facts["simulated"] = True
        this.finish(rows=rows, **{name.replace(" ", "_"): count for name, count in counts.items()})
    with run.start(Made(out=folder / "judge"), "benchmark") as this:
        (folder / "scores.jsonl").rename(this.folder / "scores.jsonl")
        this.finish(rows=rows)


def ours(folder: Path, workers: int, rows: int, settings: Sequence[str] = ()) -> dict[str, Any]:
    """`mediflow.curate`, once from nothing and once with another threshold."""
    out = folder / "curate"
    command = [
        sys.executable, "-m", "mediflow.curate", f"out={out}", f"generated={folder / 'generate'}",
        f"judged={folder / 'judge'}", f"blocklists=[{folder / 'benchmark'}]", f"workers={workers}", "--again",
        *settings,
    ]  # fmt: skip
    first = run_measured(command, folder, 4 * HOUR)
    assert first.code == 0, (folder / "log.txt").read_text()[-2000:]
    dropped = polars.read_parquet(out / "dropped.parquet", columns=["id", "reason", "of", "similarity"])
    found = {row["id"]: (row["reason"], row["of"]) for row in dropped.iter_rows(named=True)}
    kept = polars.scan_parquet(out / "data" / "*.parquet").select(polars.len()).collect().item()
    assert kept + len(dropped) == rows, "a row vanished"
    again = run_measured([*command, "min_quality=3"], folder, 4 * HOUR)
    assert again.code == 0, (folder / "log.txt").read_text()[-2000:]
    return {
        "system": "medsmith", "rows": rows, **_used(first), "again_seconds": round(again.seconds, 1),
        "again_peak_mb": round(again.peak_mb), "reasons": read_json(out / "run.json")["facts"]["reasons"],
        **score(folder, found),
    }  # fmt: skip


def beside(folder: Path, peer: str, python: str) -> dict[str, Any]:
    """A peer on the same rows; it has no notion of benchmarks or groups."""
    target = folder / f"{peer}.jsonl"
    files = sorted(str(file) for file in (folder / "generate" / "instructions").glob("*.jsonl"))
    command = [python, "-m", "benchmarks.peers.duplicates", peer, str(target), *files]
    used = run_measured(command, folder, 2 * HOUR)
    if used.code:
        return {"system": peer, "note": (folder / "log.txt").read_text().strip().splitlines()[-1][:200]}
    found = {row["id"]: ("duplicate", row["of"]) for row in read_jsonl(target)}
    rows = SEMHASH_ROWS if peer == "semhash" else None
    return {"system": f"{peer}, {rows:,} rows" if rows else peer, **_used(used), **score(folder, found, rows)}


def _used(used: Used) -> dict[str, float]:
    return {"seconds": round(used.seconds, 1), "cpu": round(used.cpu, 1), "peak_mb": round(used.peak_mb)}


def score(folder: Path, found: dict[str, tuple[str, str]], rows: int | None = None) -> dict[str, Any]:
    """Share of each kind that went; near-misses that went; and rows that went though nothing was planted in them.

    `rows`: only the first so many were looked at.

    A row that something was planted from may itself be a copy: whatever goes for a leak or a copy that is neither
    counts as wrong.
    """
    truth = {row["id"]: row for row in read_jsonl(folder / "truth.jsonl") if rows is None or int(row["id"], 16) < rows}
    met: dict[str, Counter[str]] = defaultdict(Counter)
    for name, row in truth.items():
        met[row["kind"]][found.get(name, ("kept", ""))[0]] += 1
    # A copy's partner is its original, or a better copy of the same one.
    root = {name: row["of"] for name, row in truth.items() if row["kind"] not in MISSES}
    paired = {name: of for name, (reason, of) in found.items() if reason.endswith("duplicate")}
    right = sum(_root(name, root) == _root(of, root) for name, of in paired.items())
    planted = {name for name, row in truth.items() if row["kind"] not in MISSES}
    return {
        "kinds": {kind: dict(counts) for kind, counts in sorted(met.items())},
        "recall": {kind: round(1 - counts["kept"] / counts.total(), 4) for kind, counts in sorted(met.items())},
        "duplicates": len(paired),
        "of_the_right_row": right,
        "unplanted_dropped": len(found.keys() - planted),
    }


def _root(name: str, root: dict[str, str]) -> str:
    while name in root:
        name = root[name]
    return name


def table(results: list[dict[str, Any]]) -> str:
    """One line a system: cost, recall by kind, near-misses lost, precision."""
    kinds = sorted({kind for result in results for kind in result.get("recall", {})} - set(MISSES))
    misses = [kind for kind in MISSES if any(kind in result.get("recall", {}) for result in results)]
    heads = ["system", "seconds", "CPU s", "peak MB", *kinds, *(f"lost: {kind}" for kind in misses), "right / dropped"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for result in results:
        if "note" in result:
            lines.append(f"| {result['system']} | {result['note']} |")
            continue
        cells = [result["system"], result["seconds"], result["cpu"], result["peak_mb"]]
        cells += [f"{result['recall'].get(kind, 0):.3f}" for kind in (*kinds, *misses)]
        cells.append(f"{result['of_the_right_row']} / {result['duplicates']}")
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

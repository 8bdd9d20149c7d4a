"""What each step cost, and how the losses fell: read from run.json and log/ of every run on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_costs(runs: Sequence[tuple[Path, dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row a step: seconds, CPU seconds, tokens, peak memory; tokens None where a step has none."""
    return [
        {
            "name": folder.name,
            "command": record["command"],
            "seconds": record["seconds"],
            "cpu_seconds": record["cpu_seconds"],
            "peak_memory_bytes": record["peak_memory_bytes"],
            "tokens": count_tokens(folder),
            "rows": max(record["counts"].values(), default=0),
        }
        for folder, record in runs
    ]


def by_command(costs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The costs summed over the steps of each command, dearest first; the highest memory of any of them."""
    commands: dict[str, list[dict[str, Any]]] = {}
    for row in costs:
        commands.setdefault(row["command"], []).append(row)
    summed = [
        {
            "command": command,
            "steps": len(rows),
            "seconds": sum(row["seconds"] for row in rows),
            "cpu_seconds": sum(row["cpu_seconds"] for row in rows),
            "peak_memory_bytes": max(row["peak_memory_bytes"] for row in rows),
            "tokens": sum(row["tokens"] or 0 for row in rows) or None,
        }
        for command, rows in commands.items()
    ]
    return sorted(summed, key=lambda row: (-row["cpu_seconds"], row["command"]))


def count_tokens(folder: Path) -> int | None:
    """Tokens trained on, of a training; tokens in and out, of a teacher; tokens scored, of an evaluation."""
    trained = [curve["tokens"] for curve in read_curves(folder)]
    if trained:
        return int(sum(trained))
    paid = [
        sum(count for count in (row.get("usage") or {}).values() if isinstance(count, int))
        for path in sorted((folder / "raw").glob("*.jsonl"))
        for row in whole_rows(path)
    ]
    if any(paid):
        return sum(paid)
    scored = [row.get("tokens", 0) for row in whole_rows(folder / "documents.jsonl")]
    return sum(scored) if scored else None


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """Every training of a run folder: {training, points [(step, loss)], checks [(step, eval_loss)], tokens}."""
    trainings: dict[str, dict[str, Any]] = {}
    for row in whole_rows(folder / "log" / "metrics.jsonl"):
        name = str(row.get("training", folder.name))
        curve = trainings.setdefault(name, {"training": name, "points": [], "checks": [], "tokens": 0})
        curve["tokens"] = max(curve["tokens"], row.get("tokens") or 0)
        for field, place in (("loss", "points"), ("eval_loss", "checks")):
            if isinstance(row.get(field), int | float):
                curve[place].append((row["step"], float(row[field])))
    return [curve for curve in trainings.values() if len(curve["points"]) + len(curve["checks"]) > 1]


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; it may end in a torn line, and may not be there."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows

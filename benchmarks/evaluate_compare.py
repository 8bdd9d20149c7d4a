"""The answers of lm-eval and of `eval.run` to the same items, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evaluate_items import TASKS
from medsmith.records import read_jsonl

CLOSE = 1e-4
"""The greatest distance of two log-likelihoods (nats, summed over an option) that are called equal."""


@dataclass
class Compared:
    """How many answers there were on both sides, and how many are equal."""

    options: int = 0
    close: int = 0
    furthest: float = 0.0
    texts: int = 0
    identical: int = 0
    scores: int = 0
    """Texts whose ROUGE-1 and ROUGE-L are equal."""
    missing: int = 0
    """Items that only one side has."""

    def __str__(self) -> str:
        """One cell of the table."""
        parts = []
        if self.options:
            parts.append(f"{self.close}/{self.options} log-likelihoods (furthest {self.furthest:.0e})")
        if self.texts:
            parts.append(f"{self.identical}/{self.texts} texts, {self.scores} scores")
        if self.missing:
            parts.append(f"{self.missing} items on one side only")
        return "; ".join(parts) or "–"


def compare(peer: Path, ours: Path) -> Compared:
    """Compare the samples of an lm-eval output folder with those of a run of ours."""
    found = Compared()
    theirs = dict(_peer_samples(peer))
    for row in read_jsonl(ours / "run" / "samples.jsonl"):
        other = theirs.pop((TASKS[row["benchmark"]], row["id"]), None)
        if other is None:
            found.missing += 1
        elif "logprobs" in row:
            _compare_options(found, row, other)
        else:
            _compare_texts(found, row, other)
    found.missing += len(theirs)
    return found


def _peer_samples(folder: Path) -> Any:
    for file in sorted(folder.glob("*/samples_*.jsonl")):
        task = file.name.split("_")[1]
        for row in read_jsonl(file):
            yield (task, row["doc"]["id"]), row


def _compare_options(found: Compared, row: dict[str, Any], other: dict[str, Any]) -> None:
    for mine, theirs in zip(row["logprobs"], other["filtered_resps"], strict=True):
        distance = abs(mine - float(theirs[0]))
        found.options += 1
        found.close += distance <= CLOSE
        found.furthest = max(found.furthest, distance)


def _compare_texts(found: Compared, row: dict[str, Any], other: dict[str, Any]) -> None:
    found.texts += 1
    found.identical += row["output"] == other["resps"][0][0]
    found.scores += all(abs(row["scores"][name] - other[name]) < 1e-9 for name in ("rouge1", "rougeL"))

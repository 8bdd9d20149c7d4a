"""MedNLI as CLUE asks and scores it: right where the gold label is named once, whatever else is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.benchmark import Item, Loaded
from eval.benchmarks import mednli as strict
from eval.clue.protocol import TWICE, first_counts_twice, prompted, shots_from_test

VERSION = 1
METRIC = "label_named_once"
ACCESS, LICENCE, SOURCE = strict.ACCESS, strict.LICENCE, strict.SOURCE
MAX_NEW_TOKENS = 20


def load(path: Path, split: str = "test") -> Loaded:
    """The pairs of the strict benchmark; examples show the label in lower case, as the file has it."""
    found = prompted(strict.load(path, split), "mednli", averaging=TWICE)
    return found._replace(items=[replace(item, gold=item.gold.lower()) for item in found.items])


def arrange(items: Sequence[Item], shots: int) -> list[Item]:
    """Examples out of the test split; the first item that is left counts twice."""
    return first_counts_twice(shots_from_test(items, shots))


def parse(output: str, item: Item) -> dict[str, int]:
    """How often each label occurs, also inside other words. No output is unreadable."""
    return {label: output.upper().count(label) for label in strict.LABELS}


def score(answer: dict[str, int], item: Item) -> dict[str, float]:
    """1 where the gold label occurs exactly once; other labels are not looked at."""
    return {METRIC: float(answer[item.gold.upper()] == 1)}

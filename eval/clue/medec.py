"""MEDEC as the paper of CLUE+ asks it: the number of the wrong sentence, after an example with and one without error.

How the paper reads an output is not public; outputs are read as by the strict benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.benchmark import Item, Loaded
from eval.benchmarks import medec as strict
from eval.clue.protocol import prompted, shuffled, with_examples
from medsmith.errors import UserError

VERSION = 1
METRIC = strict.METRIC
ACCESS, LICENCE, SOURCE = strict.ACCESS, strict.LICENCE, strict.SOURCE
MAX_NEW_TOKENS = 12

parse, score, answers = strict.parse, strict.score, strict.answers


def load(path: Path, split: str = "test") -> Loaded:
    """The texts of the strict benchmark."""
    return prompted(strict.load(path, split), "medec")


def arrange(items: Sequence[Item], shots: int) -> list[Item]:
    """Examples out of the test split, with an error and without in turn."""
    order = shuffled(items)
    kinds = [[item for item in order if (item.gold == "-1") is right] for right in (False, True)]
    if min(map(len, kinds)) <= shots // 2:
        raise UserError(f"{shots} shots need as many texts with and without an error, and some to score; ask for fewer")
    examples = [kinds[number % 2][number // 2] for number in range(shots)]
    return with_examples([item for item in order if item not in examples], examples)

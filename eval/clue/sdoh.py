"""Social determinants of health as the paper of CLUE+ asks them: examples are notes of the test split."""

from __future__ import annotations

from pathlib import Path

from eval.benchmark import Loaded
from eval.benchmarks import sdoh as strict
from eval.clue.protocol import prompted, shots_from_test

VERSION = 1
METRIC = strict.METRIC
ACCESS, LICENCE, SOURCE = strict.ACCESS, strict.LICENCE, strict.SOURCE
MAX_NEW_TOKENS = strict.MAX_NEW_TOKENS

arrange = shots_from_test
# The paper's metric is the strict one already: type match with overlapping borders, per document.
parse, score = strict.parse, strict.score


def load(path: Path, split: str = "test") -> Loaded:
    """The notes of the strict benchmark; the turn stays the bare note, in which scoring looks for values."""
    return prompted(strict.load(path, split), "sdoh")

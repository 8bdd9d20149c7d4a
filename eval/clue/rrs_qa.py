"""Questions on radiology findings, asked as in the paper of CLUE+; its set was not released."""

from __future__ import annotations

from pathlib import Path

from eval.benchmark import Loaded
from eval.benchmarks import rrs_qa as strict
from eval.clue.protocol import prompted, shots_from_test
from eval.clue.texts import rouge_of_all, whole

VERSION = 1
METRIC = strict.METRIC
ACCESS, LICENCE, SOURCE = strict.ACCESS, strict.LICENCE, strict.SOURCE
MAX_NEW_TOKENS = 512

arrange = shots_from_test
parse, score = whole, rouge_of_all


def load(path: Path, split: str = "test") -> Loaded:
    """The questions of the strict benchmark."""
    return prompted(strict.load(path, split), "rrs_qa")

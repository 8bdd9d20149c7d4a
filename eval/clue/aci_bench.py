"""ACI-Bench as the paper of CLUE+ asks it: a very detailed note of five sections."""

from __future__ import annotations

from pathlib import Path

from eval.benchmark import Loaded
from eval.benchmarks import aci_bench as strict
from eval.clue.protocol import prompted, shots_from_test
from eval.clue.texts import rouge_of_all, whole

VERSION = 1
METRIC = strict.METRIC
ACCESS, LICENCE, SOURCE = strict.ACCESS, strict.LICENCE, strict.SOURCE
MAX_NEW_TOKENS = strict.MAX_NEW_TOKENS

arrange = shots_from_test
parse, score = whole, rouge_of_all


def load(path: Path, split: str = "test") -> Loaded:
    """The conversations of the strict benchmark."""
    return prompted(strict.load(path, split), "aci_bench")

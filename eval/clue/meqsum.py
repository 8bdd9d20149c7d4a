"""MeQSum as CLUE asks and scores it."""

from __future__ import annotations

from pathlib import Path

from eval.benchmark import COMPOSITE, Loaded
from eval.benchmarks import meqsum as strict
from eval.clue.protocol import ROUNDING, prompted, shots_from_test
from eval.clue.texts import rouge_of_all, whole

VERSION = 1
METRIC = COMPOSITE
COMPONENTS = ("rouge1", "rouge2_all", "rougeL", "bertscore_f1")
ROUNDED = True
ACCESS, LICENCE, SOURCE = strict.ACCESS, strict.LICENCE, strict.SOURCE
MAX_NEW_TOKENS = 512

arrange = shots_from_test
parse, score = whole, rouge_of_all


def load(path: Path, split: str = "test") -> Loaded:
    """The messages of the strict benchmark."""
    return prompted(strict.load(path, split), "meqsum", rounding=ROUNDING)

"""MedConceptsQA, ICD-10-CM, as the paper of CLUE+ scores it: the mean of the levels' accuracies.

Examples come from the published dev split, which the set has for them; the likeliest option is the answer.
"""

from __future__ import annotations

from pathlib import Path

from eval.benchmark import Loaded
from eval.benchmarks import icd10cm as strict
from eval.clue.protocol import prompted

VERSION = 1
METRIC = strict.METRIC
SLICE_MEAN = True
ACCESS, LICENCE, SOURCE = strict.ACCESS, strict.LICENCE, strict.SOURCE
MAX_NEW_TOKENS = 0

parse, score = strict.parse, strict.score


def load(path: Path, split: str = "test") -> Loaded:
    """The questions of the strict benchmark."""
    return prompted(strict.load(path, split), "icd10cm")

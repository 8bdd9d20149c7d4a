"""Problem list summarization as CLUE asks and scores it: one text, not a list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eval.benchmark import COMPOSITE, Loaded
from eval.benchmarks import problem_list as strict
from eval.clue.protocol import ROUNDING, prompted, shots_from_test
from eval.clue.texts import rouge_of_all, whole

VERSION = 1
METRIC = COMPOSITE
COMPONENTS = ("rouge1", "rouge2_all", "rougeL", "bertscore_f1", "concept_f1_umls")
ROUNDED = True
ACCESS, LICENCE, SOURCE = strict.ACCESS, strict.LICENCE, strict.SOURCE
MAX_NEW_TOKENS = 512

arrange = shots_from_test
parse, score = whole, rouge_of_all


def load(path: Path, split: str = "test") -> Loaded:
    """The notes of the strict benchmark. Semicolons of the gold become commas, also one at the end."""
    found = prompted(strict.load(path, split), "problem_list", rounding=ROUNDING)
    return found._replace(items=[replace(item, gold=item.truth.replace(";", ", ")) for item in found.items])

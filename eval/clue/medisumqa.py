"""MeDiSumQA as CLUE asks and scores it."""

from __future__ import annotations

from pathlib import Path

from eval.benchmark import COMPOSITE, Loaded
from eval.benchmarks import medisumqa as strict
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
    """The questions of the strict benchmark."""
    return prompted(strict.load(path, split), "medisumqa", _fields, rounding=ROUNDING)


def _fields(user: str) -> dict[str, str]:
    """Letter and question of the strict benchmark's turn."""
    letter, _, question = user.removeprefix("DISCHARGE LETTER: ").rpartition("\nQUESTION: ")
    return {"letter": letter, "question": question}

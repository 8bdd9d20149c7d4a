"""MeDiSumCode: the ICD-10-CM codes of the diagnoses in a discharge letter. JSON Lines, or one JSON list.

Each row is {"hadm_id", "text", "icd_codes": [{"code", "description"}]}, as the published generator makes it from
MIMIC-IV-Note and its diagnoses_icd (codes of ICD-9 mapped to ICD-10, without their dots). The set itself was not
released: a score is on whatever file was made.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from eval.benchmark import COMPOSITE, Item, Loaded, ask, loaded
from eval.parsing import parse_codes, valid_code
from eval.scorers import set_f1
from eval.tables import file_notes, find_split, read_table
from medsmith.errors import UserError

VERSION = 1
METRIC = COMPOSITE
COMPONENTS = ("code_f1", "code_f1_category", "valid_codes")
ACCESS = "credentialed"
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
SOURCE = "a file made from physionet.org/content/mimic-iv-note by CLUE's generate_code_dataset.py"
MAX_NEW_TOKENS = 512

ID_COLUMN = "hadm_id"
FILES = {"test": "*.json*"}
SYSTEM = (
    "List the ICD-10-CM codes of all diagnoses in the discharge letter, primary and secondary, separated by commas. "
    "Answer with the codes and nothing else."
)


def load(path: Path, split: str = "test") -> Loaded:
    """Read the letters; a row without text, or without a code, is left out."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("hadm_id", "text", "icd_codes"))
    dropped: Counter[str] = Counter()
    items = []
    for number, row in enumerate(rows, 1):
        codes = _codes(row["icd_codes"], f"{file} row {number}")
        text = str(row["text"] or "").strip()
        if not text or not codes:
            dropped["no text or no code"] += 1
            continue
        name = str(row["hadm_id"])
        gold = f"ICD-10 Codes: {', '.join(codes)}"
        items.append(Item(name, name, ask(SYSTEM, f"DISCHARGE LETTER: {text}"), gold, truth=codes))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, {}))


def parse(output: str, item: Item) -> list[str] | None:
    """The codes, each once; None where there is none, which scores 0 on everything, the valid share too."""
    return parse_codes(output) or None


def score(answer: list[str], item: Item) -> dict[str, float]:
    """F1 of the codes and of their categories as sets, and the share of the given codes that exist."""
    return {
        "code_f1": set_f1(answer, item.truth),
        "code_f1_category": set_f1((code[:3] for code in answer), (code[:3] for code in item.truth)),
        "valid_codes": sum(map(valid_code, answer)) / len(answer),
    }


def _codes(entries: Any, where: str) -> list[str]:
    """The codes of a row, dotted and each once, in order."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry.get("code") for entry in entries):
        raise UserError(f"{where}: icd_codes is no list of objects with a 'code'")
    bare = [str(entry["code"]).strip().upper().replace(".", "") for entry in entries]
    return list(dict.fromkeys(code[:3] + ("." + code[3:] if code[3:] else "") for code in bare))

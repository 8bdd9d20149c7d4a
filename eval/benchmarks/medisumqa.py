"""MeDiSumQA: lay questions on discharge letters. One JSON list, or JSON Lines.

Each row has `discharge_summary` (in the files of the published generator `without_discharge_summary`: the letter
without the part for the patient, which would give the answer away), `Question` and `Answer`. One split is published.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from eval.benchmark import COMPOSITE, Item, Loaded, Published, ask, loaded
from eval.parsing import parse_text
from eval.scorers import rouge
from eval.tables import check_columns, file_notes, find_split, read_table
from medsmith.records import content_id

VERSION = 1
METRIC = COMPOSITE
COMPONENTS = ("rouge1", "rouge2", "rougeL", "bertscore_f1", "concept_f1_umls")
BESIDE = ("concept_f1_dictionary",)
ACCESS = "credentialed"
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
SOURCE = "physionet.org/content/medisumqa/1.0.0"
MAX_NEW_TOKENS = 512

FILES = {"test": "*.json*"}
PUBLISHED = {"*.json*": Published(416)}
LETTER_KEYS = ("discharge_summary", "without_discharge_summary")
SYSTEM = (
    "Answer the patient's question about the discharge letter briefly, in words that a lay person understands. "
    "Say what measurements mean. Answer with nothing else."
)


def load(path: Path, split: str = "test") -> Loaded:
    """Read the questions; those on one letter are a group; a row without letter, question or answer is left out."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("Question", "Answer"))
    dropped: Counter[str] = Counter()
    items = []
    for number, row in enumerate(rows, 1):
        letter = _letter(row, f"{file} row {number}")
        question, answer = (str(row[key] or "").strip() for key in ("Question", "Answer"))
        if not (letter and question and answer):
            dropped["no letter, question or answer"] += 1
            continue
        user = f"DISCHARGE LETTER: {letter}\nQUESTION: {question}"
        items.append(Item(f"{number:04d}", content_id(letter), ask(SYSTEM, user), answer))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, PUBLISHED))


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE."""
    return rouge(answer, item.gold)


def _letter(row: dict[str, Any], where: str) -> str:
    """The letter, under either key."""
    key = next((key for key in LETTER_KEYS if key in row), None)
    if key is None:
        check_columns(row, LETTER_KEYS, where)
    return str(row[key or LETTER_KEYS[0]] or "").strip()

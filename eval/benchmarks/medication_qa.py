"""MedicationQA: consumers' questions on drugs, with answers from public web pages. The published Excel file.

Columns: Question, Focus (Drug), Question Type, Answer, Section Title, URL. The paper filtered the set to 485 pairs and
rewrote their answers; that version was not released, and scores on the two are not comparable.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import Item, Loaded, Published, ask, loaded
from eval.parsing import parse_text
from eval.scorers import rouge
from eval.tables import file_notes, find_split, read_table

VERSION = 1
METRIC = "rouge1"
ACCESS = "open"
LICENCE = "none stated: for evaluation on one's own machine, not to be passed on"
SOURCE = "github.com/abachaa/Medication_QA_MedInfo2019"
MAX_NEW_TOKENS = 512

FILES = {"test": "MedInfo2019*.xlsx"}
PUBLISHED = {"MedInfo2019*.xlsx": Published(690)}
ROWS_BY_README = 674  # the sheet has 690 all the same
SYSTEM = "Answer the patient's question about the medicine concisely. Say nothing that was not asked for."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the questions; those on one drug are a group, a type is a slice; a row without either is left out."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("Question", "Focus (Drug)", "Question Type", "Answer", "Section Title", "URL"))
    dropped: Counter[str] = Counter()
    items = []
    for number, row in enumerate(rows, 1):
        question, answer, drug, kind = (
            str(row[name] or "").strip() for name in ("Question", "Answer", "Focus (Drug)", "Question Type")
        )
        if not question or not answer:
            dropped["no question" if not question else "no answer"] += 1
            continue
        name = f"{number:04d}"
        items.append(Item(name, drug.casefold() or name, ask(SYSTEM, question), answer, slice=kind))
    notes = file_notes({file: len(rows)}, PUBLISHED) | {"rows_by_readme": ROWS_BY_README}
    return loaded(items, dropped, file, notes)


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE."""
    return rouge(answer, item.gold)

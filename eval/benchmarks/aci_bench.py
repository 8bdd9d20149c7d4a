"""ACI-Bench: write the clinical note of a visit's conversation. The published CSV files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import Item, Loaded, ask, loaded
from eval.parsing import parse_text
from eval.scorers import rouge
from eval.tables import find_file, read_table

VERSION = 1
METRIC = "rouge1"
ACCESS = "open"
LICENCE = "CC BY 4.0"
SOURCE = "github.com/wyim/aci-bench"
MAX_NEW_TOKENS = 1024

# The paper does not say which of the three test sets it used; the first, of the ClinicalNLP 2023 task, is ours.
FILES = {"test": "*taskB_test1.csv", "shots": "*train.csv"}
SYSTEM = "Write the clinical note of this conversation."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the conversations; a row without conversation or note is left out. Slices: how the visit was recorded."""
    file = find_file(path, FILES[split], SOURCE)
    dropped: Counter[str] = Counter()
    items = []
    for row in read_table(file, ("dataset", "encounter_id", "dialogue", "note")):
        if not row["dialogue"].strip() or not row["note"].strip():
            dropped["no dialogue or note"] += 1
            continue
        name = row["encounter_id"]
        items.append(Item(name, name, ask(SYSTEM, row["dialogue"].strip()), row["note"].strip(), slice=row["dataset"]))
    return loaded(items, dropped, file)


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE."""
    return rouge(answer, item.gold)

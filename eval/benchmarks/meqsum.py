"""MeQSum: a consumer's health message as one short question. The published Excel file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import COMPOSITE, Item, Loaded, ask, loaded
from eval.parsing import parse_text
from eval.scorers import rouge
from eval.tables import find_file, read_table
from medsmith.errors import UserError

VERSION = 2
METRIC = COMPOSITE
COMPONENTS = ("rouge1", "rouge2", "rougeL", "bertscore_f1")
ACCESS = "open"
LICENCE = "CC BY 4.0"
SOURCE = "github.com/abachaa/MeQSum"
MAX_NEW_TOKENS = 512

FILE = "MeQSum*.xlsx"
SYSTEM = "Summarize the patient's message as one short question."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the messages; a row with an empty cell is left out. The published set has one split."""
    if split != "test":
        raise UserError("MeQSum is published as one split, examples from it would be test items; set shots: 0")
    file = find_file(path, FILE, SOURCE)
    dropped: Counter[str] = Counter()
    items = []
    for row in read_table(file, ("File", "CHQ", "Summary")):
        if not all(str(row[name] or "").strip() for name in ("File", "CHQ", "Summary")):
            dropped["empty cell"] += 1
            continue
        name = str(row["File"]).strip()
        items.append(Item(name, name, ask(SYSTEM, str(row["CHQ"]).strip()), str(row["Summary"]).strip()))
    return loaded(items, dropped, file)


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE."""
    return rouge(answer, item.gold)

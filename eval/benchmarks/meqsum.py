"""MeQSum: a consumer's health message as one short question. The published Excel file: File, CHQ, Summary."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import COMPOSITE, Item, Loaded, Published, ask, loaded
from eval.parsing import parse_text
from eval.scorers import rouge
from eval.tables import file_notes, find_split, read_table

VERSION = 2
METRIC = COMPOSITE
COMPONENTS = ("rouge1", "rouge2", "rougeL", "bertscore_f1")
BESIDE = ("concept_f1_dictionary",)
ACCESS = "open"
LICENCE = "CC BY 4.0"
SOURCE = "github.com/abachaa/MeQSum"
MAX_NEW_TOKENS = 512

ID_COLUMN = "File"
FILES = {"test": "MeQSum*.xlsx"}
PUBLISHED = {
    "MeQSum*.xlsx": Published(1000, "abedd939d5014306ca576522416bf69103e85dc8fcf1668a4099e8b84a39eeea"),
}
SYSTEM = "Summarize the patient's message as one short question."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the messages; a row with an empty cell is left out. The published set has one split."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("File", "CHQ", "Summary"))
    dropped: Counter[str] = Counter()
    items = []
    for row in rows:
        if not all(str(row[name] or "").strip() for name in ("File", "CHQ", "Summary")):
            dropped["empty cell"] += 1
            continue
        name = str(row["File"]).strip()
        items.append(Item(name, name, ask(SYSTEM, str(row["CHQ"]).strip()), str(row["Summary"]).strip()))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, PUBLISHED))


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE."""
    return rouge(answer, item.gold)

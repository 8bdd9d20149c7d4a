"""Radiology summary: from the findings to the impression. A table with the columns findings and impression.

That is how the splits of the Indiana University (Open-i) reports come; reports of MIMIC-CXR are read from a file of
your own, which only its users may hold. As the module cannot tell the two apart, texts are kept as credentialed ones.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import Item, Loaded, ask, loaded
from eval.parsing import parse_text
from eval.scorers import rouge
from eval.tables import file_notes, find_split, read_table
from medsmith.records import content_id

VERSION = 1
METRIC = "rougeL"
ACCESS = "credentialed"
LICENCE = "as the file given: Open-i states none for its splits, MIMIC-CXR is credentialed"
SOURCE = "openi.nlm.nih.gov (huggingface.co/datasets/IndianaUniversityDatasetsModels/Medical_reports_Splits)"
MAX_NEW_TOKENS = 128

FILES = {"test": "test*.*", "shots": "train*.*"}
SYSTEM = "Write the impression of the radiology report from its findings."
IDS = ("id", "uid", "study_id")


def load(path: Path, split: str = "test") -> Loaded:
    """Read the reports; those with the same findings are a group; one without findings or impression is left out."""
    file = find_split(path, FILES, split, SOURCE)
    dropped: Counter[str] = Counter()
    items = []
    rows = read_table(file, ("findings", "impression"))
    for number, row in enumerate(rows, 1):
        findings, impression = (str(row[name] or "").strip() for name in ("findings", "impression"))
        if not findings or not impression:
            dropped["no findings or impression"] += 1
            continue
        name = next((str(row[key]) for key in IDS if row.get(key) not in (None, "")), str(number))
        items.append(Item(name, content_id(findings), ask(SYSTEM, f"FINDINGS: {findings}"), impression))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, {}))


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE, headline ROUGE-L. Clinical measures (RadGraph, CheXbert) need gated models and are not computed."""
    return rouge(answer, item.gold)

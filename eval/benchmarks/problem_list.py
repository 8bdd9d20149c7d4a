"""Problem list summarization (BioNLP 2023 task 1A): the patient's problems from a progress note.

`test.csv` and `train.csv` with the columns File ID, Subjectives, Assessment, Objectives, Summary (problems separated by
semicolons).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import COMPOSITE, Item, Loaded, Published, ask, loaded
from eval.parsing import parse_text, split_list
from eval.scorers import list_f1, rouge
from eval.tables import file_notes, find_split, read_table

VERSION = 2
METRIC = COMPOSITE
COMPONENTS = ("rouge1", "rouge2", "rougeL", "bertscore_f1", "concept_f1_umls")
BESIDE = ("concept_f1_dictionary",)
ACCESS = "credentialed"
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
SOURCE = "physionet.org/content/bionlp-workshop-2023-task-1a"
MAX_NEW_TOKENS = 512

ID_COLUMN = "File ID"
FILES = {"test": "test.csv", "shots": "train.csv"}
PUBLISHED = {"test.csv": Published(237), "train.csv": Published(768)}
SYSTEM = "List the patient's problems, separated by semicolons."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the notes; a row without a summary is left out."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("File ID", "Subjectives", "Assessment", "Summary"))
    dropped: Counter[str] = Counter()
    items = []
    for row in rows:
        if not row["Summary"].strip():
            dropped["no summary"] += 1
            continue
        user = f"{row['Subjectives']}\n\n{row['Assessment']}"
        gold = row["Summary"].strip().strip(";")
        items.append(Item(row["File ID"], row["File ID"], ask(SYSTEM, user), gold, truth=row["Summary"]))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, PUBLISHED))


def parse(output: str, item: Item) -> str | None:
    """The list as text; None where it has no part."""
    return parse_text(output) if split_list(output) else None


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE with the parts joined by commas, as published, and the F1 of the parts as sets."""
    return rouge(*texts(answer, item)) | {"list_f1": list_f1(answer, item.gold)}


def texts(answer: str, item: Item) -> tuple[str, str]:
    """The two lists as they are compared as texts."""
    return ", ".join(split_list(answer)), ", ".join(split_list(item.gold))

"""MedNLI: does the second sentence follow from the first? `mli_test_v1.jsonl` as published on PhysioNet.

Each row has pairID, gold_label (entailment, neutral, contradiction), sentence1 and sentence2; its parses are not read.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import BadRow, Item, Loaded, Published, ask, leaving_out, loaded
from eval.parsing import parse_label
from eval.scorers import exact
from eval.tables import file_notes, find_split, read_table
from medsmith.errors import quoted
from medsmith.records import content_id

VERSION = 1
METRIC = "accuracy"
ACCESS = "credentialed"
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
SOURCE = "physionet.org/content/mednli/1.0.0"
MAX_NEW_TOKENS = 20

LABELS = ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")
ID_COLUMN = "pairID"
FILES = {"test": "mli_test_v1.jsonl", "shots": "mli_train_v1.jsonl"}
PUBLISHED = {
    "mli_test_v1.jsonl": Published(1422),
    "mli_dev_v1.jsonl": Published(1395),
    "mli_train_v1.jsonl": Published(11232),
}
SYSTEM = "Decide how the second sentence relates to the first. Answer ENTAILMENT, NEUTRAL or CONTRADICTION."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the pairs; the three hypotheses of one premise are a group."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("pairID", "gold_label", "sentence1", "sentence2"))
    dropped: Counter[str] = Counter()
    items = []
    for row in rows:
        with leaving_out(dropped):
            label = row["gold_label"].upper()
            if label not in LABELS:
                raise BadRow(
                    f"{file}: pair {row['pairID']} has the label {quoted(row['gold_label'])}, not one of {LABELS}"
                )
            user = f"SENTENCE_1: {row['sentence1']}\nSENTENCE_2: {row['sentence2']}"
            items.append(Item(str(row["pairID"]), content_id(row["sentence1"]), ask(SYSTEM, user), label))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, PUBLISHED))


def parse(output: str, item: Item) -> str | None:
    """The one label that is named and not denied."""
    return parse_label(output, LABELS)


def score(answer: str, item: Item) -> dict[str, float]:
    """1 for the gold label."""
    return {"accuracy": exact(answer, item.gold)}

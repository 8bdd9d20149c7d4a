"""Questions on radiology findings. JSON Lines {id, findings, question, answer}.

The set of the paper (made from MEDIQA-RRS impressions by a large model) was not released: a score here is on whatever
file was given, and is never called the paper's. `eval.make_rrs_qa` makes such a file from reports.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import Item, Loaded, ask, loaded
from eval.parsing import parse_text
from eval.scorers import exact, rouge
from eval.tables import file_notes, find_split, read_table
from medsmith.records import content_id

VERSION = 1
METRIC = "rouge1"
ACCESS = "credentialed"
LICENCE = "as the file given: not a published set"
SOURCE = "a file of your own, or made by eval.make_rrs_qa"
MAX_NEW_TOKENS = 128

ID_COLUMN = "id"
FILES = {"test": "test.jsonl", "shots": "dev.jsonl"}
SYSTEM = "Answer the question briefly from the radiology findings."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the questions; those on the same findings are a group; a row without question or answer is left out."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("id", "findings", "question", "answer"))
    dropped: Counter[str] = Counter()
    items = []
    for row in rows:
        if not row["question"].strip() or not row["answer"].strip():
            dropped["no question or answer"] += 1
            continue
        user = f"FINDINGS: {row['findings']}\nQUESTION: {row['question']}"
        items.append(Item(str(row["id"]), content_id(row["findings"]), ask(SYSTEM, user), row["answer"]))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, {}))


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE and exact match."""
    return rouge(answer, item.gold) | {"exact": exact(answer, item.gold)}

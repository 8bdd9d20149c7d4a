"""Questions on radiology findings. JSON Lines {id, findings, question, answer}.

The set of the paper (made from MEDIQA-RRS impressions by a large model) was not released: a score here is on whatever
file was given, and is never called the paper's.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import Item, Loaded, ask, loaded
from eval.parsing import parse_text
from eval.scorers import exact, rouge
from eval.tables import find_file, read_table
from medsmith.records import content_id

VERSION = 1
METRIC = "rouge1"
ACCESS = "credentialed"
LICENCE = "as the file given: not a published set"
SOURCE = "a file of your own, see eval/benchmarks/rrs_qa.py"
MAX_NEW_TOKENS = 128

FILES = {"test": "test.jsonl", "shots": "dev.jsonl"}
SYSTEM = "Answer the question briefly from the radiology findings."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the questions; those on the same findings are a group; a row without question or answer is left out."""
    file = find_file(path, FILES[split], SOURCE)
    dropped: Counter[str] = Counter()
    items = []
    for row in read_table(file, ("id", "findings", "question", "answer")):
        if not row["question"].strip() or not row["answer"].strip():
            dropped["no question or answer"] += 1
            continue
        user = f"FINDINGS: {row['findings']}\nQUESTION: {row['question']}"
        items.append(Item(str(row["id"]), content_id(row["findings"]), ask(SYSTEM, user), row["answer"]))
    return loaded(items, dropped, file)


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE and exact match."""
    return rouge(answer, item.gold) | {"exact": exact(answer, item.gold)}

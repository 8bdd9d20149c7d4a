"""Conversations of your own: the last answer is the truth. JSON Lines {messages}, with id, kind and group where known.

For what no public set asks: whether a model still does what its base could (the embedded pipeline asks its base's own
held-out lessons), or the questions of a house. Answers are compared word for word; ROUGE stands beside.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import Item, Loaded, loaded
from eval.parsing import parse_text
from eval.scorers import exact, rouge
from eval.tables import file_notes, find_split, read_table
from medsmith.errors import UserError
from medsmith.records import content_id

VERSION = 1
METRIC = "exact"
ACCESS = "open"
LICENCE = "as the file given: not a published set"
SOURCE = "a file of your own, or lessons of mediflow.simulate"
MAX_NEW_TOKENS = 128

FILES = {"test": "test.jsonl"}


def load(path: Path, split: str = "test") -> Loaded:
    """Read the conversations; a kind is a slice; a row whose last turn is no answer is left out."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("messages",))
    dropped: Counter[str] = Counter()
    items = []
    for number, row in enumerate(rows, 1):
        turns = row["messages"]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) and "content" in turn for turn in turns):
            raise UserError(f"{file} row {number}: 'messages' must be a list of {{role: text, content: text}}")
        if len(turns) < 2 or turns[-1].get("role") != "assistant" or not str(turns[-1]["content"]).strip():
            dropped["no answer at the end"] += 1
            continue
        asked = [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in turns[:-1]]
        name = str(row.get("id") or content_id(*(turn["content"] for turn in asked)))
        group = str(row.get("group") or name)
        items.append(Item(name, group, asked, str(turns[-1]["content"]), slice=str(row.get("kind") or "")))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, {}))


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """Exact match and ROUGE."""
    return {"exact": exact(answer, item.gold)} | rouge(answer, item.gold)

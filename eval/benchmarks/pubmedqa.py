"""PubMedQA: does the abstract answer the question with yes, no or maybe? The published JSON files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import Item, Loaded, ask, loaded
from eval.parsing import parse_leading_label
from eval.scorers import exact
from eval.tables import check_columns, find_file
from medsmith.errors import UserError
from medsmith.records import read_json

VERSION = 1
METRIC = "accuracy"
ACCESS = "open"
LICENCE = "MIT"
SOURCE = "github.com/pubmedqa/pubmedqa"
MAX_NEW_TOKENS = 10

LABELS = ("yes", "no", "maybe")
SYSTEM = "Answer the question from the abstract with yes, no or maybe."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the 500 items of the published test key; examples come from the other 500 of the same file."""
    if not path.is_dir():
        raise UserError(f"{path}: give the folder that holds ori_pqal.json and test_ground_truth.json")
    articles = read_json(find_file(path, "*ori_pqal.json", SOURCE))
    key = read_json(find_file(path, "*test_ground_truth.json", SOURCE))
    missing = sorted(set(key) - set(articles))
    if missing:
        raise UserError(f"{path}: the test key names article {missing[0]}, which ori_pqal.json does not hold")
    wanted = key if split == "test" else {k: a["final_decision"] for k, a in articles.items() if k not in key}
    items = []
    for name, label in wanted.items():
        article = articles[name]
        check_columns(article, ("QUESTION", "CONTEXTS"), f"{path} article {name}")
        if label not in LABELS:
            raise UserError(f"{path}: article {name} has the answer '{label}', not one of {LABELS}")
        abstract = "\n".join(article["CONTEXTS"])
        user = f"ABSTRACT: {abstract}\nQUESTION: {article['QUESTION']}"
        items.append(Item(name, name, ask(SYSTEM, user), label))
    reason = "outside the published test split" if split == "test" else "in the published test split"
    return loaded(items, Counter({reason: len(articles) - len(items)}), path)


def parse(output: str, item: Item) -> str | None:
    """The label that the output begins with."""
    return parse_leading_label(output, LABELS)


def score(answer: str, item: Item) -> dict[str, float]:
    """1 for the gold label."""
    return {"accuracy": exact(answer, item.gold)}

"""PubMedQA: does the abstract answer the question with yes, no or maybe? The published JSON files.

`ori_pqal.json` is {PubMed id: {QUESTION, CONTEXTS, final_decision, …}}, `test_ground_truth.json` is {PubMed id: answer}
of the half that is tested.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import BadRow, Item, Loaded, Published, ask, leaving_out, loaded
from eval.parsing import parse_leading_label
from eval.scorers import exact
from eval.tables import check_columns, file_notes, find_file
from medsmith.errors import UserError, quoted
from medsmith.records import read_json

VERSION = 1
METRIC = "accuracy"
ACCESS = "open"
LICENCE = "MIT"
SOURCE = "github.com/pubmedqa/pubmedqa"
MAX_NEW_TOKENS = 10

PUBLISHED = {
    "*ori_pqal.json": Published(1000, "8b3276be8942ebbd77f3ddcda12c1749bf0e490045a736fd8438ee40cf37a41d"),
    "*test_ground_truth.json": Published(500, "939fe566f09017d13b1ca64d2ddfee0bc2374b366048152997669cccedc44d51"),
}
LABELS = ("yes", "no", "maybe")
SYSTEM = "Answer the question from the abstract with yes, no or maybe."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the 500 items of the published test key; examples come from the other 500 of the same file."""
    if not path.is_dir():
        raise UserError(f"{path}: give the folder that holds ori_pqal.json and test_ground_truth.json")
    files = [find_file(path, pattern, SOURCE) for pattern in PUBLISHED]
    articles, key = map(read_json, files)
    notes = file_notes(dict(zip(files, map(len, (articles, key)), strict=True)), PUBLISHED)
    missing = sorted(set(key) - set(articles))
    if missing:
        raise UserError(f"{path}: the test key names article {missing[0]}, which ori_pqal.json does not hold")
    wanted = key if split == "test" else {k: a["final_decision"] for k, a in articles.items() if k not in key}
    dropped: Counter[str] = Counter()
    items = []
    for name, label in wanted.items():
        with leaving_out(dropped):
            article = articles[name]
            check_columns(article, ("QUESTION", "CONTEXTS"), f"{path} article {name}")
            if label not in LABELS:
                raise BadRow(f"{path}: article {name} has the answer {quoted(label)}, not one of {LABELS}")
            abstract = "\n".join(article["CONTEXTS"])
            user = f"ABSTRACT: {abstract}\nQUESTION: {article['QUESTION']}"
            items.append(Item(name, name, ask(SYSTEM, user), label))
    reason = "outside the published test split" if split == "test" else "in the published test split"
    dropped[reason] = len(articles) - len(wanted)
    return loaded(items, dropped, path, notes)


def parse(output: str, item: Item) -> str | None:
    """The label that the output begins with."""
    return parse_leading_label(output, LABELS)


def score(answer: str, item: Item) -> dict[str, float]:
    """1 for the gold label."""
    return {"accuracy": exact(answer, item.gold)}

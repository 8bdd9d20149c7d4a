"""RadQA: a question on a radiology report, answered by its words or by N/A. `{train,dev,test}.json`, as SQuAD 2.0.

A score that first blanks every answer which is no part of the report has been published beside the plain one. It gives
a model credit for what it did not say, and is not computed here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import Item, Loaded, ask, loaded
from eval.scorers import squad_exact, squad_f1
from eval.tables import check_columns, file_notes, find_split
from medsmith.records import content_id, read_json

VERSION = 1
METRIC = "squad2_f1"
ACCESS = "credentialed"
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
SOURCE = "physionet.org/content/radqa/1.0.0"
MAX_NEW_TOKENS = 96

FILES = {"test": "test.json", "shots": "train.json"}
SYSTEM = "Answer the question with words of the radiology report. Answer N/A if the report does not answer it."
NO_ANSWER = re.compile(r"\W*(?:n\s*/\s*a|na|(?:there is )?no answer|unanswerable|not answerable)\W*", re.IGNORECASE)


def load(path: Path, split: str = "test") -> Loaded:
    """Read the questions; those on one report are a group.

    As in the published evaluation a question is answerable where it has an answer; `is_impossible` that says
    otherwise is counted in the notes.
    """
    file = find_split(path, FILES, split, SOURCE)
    data = read_json(file)
    check_columns(data, ("data",), str(file))
    dropped: Counter[str] = Counter()
    items, contradictions, rows = [], 0, 0
    for paragraph, asked, group in _questions(data["data"], str(file)):
        rows += 1
        golds = [str(answer["text"]).strip() for answer in asked["answers"] if str(answer["text"]).strip()]
        contradictions += bool(golds) == bool(asked.get("is_impossible", not golds))
        context, question = str(paragraph["context"]).strip(), str(asked["question"]).strip()
        if not context or not question:
            dropped["no report or no question"] += 1
            continue
        # A question on both parts of a report may have one id.
        name = f"{paragraph.get('document_id') or content_id(context)[:12]}/{asked['id']}"
        user = f"REPORT: {context}\nQUESTION: {question}"
        items.append(Item(name, group, ask(SYSTEM, user), golds[0] if golds else "N/A", truth=golds))
    notes = file_notes({file: rows}, {}) | {
        "unanswerable": sum(not item.truth for item in items),
        "is_impossible_contradicts_answers": contradictions,
    }
    return loaded(items, dropped, file, notes)


def parse(output: str, item: Item) -> str | None:
    """The answer, empty where it says that there is none. To write nothing says nothing."""
    text = re.sub(r"\A[\s*]*answer[\s*]*:[\s*]*", "", output, flags=re.IGNORECASE).strip()
    if not text:
        return None
    return "" if NO_ANSWER.fullmatch(text) else text


def score(answer: str, item: Item) -> dict[str, float]:
    """F1 of words and exact match, best over golds."""
    return {"squad2_f1": squad_f1(answer, item.truth), "squad2_em": squad_exact(answer, item.truth)}


def count(answer: str | None, item: Item) -> dict[str, list[float]]:
    """Both kinds of questions apart: always to say N/A is right as often as there is no answer."""
    earned = 0.0 if answer is None else squad_f1(answer, item.truth)
    here, none = [earned, 1.0], [0.0, 0.0]
    return {
        "squad2_f1_answerable": here if item.truth else none,
        "no_answer_recall": none if item.truth else here,
    }


def _questions(articles: list[dict[str, Any]], where: str) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """Each paragraph, one of its questions, and the report's name.

    That is the entry's title where every entry has its own, else the document's id without the part's letter.
    """
    titles = [str(article.get("title") or "") for article in articles]
    titled = all(titles) and len(set(titles)) == len(titles) > 1
    for title, article in zip(titles, articles, strict=True):
        for paragraph in article["paragraphs"]:
            check_columns(paragraph, ("context", "qas"), where)
            document = str(paragraph.get("document_id") or content_id(paragraph["context"]))
            for asked in paragraph["qas"]:
                check_columns(asked, ("id", "question", "answers"), where)
                yield paragraph, asked, title if titled else re.sub(r"_[A-Z]\Z", "", document)

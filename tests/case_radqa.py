"""A report with an answered and an unanswerable question, one whose question is answered, and one without a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def question(key: str, asked: str, *answers: str) -> dict[str, Any]:
    texts = [{"text": text, "answer_start": 0} for text in answers]
    return {"id": key, "question": asked, "answers": texts, "is_impossible": not answers}


def report(title: str, context: str, *questions: dict[str, Any]) -> dict[str, Any]:
    paragraph = {"document_id": f"{title}_O", "context": context, "qas": list(questions)}
    return {"title": title, "paragraphs": [paragraph]}


def write(folder: Path) -> None:
    data = [
        report(
            "r1", "A small left effusion.",
            question("1", "Effusion?", "small left effusion", "left pleural effusion"), question("2", "Fracture?"),
        ),
        report("r2", "Clear lungs.", question("1", "Lungs?", "Clear")),
        report("r3", " ", question("1", "Lungs?")),
    ]  # fmt: skip
    (folder / "test.json").write_text(json.dumps({"version": "1.0", "data": data}))


CASE = (
    write,
    "REPORT: A small left effusion.\nQUESTION: Effusion?",
    ["small left effusion", "N/A", "Clear"],
    2,
    {"no report or no question": 1},
    # Two words of the first gold's three; no answer where there is none; none where there is one.
    [("Answer: a small effusion", "a small effusion", 0.8), ("N/A.", "", 1.0), ("n/a", "", 0.0)],
)

"""Two steps of the examination, options by letter and as a list, and a question with two options alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medsmith.records import write_jsonl


def write(folder: Path) -> None:
    names = ("gout", "asthma", "anemia", "sepsis")
    options = dict(zip("ABCD", names, strict=True))
    rows: list[dict[str, Any]] = [
        {"question": "Which? ", "options": options, "answer_idx": "B", "answer": "asthma", "meta_info": "step1"},
        {"question": "Why?", "options": options, "answer_idx": "A", "answer": "gout", "meta_info": "step2&3"},
        {"question": "How?", "options": list(names), "answer_idx": 3, "meta_info": "step1"},
        {"question": "Who?", "options": {**options, "D": "gout"}, "answer_idx": "A", "meta_info": "step1"},
    ]
    write_jsonl(folder / "phrases_no_exclude_test.jsonl", rows)
    write_jsonl(folder / "phrases_no_exclude_train.jsonl", rows[:1])


CASE = (
    write,
    "Which?",
    ["asthma", "gout", "sepsis"],
    3,
    {"two options are alike": 1},
    [("asthma", "asthma", 1.0), ("anemia", "anemia", 0.0), ("A", None, 0.0)],
)

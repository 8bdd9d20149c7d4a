"""Two fictional patients; one question of two is without its right answer among the options."""

from __future__ import annotations

import json
from pathlib import Path

OPTIONS = {"answer_a": "acute bronchitis", "answer_b": "acute", "answer_c": "c", "answer_d": "d", "answer_e": "e"}


def write(folder: Path) -> None:
    question = {"question": "How?", **OPTIONS, "correct": "acute", "answer_location": {"text_0": {"start": [0]}}}
    lost = {**question, "correct": "acut"}
    patients = {
        "p1": {"texts": {"text_0": "One."}, "questions": [question, lost]},
        "p2": {"texts": {"text_0": "Two."}, "questions": []},
    }
    (folder / "benchmark_v5.json").write_text(json.dumps(patients))


RIGHT = "The correct answer is B: acute."
CASE = (
    write,
    "DOCUMENT 1\nOne.\n\nQUESTION: How?\nA: acute bronchitis\nB: acute\nC: c\nD: d\nE: e",
    [RIGHT, RIGHT, "The correct answer is F: Question cannot be answered with provided documents."],
    1,
    {"right answer is none of the options": 3},
    [(RIGHT, "B", 1.0), ("The correct answer is: A", "A", 0.0), ("A or F", None, 0.0)],
)

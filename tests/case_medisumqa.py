"""Three questions on two letters, under the key of the published generator, and one without an answer."""

from __future__ import annotations

import json
from pathlib import Path


def write(folder: Path) -> None:
    rows = [("L1", "Why?", "a bad heart"), ("L1", "How long?", "a week"), ("L2", "What now?", "rest"), ("L2", "x", "")]
    keys = ("without_discharge_summary", "Question", "Answer")
    (folder / "medisumqa.json").write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))


CASE = (
    write,
    "DISCHARGE LETTER: L1\nQUESTION: Why?",
    ["a bad heart", "a week", "rest"],
    2,
    {"no letter, question or answer": 1},
    [("A bad heart.", "A bad heart.", 1.0), ("two days", "two days", 0.0), (" ", None, 0.0)],
)

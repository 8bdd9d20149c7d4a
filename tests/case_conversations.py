"""Three conversations, one of two turns, and one that ends without an answer."""

from __future__ import annotations

import json
from pathlib import Path


def write(folder: Path) -> None:
    asked, told = {"role": "user", "content": "Say a."}, {"role": "system", "content": "Be exact."}
    answer, other = {"role": "assistant", "content": "A, b."}, {"role": "user", "content": "And c?"}
    rows = [
        {"id": 1, "kind": "copy", "messages": [told, asked, answer]},
        {"kind": "copy", "messages": [asked, answer]},
        {"kind": "pick", "messages": [asked, answer, other, {"role": "assistant", "content": "C"}]},
        {"kind": "pick", "messages": [told, asked]},
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


CASE = (
    write,
    "Say a.",
    ["A, b.", "A, b.", "C"],
    3,
    {"no answer at the end": 1},
    [("a, b", "a, b", 1.0), ("a, c", "a, c", 0.0), ("\n", None, 0.0)],
)

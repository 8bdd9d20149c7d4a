"""A note with three entries, one with one, and one without any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medsmith.records import write_jsonl

TEXT = "Drinks two beers daily. Lives with his wife."


def entry(entity: str, label: str, value: str) -> dict[str, str]:
    return {"entity": entity, "label": label, "value": value}


ALL = [entry("Alcohol", "StatusTime", "current"), entry("Alcohol", "Amount", "two beers"),
       entry("LivingStatus", "TypeLiving", "with family")]  # fmt: skip
RETIRED = [entry("Employment", "StatusEmploy", "retired")]


def write(folder: Path) -> None:
    at = TEXT.index("two beers")
    spans = [{**row, "start": at, "end": at + 9} if row["label"] == "Amount" else row for row in ALL]
    rows = [("a", TEXT, spans), ("b", "Retired.", RETIRED), ("c", "No history.", [])]
    write_jsonl(folder / "test.jsonl", [dict(zip(("id", "text", "annotations"), row, strict=True)) for row in rows])


# The amount overlaps, the living status is wrong: two of three said, of three true.
HALF = [ALL[0], entry("Alcohol", "Amount", "beers daily"), entry("LivingStatus", "TypeLiving", "alone")]
CASE: tuple[Any, ...] = (
    write,
    TEXT,
    [json.dumps(ALL), json.dumps(RETIRED), "[]"],
    3,
    {},
    [(json.dumps(HALF), HALF, 2 / 3), (json.dumps(RETIRED)[:-1], RETIRED, 1.0), ("none", None, 0.0)],
)

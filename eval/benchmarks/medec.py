"""MEDEC: which sentence of a clinical text is wrong? The published CSV files of the MS part.

Columns: Text ID, Text, Sentences (`0 First.` and so on, a line each), Error Flag, Error Type, Error Sentence ID, Error
Sentence, Corrected Sentence, Corrected Text. The test file has 925 rows, of which 328 are blank: the texts of the other
part, which are given on request.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from eval.benchmark import BadRow, Item, Loaded, Published, ask, leaving_out, loaded
from eval.parsing import parse_sentence_number
from eval.tables import file_notes, find_split, read_table
from medsmith.errors import quoted

VERSION = 1
METRIC = "accuracy"  # of the sentence's number
ACCESS = "open"
LICENCE = "CC BY 4.0"
SOURCE = "github.com/abachaa/MEDEC"
MAX_NEW_TOKENS = 12

ID_COLUMN = "Text ID"
FILES = {"test": "MEDEC*TestSet*.csv", "shots": "MEDEC*TrainingSet*.csv"}
PUBLISHED = {
    "MEDEC*TestSet*.csv": Published(925, "f35e2c3c1e4d98ca900394c4fcff14c2a84752e48ddc83698401da6a360c707e"),
    "MEDEC*TrainingSet*.csv": Published(2189),
    "MEDEC*ValidationSet*.csv": Published(574, "7571aec311e2fb88d9084082af2323aa579d102e1d5e1a06faf930fe4fd3977d"),
}
SYSTEM = "Find the sentence with a medical error. Answer with its number, or -1 if there is none."


def load(path: Path, split: str = "test") -> Loaded:
    """Read the texts; blank rows are left out and counted."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("Text ID", "Sentences", "Error Flag", "Error Sentence ID"))
    dropped: Counter[str] = Counter()
    items = []
    for row in rows:
        if not row["Sentences"].strip():
            dropped["blank row"] += 1
            continue
        with leaving_out(dropped):
            items.append(
                Item(row["Text ID"], row["Text ID"], ask(SYSTEM, row["Sentences"].strip()), str(_gold(row, file)))
            )
    return loaded(items, dropped, file, file_notes({file: len(rows)}, PUBLISHED))


def parse(output: str, item: Item) -> str | None:
    """The sentence's number, as text."""
    number = parse_sentence_number(output, _sentences(item.messages[-1]["content"]))
    return None if number is None else str(number)


def score(answer: str, item: Item) -> dict[str, float]:
    """Whether the number is right; and whether it was seen at all that there is an error, or none."""
    return {"accuracy": float(answer == item.gold), "flag_accuracy": float((answer == "-1") == (item.gold == "-1"))}


def answers(item: Item) -> list[str]:
    """Every answer there is: no error, or one of the sentences."""
    return ["-1", *map(str, _sentences(item.messages[-1]["content"]))]


def _gold(row: dict[str, Any], file: Path) -> int:
    """The number of the wrong sentence; an unreadable one is an error, not a silent -1."""
    flag, number = row["Error Flag"].strip(), row["Error Sentence ID"].strip()
    if flag == "0" and number in {"-1", "", "NA"}:
        return -1
    if flag == "1" and number.isdecimal() and int(number) in _sentences(row["Sentences"]):
        return int(number)
    raise BadRow(
        f"{file}: text {row['Text ID']} has the flag {quoted(flag)} and the sentence {quoted(number)}; that is no label"
    )


def _sentences(text: str) -> dict[int, str]:
    """Numbered lines as {number: sentence}."""
    found = (re.match(r"\s*(\d+)\s+(.*)", line) for line in text.splitlines())
    return {int(match.group(1)): match.group(2) for match in found if match}

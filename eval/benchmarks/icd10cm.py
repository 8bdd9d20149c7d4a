"""MedConceptsQA, ICD-10-CM: what does a code mean? Parquet in the published columns; options by likelihood.

Columns: question_id, question (with its four options), option1 to option4, answer, answer_id, vocab, level; one file,
or the published folders icd10cm_easy, icd10cm_medium, icd10cm_hard. Traps of the published files: two levels number
their questions alike, and their generator lost every question whose right answer was the third; the notes count the
places of the right answers. `eval.make_icd10cm` makes questions of this kind from the public code table; they are not
the published ones.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import BadRow, Item, Loaded, ask, leaving_out, loaded
from eval.scorers import exact
from eval.tables import file_notes, find_split, read_table
from medsmith.errors import quoted

VERSION = 1
METRIC = "accuracy"
ACCESS = "open"
LICENCE = "Apache-2.0"
SOURCE = "huggingface.co/datasets/ofir408/MedConceptsQA"
MAX_NEW_TOKENS = 0

FILES = {"test": "test*.parquet", "shots": "dev*.parquet"}
SYSTEM = "Choose the right answer."
COLUMNS = ("question_id", "question", "answer_id", "option1", "option2", "option3", "option4", "level")
LETTERS = "ABCD"

log = logging.getLogger("eval.run")


def load(path: Path, split: str = "test") -> Loaded:
    """Read the questions without the lettered options that the published ones carry; the options' texts are scored."""
    items = []
    dropped: Counter[str] = Counter()
    rows: Counter[Path] = Counter()
    places: dict[str, Counter[str]] = {}
    for file, row in _rows(path, split):
        rows[file] += 1
        with leaving_out(dropped):
            options = [str(row[f"option{number}"]).strip() for number in range(1, 5)]
            letter = str(row["answer_id"]).strip()
            if letter not in LETTERS or not all(options):
                raise BadRow(
                    f"{file}: question {row['question_id']} has the answer {quoted(letter)}, or an empty option"
                )
            stem = re.split(r"\s+A\. ", str(row["question"]).strip(), maxsplit=1)[0].strip()
            # Two levels of the published set number their questions alike.
            name = f"{row['level']}-{row['question_id']}"
            gold = options[LETTERS.index(letter)]
            places.setdefault(str(row["level"]), Counter(dict.fromkeys(LETTERS, 0)))[letter] += 1
            items.append(Item(name, name, ask(SYSTEM, stem), gold, options, str(row["level"])))
    found = {level: dict(places[level]) for level in sorted(places)}
    log.info("icd10cm: places of the right answers %s", found)
    return loaded(items, dropped, path, file_notes(rows, {}) | {"answer_places": found})


def _rows(path: Path, split: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The rows of one file, or of the published folder with a folder for each level."""
    levels = sorted(path.glob(f"icd10cm_*/{FILES[split]}"))
    for file in levels or [find_split(path, FILES, split, SOURCE)]:
        yield from ((file, row) for row in read_table(file, COLUMNS))


def parse(output: str, item: Item) -> str | None:
    """The chosen option."""
    return output if output in item.options else None


def score(answer: str, item: Item) -> dict[str, float]:
    """1 for the gold option."""
    return {"accuracy": exact(answer, item.gold)}

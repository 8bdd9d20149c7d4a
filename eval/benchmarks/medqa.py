"""MedQA (USMLE), four options: `questions/US/4_options/phrases_no_exclude_{train,test}.jsonl`; options by likelihood.

Read are rows {question, options, answer_idx}, with options by letter or as a list. Five options are another benchmark
with another chance level: such rows are refused, also among others. The published order of the options stays; how
often each letter is right stands in the notes: no more is what a model earns that always says the same letter.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from eval.benchmark import BadRow, Item, Loaded, Published, ask, leaving_out, loaded
from eval.scorers import exact
from eval.tables import file_notes, find_split, read_table
from medsmith.errors import UserError, quoted
from medsmith.records import content_id

VERSION = 1
METRIC = "accuracy"
ACCESS = "open"
LICENCE = "MIT (origin); CC BY 4.0 (the copy huggingface.co/datasets/GBaker/MedQA-USMLE-4-options)"
SOURCE = "github.com/jind11/MedQA"
MAX_NEW_TOKENS = 0
PUBLISHED = {"phrases_no_exclude_test.jsonl": Published(1273)}

# Examples come from the training file: a common copy has no development file, and its test file is no substitute.
FILES = {"test": "*test*.jsonl", "shots": "*train*.jsonl"}
SYSTEM = "Choose the right answer."
LETTERS = "ABCD"


def load(path: Path, split: str = "test") -> Loaded:
    """Read the questions; a slice is the step of the examination (`meta_info`), where the file tells it."""
    file = find_split(path, FILES, split, SOURCE)
    dropped: Counter[str] = Counter()
    items = []
    rows = read_table(file, ("question", "options", "answer_idx"))
    for number, row in enumerate(rows, 1):
        with leaving_out(dropped):
            options = _options(row, f"{file} row {number}")
            letter = _letter(row, options, f"{file} row {number}")
            if len(set(options)) < len(options):
                dropped["two options are alike"] += 1
                continue
            asked = str(row["question"]).strip()
            gold, step = options[LETTERS.index(letter)], str(row.get("meta_info", ""))
            items.append(Item(f"{number:05d}", content_id(asked), ask(SYSTEM, asked), gold, options, step))
    notes = file_notes({file: len(rows)}, PUBLISHED) | {"right_letters": right_letters(items)}
    return loaded(items, dropped, file, notes)


def right_letters(items: list[Item]) -> dict[str, int]:
    """How often each letter is right."""
    return dict(sorted(Counter(LETTERS[item.options.index(item.gold)] for item in items).items()))


def parse(output: str, item: Item) -> str | None:
    """The chosen option."""
    return output if output in item.options else None


def score(answer: str, item: Item) -> dict[str, float]:
    """1 for the gold option."""
    return {"accuracy": exact(answer, item.gold)}


def _options(row: dict[str, Any], where: str) -> list[str]:
    given = row["options"]
    named = given if isinstance(given, dict) else dict(zip("ABCDEFGHIJ", given, strict=False))
    if "".join(sorted(named)) != LETTERS:
        raise UserError(f"{where} has the options {', '.join(sorted(named))}; give the four-option file, A to D")
    options = [str(named[letter]).strip() for letter in LETTERS]
    if not all(options):
        raise BadRow(f"{where} has an empty option; mend or leave out the row")
    return options


def _letter(row: dict[str, Any], options: list[str], where: str) -> str:
    """The right letter, or its place counted from 0; checked against the answer's text where that is there too."""
    given = str(row["answer_idx"]).strip()
    letter = LETTERS[int(given)] if given in {"0", "1", "2", "3"} else given
    if letter not in tuple(LETTERS):
        raise BadRow(f"{where} has the answer {quoted(given)}, which is none of A, B, C, D")
    text = str(row.get("answer", "")).strip()
    if text not in {"", letter, options[LETTERS.index(letter)]}:
        raise BadRow(f"{where}: the answer is not option {letter}; mend the row")
    return letter

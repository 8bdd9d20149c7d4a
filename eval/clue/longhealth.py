"""LongHealth as CLUE asks and scores it: every question five times in each of three tasks, with drawn documents.

    task1   the documents with the answer and others of the same patient, up to 8,140 tokens; options A to E
    task2   the documents with the answer and ten of other patients, up to the model's context; options A to F
    task3   ten documents of other patients; right is F

CLUE draws without a seed, so its very prompts cannot be had again. Here each prompt is drawn by a seed of its own.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.benchmark import Item, Loaded, ask, loaded
from eval.benchmarks import longhealth as strict
from eval.clue.protocol import SEED, filled, load_prompt
from eval.tables import check_columns, file_notes, find_split
from medsmith.records import read_json

if TYPE_CHECKING:
    from eval.engine import Engine

VERSION = 1
METRIC = "accuracy"
SLICE_MEAN = True
ACCESS, LICENCE, SOURCE = strict.ACCESS, strict.LICENCE, strict.SOURCE
MAX_NEW_TOKENS = 50

TASK1_TOKENS = 8140
REPEATS = 5
DISTRACTORS = 10
SEPARATOR = "--------------"


class Truth(NamedTuple):
    """The right letter, and what the prompt is made of: documents with the answer, others, question and options."""

    letter: str
    answering: list[str]
    others: list[str]
    asked: tuple[str, str]
    seed: str


def load(path: Path, split: str = "test") -> Loaded:
    """Read the questions; the documents are put in by `compose`. A patient's questions are a group."""
    file = find_split(path, strict.FILES, split, SOURCE)
    patients = read_json(file)
    items = list(_items(patients, file))
    rows = sum(len(patient["questions"]) for patient in patients.values())
    notes = {
        "prompt wording": load_prompt("longhealth").wording,
        "seed": f"{SEED} of the drawn documents and their order: ours, the published code sets none",
        "repeats": REPEATS,
        "distractors": DISTRACTORS,
        "task1_tokens": TASK1_TOKENS,
    }
    return loaded(items, Counter(), file, file_notes({file: rows}, strict.PUBLISHED) | notes)


def compose(items: Sequence[Item], engine: Engine) -> list[Item]:
    """Put the documents in: those with the answer first, as many tokens as there is room, then in a drawn order."""
    prompt = load_prompt("longhealth")
    known: dict[str, int] = {}

    def tokens(text: str) -> int:
        if text not in known:
            known[text] = engine.tokens_of([text])[0]
        return known[text]

    fixed = tokens(prompt.system) + tokens(prompt.user)
    done = []
    for item in items:
        room = min(TASK1_TOKENS, engine.context) if item.slice == "task1" else engine.context
        chosen = fitting(item.truth, room - fixed - sum(map(tokens, item.truth.asked)), tokens)
        random.Random(item.truth.seed).shuffle(chosen)
        *before, last = item.messages
        user = filled(last["content"], documents=f"\n\n{SEPARATOR}\n\n".join(chosen))
        done.append(replace(item, messages=[*before, {**last, "content": user}]))
    return done


def parse(output: str, item: Item) -> str | None:
    """The first sign between "The correct answer is " and a colon, in this case and form; else unreadable."""
    found = re.search(r"The correct answer is (\w):", output)
    return found[1] if found else None


def score(answer: str, item: Item) -> dict[str, float]:
    """1 for the gold letter."""
    return {"accuracy": float(answer == item.truth.letter)}


def fitting(truth: Truth, room: int, tokens: Callable[[str], int]) -> list[str]:
    """The documents that fit. The first that does not is cut, of each kind: to nothing where no room is left."""
    separator = tokens(f"\n\n{SEPARATOR} NEW DOCUMENT {SEPARATOR}\n\n")
    chosen = []
    for documents in (truth.answering, truth.others):
        for text in documents:
            if tokens(text) > room:
                chosen.append(_cut(text, room, tokens))
                room = 0
                break
            chosen.append(text)
            room -= tokens(text) + separator
    return chosen


def gold_letter(question: Mapping[str, Any]) -> str:
    """The first option that contains the right answer: "Acute" is found in "Acute bronchitis". None: no letter."""
    return next((mark.upper() for mark in "abcde" if question["correct"] in question[f"answer_{mark}"]), "")


def _items(patients: Mapping[str, Any], file: Path) -> Iterator[Item]:
    for name, patient in patients.items():
        check_columns(patient, ("texts", "questions"), f"{file} {name}")
        texts = patient["texts"]
        foreign = [text for other, one in patients.items() if other != name for text in one["texts"].values()]
        for number, question in enumerate(patient["questions"]):
            columns = ("question", *(f"answer_{mark}" for mark in "abcde"), "correct", "answer_location")
            check_columns(question, columns, f"{file} {name} question {number}")
            located = [texts[key] for key in question["answer_location"]]
            rest = [text for key, text in texts.items() if key not in question["answer_location"]]
            for task in strict.TASKS:
                for repeat in range(REPEATS):
                    key = f"{name}-{number:02d}-{task}-{repeat}"
                    drawn = random.Random(f"{SEED} {key} documents").sample(foreign, min(DISTRACTORS, len(foreign)))
                    others = rest if task == "task1" else drawn
                    yield _item(key, name, task, question, [] if task == "task3" else located, others)


def _item(
    key: str, group: str, task: str, question: Mapping[str, Any], answering: list[str], others: list[str]
) -> Item:
    options = {mark.upper(): question[f"answer_{mark}"] for mark in "abcde"}
    if task != "task1":
        options["F"] = strict.UNANSWERABLE
    letter = "F" if task == "task3" else gold_letter(question)
    lines = "\n".join(f"{mark}: {text}" for mark, text in options.items())
    prompt = load_prompt("longhealth")
    user = filled(prompt.user, question=question["question"], options=lines)
    truth = Truth(letter, answering, others, (question["question"], lines), f"{SEED} {key} order")
    gold = f"The correct answer is {letter}: {options.get(letter, question['correct'])}."
    return Item(key, group, ask(prompt.system, user), gold, slice=task, truth=truth)


def _cut(text: str, room: int, tokens: Callable[[str], int]) -> str:
    """The longest beginning of a text that has at most so many tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens(text[:middle]) <= room else (low, middle - 1)
    return text[:low] if room > 0 else ""

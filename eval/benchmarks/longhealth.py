"""LongHealth: multiple-choice questions on the long records of fictional patients. `benchmark_v5.json`.

The file is one object, {patient: {"texts": {name: text}, "questions": [{"question", "answer_a" … "answer_e", "correct",
"answer_location": {name of a text that holds the answer: …}}]}}. Each question is asked as three tasks, the slices:

    task1   the documents with the answer among the patient's other ones; options A to E
    task2   the documents with the answer among DISTRACTORS of other patients; options A to F
    task3   documents of other patients alone; right is F, "cannot be answered"

The headline is the plain mean of the three accuracies. The published protocol draws the distractors of a question five
times; here they are drawn once, by a fixed seed: five prompts of one question are no five questions. Documents are
whole; what does not fit into a model's context is cut by the runner, and said.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.benchmark import Item, Loaded, Published, ask, loaded
from eval.parsing import parse_letter
from eval.tables import check_columns, file_notes, find_split
from medsmith.errors import UserError
from medsmith.records import read_json

VERSION = 1
METRIC = "accuracy"
SLICE_MEAN = True
ACCESS = "open"
LICENCE = "not stated in the file; the patients are fictional"
SOURCE = "github.com/kbressem/LongHealth (data/benchmark_v5.json)"
MAX_NEW_TOKENS = 50

FILES = {"test": "benchmark_v5.json"}
PUBLISHED = {"benchmark_v5.json": Published(400)}  # questions
TASKS = ("task1", "task2", "task3")
REPEATS = 1
SEED = 5
DISTRACTORS = 10
# Room for documents in task 1: the 8,140 tokens of the published launch script, at four characters a token.
TASK1_CHARACTERS = 32_560
LETTERS = "ABCDEF"
UNANSWERABLE = "Question cannot be answered with provided documents"
SYSTEM = (
    "Answer the question about the documents. One option is right. Answer with its letter and its text, in the form: "
    "The correct answer is X: text."
)


def load(path: Path, split: str = "test") -> Loaded:
    """Read the questions of every patient, in three tasks; a patient's questions are a group."""
    file = find_split(path, FILES, split, SOURCE)
    patients = read_json(file)
    if not isinstance(patients, dict):
        raise UserError(f"{file}: expected one object with a patient a key; give benchmark_v5.json as published")
    for name, patient in patients.items():
        check_columns(patient, ("texts", "questions"), f"{file} {name}")
    dropped: Counter[str] = Counter()
    items = list(_items(patients, file, dropped))
    rows = sum(len(patient["questions"]) for patient in patients.values())
    return loaded(items, dropped, file, file_notes({file: rows}, PUBLISHED) | _settings())


def parse(output: str, item: Item) -> str | None:
    """The letter of the option that is named; one that is followed by its own text needs no other sign."""
    said = re.search(r"correct answer is\W{0,4}([A-F])\b\W*(.*)", output, re.IGNORECASE | re.DOTALL)
    if said and _alike(said[2].strip(" .*'\"\n"), item.truth["options"].get(said[1].upper(), "").strip(" .*'\"\n")):
        return said[1].upper()
    return parse_letter(output, list(item.truth["options"]))


def score(answer: str, item: Item) -> dict[str, float]:
    """1 for the gold letter."""
    return {"accuracy": float(answer == item.truth["letter"])}


def _settings() -> dict[str, Any]:
    """What the items depend on beside the file."""
    return {
        "repeats": REPEATS,
        "distractors": DISTRACTORS,
        "task1_characters": TASK1_CHARACTERS,
        "distractor_seed": SEED,
    }


def _items(patients: Mapping[str, Any], file: Path, dropped: Counter[str]) -> Iterator[Item]:
    for name, patient in patients.items():
        others = [text for other, p in patients.items() if other != name for text in p["texts"].values()]
        for number, question in enumerate(patient["questions"]):
            where = f"{file} {name} question {number}"
            check_columns(question, ("question", *_keys(), "correct", "answer_location"), where)
            letter = _gold_letter(question, where)
            if letter is None:
                dropped["right answer is none of the options"] += len(TASKS) * REPEATS
                continue
            located = _located(question, patient["texts"], where)
            for task in TASKS:
                if task != "task3" and not located:
                    dropped[f"{task}: no document is named as holding the answer"] += REPEATS
                    continue
                rest = [text for key, text in patient["texts"].items() if key not in located]
                for repeat in range(REPEATS):
                    rng = random.Random(f"longhealth {SEED} {name} {number} {task} {repeat}")
                    shown = _documents(task, list(located.values()), rest if task == "task1" else others, rng)
                    key = f"{name}-{number:02d}-{task}" + (f"-{repeat}" if REPEATS > 1 else "")
                    yield _item(key, name, task, question, shown, letter)


def _item(key: str, group: str, task: str, question: Any, documents: list[str], letter: str) -> Item:
    options = {LETTERS[n]: str(question[column]).strip() for n, column in enumerate(_keys())}
    if task != "task1":
        options["F"] = UNANSWERABLE
    right = "F" if task == "task3" else letter
    shown = "\n\n".join(f"DOCUMENT {n}\n{text.strip()}" for n, text in enumerate(documents, 1))
    lines = "\n".join(f"{mark}: {text}" for mark, text in options.items())
    user = f"{shown}\n\nQUESTION: {str(question['question']).strip()}\n{lines}"
    truth = {"letter": right, "options": options}
    gold = f"The correct answer is {right}: {options[right]}."
    return Item(key, group, ask(SYSTEM, user), gold, slice=task, truth=truth)


def _documents(task: str, answering: list[str], others: list[str], rng: random.Random) -> list[str]:
    """The documents that are shown, in a drawn order. Those with the answer are always whole and there."""
    chosen = [] if task == "task3" else list(answering)
    if task == "task1":
        room = TASK1_CHARACTERS - sum(map(len, chosen))
        for text in rng.sample(others, len(others)):
            if len(text) <= room:
                chosen.append(text)
                room -= len(text)
    else:
        chosen += rng.sample(others, min(DISTRACTORS, len(others)))
    rng.shuffle(chosen)
    return chosen


def _gold_letter(question: Mapping[str, Any], where: str) -> str | None:
    """The option whose whole text is the right answer; a part is not enough: "acute" is in "acute bronchitis"."""
    same = [LETTERS[n] for n, column in enumerate(_keys()) if _alike(str(question[column]), str(question["correct"]))]
    if len(same) > 1:
        raise UserError(f"{where}: options {' and '.join(same)} are both the right answer; mend the file")
    return same[0] if same else None


def _located(question: Mapping[str, Any], texts: Mapping[str, str], where: str) -> dict[str, str]:
    """The documents that hold the answer."""
    unknown = [key for key in question["answer_location"] if key not in texts]
    if unknown:
        raise UserError(f"{where}: the answer lies in '{unknown[0]}', which the patient's texts do not hold")
    return {key: texts[key] for key in question["answer_location"]}


def _alike(one: str, other: str) -> bool:
    return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()


def _keys() -> list[str]:
    return [f"answer_{letter}" for letter in "abcde"]

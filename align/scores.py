"""How good is an answer? From 0 to 1 against the row's own, or by a judge. Pure: the judge's call is made elsewhere."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, Literal

from medsmith.chat import Message
from medsmith.records import Instruction
from medsmith.rouge import rouge_l, words_of

Measure = Literal["exact", "rouge", "json"]
LABEL_WORDS = 3
"""A gold answer of so few words is a label: an answer is it or is not."""

JUDGE = (
    "You grade answers to clinical tasks. You see the task, its input, a reference answer and one answer. Grade the "
    "answer for being correct, complete and in the form that the task asks for, from 1 (useless or wrong) to 10 (as "
    'good as the reference). Length earns nothing. Write only JSON: {"grade": N}'
)
BEST_GRADE = 10


def measure_of(row: Instruction) -> Measure:
    """How the row's answers are scored: JSON by its values, a label by equality, all else by ROUGE-L."""
    if row.output_format == "json" and _parsed(row.output) is not None:
        return "json"
    return "exact" if len(row.output.split()) <= LABEL_WORDS else "rouge"


def score(row: Instruction, text: str, measure: Measure | None = None) -> float:
    """What an answer earns against the row's own; its own earns 1."""
    measure = measure or measure_of(row)
    if measure == "exact":
        return float(_plain(text) == _plain(row.output))
    if measure == "json":
        return _json_f1(_parsed(row.output), _parsed(text))
    return rouge_l(words_of(row.output), words_of(text))


def judge_messages(row: Instruction, text: str) -> list[Message]:
    """Ask a judge for a grade."""
    parts = {"Task": row.instruction, "Input": row.input, "Reference answer": row.output, "Answer": text}
    return [
        {"role": "system", "content": JUDGE},
        {"role": "user", "content": "\n\n".join(f"## {name}\n{part}" for name, part in parts.items())},
    ]


def read_grade(text: str | None) -> float | None:
    """The grade of a judge's reply, from 0 to 1; None where it names none, or one out of bounds."""
    found = re.search(r'"grade"\s*:\s*(\d+(?:\.\d+)?)', text or "")
    grade = float(found[1]) if found else 0.0
    return (grade - 1) / (BEST_GRADE - 1) if 1 <= grade <= BEST_GRADE else None


def _json_f1(gold: Any, answer: Any) -> float:
    """F1 of two values' leaves, each with its path; lists have no order. 0 where the answer is no JSON."""
    if answer is None:
        return 0.0
    ours, theirs = Counter(_leaves(answer)), Counter(_leaves(gold))
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total())


def _leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}.{_plain(str(key))}")]
    if isinstance(value, list) and value:
        return [leaf for inner in value for leaf in _leaves(inner, f"{path}[]")]
    return [(path, _plain(str(value)))]


def _parsed(text: str) -> Any:
    """The JSON value of a text, also of one in a code fence; None where there is none (or it is null)."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        return json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")

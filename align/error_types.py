"""What is wrong with an answer beside the right one: form, label, figures, terms, what it leaves out. Pure.

By comparison alone, so that any model and any data can be counted; what other words mean the same is not known, and
such an answer counts as `other words`, which may be right.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from align.scores import LABEL_WORDS, measure_of, score
from medsmith.records import Instruction, read_jsonl

FORMAT, LABEL, NUMBER, OMISSION, OTHER = "format", "wrong label", "wrong number", "omission", "other words"
Terms = Mapping[str, Collection[str]]
"""Names by their kind: {"drug": ["aspirin", …]}."""
KINDS = {"drug": "drug", "disease": "disease", "diseases": "disease", "symptoms": "symptom", "denied": "symptom"}
"""Keys of facts whose values name something, and what they name."""
FIGURE = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)?")


def read_terms(facts: Path) -> dict[str, tuple[str, ...]]:
    """The names in the facts of mediflow.generate (facts.jsonl), by kind."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in read_jsonl(facts):
        for key, value in _named(row["facts"]):
            found[KINDS[key]].add(value)
    return {kind: tuple(sorted(found[kind])) for kind in sorted(found)}


def answers_by_task(rows: Iterable[Instruction]) -> dict[str, frozenset[str]]:
    """The right answers of each task, in plain form: what a wrong label may be."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[row.task_type].add(_plain(_prose(row.output)))
    return {task: frozenset(answers) for task, answers in found.items()}


def find_errors(row: Instruction, text: str, answers: Collection[str], terms: Terms) -> tuple[str, ...]:
    """The kinds of error of an answer to a row; () where it is right. `answers` are the right ones of the row's task.

    A term or figure that the right answer does not have is wrong; one that is missing, with none of its kind in its
    place, is left out.
    """
    if score(row, text) >= 1:
        return ()
    if measure_of(row) == "json" and _keys(text) != _keys(row.output):
        return (FORMAT,)
    right, said = _prose(row.output), _prose(text)
    found, missing = [], False
    for name, ours, theirs in _compared(right, said, terms):
        if theirs - ours:
            found.append(name)
        elif ours - theirs:
            missing = True
    if not found and len(right.split()) <= LABEL_WORDS:
        if _plain(right) in _plain(said):
            return (FORMAT,)
        if _plain(said) in answers:
            return (LABEL,)
    if missing or (not found and _is_part(_plain(said).split(), _plain(right).split())):
        found.append(OMISSION)
    return tuple(found) or (OTHER,)


def _compared(right: str, said: str, terms: Terms) -> Iterator[tuple[str, set[str], set[str]]]:
    for kind, names in terms.items():
        pattern = _pattern(tuple(names))
        ours, theirs = ({name.casefold() for name in pattern.findall(text)} for text in (right, said))
        yield f"wrong {kind}", ours, theirs
    yield NUMBER, set(FIGURE.findall(right)), set(FIGURE.findall(said))


@lru_cache(64)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    longest = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"(?i)\b(?:{'|'.join(map(re.escape, longest))})\b")


def _is_part(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether the words are those of the whole in their order, with some left out."""
    left = iter(whole)
    return len(part) < len(whole) and all(word in left for word in part)


def _named(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _named(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, key)
    elif isinstance(value, str) and key in KINDS and value:
        yield key, value


def _keys(text: str) -> frozenset[str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return frozenset(value) if isinstance(value, dict) else frozenset()


def _prose(text: str) -> str:
    """JSON as its values, one after another."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return " ; ".join(_leaves(value))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield str(value)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .")

"""Is a rejected answer really worse than the chosen one? What can be shown without asking anybody.

An answer that differs need not be wrong: "500 mg daily" and "daily 500 mg" do, and a model that learns to prefer one
learns nothing. Where the truth is known (the facts of the patient, an answer that can only be one of a few, a part
that is missing) it can be shown; elsewhere a pair is only known to differ, and says so.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mediflow.checking.verify import verify
from medsmith.records import Instruction

ONE_ANSWER = frozenset(
    {
        "classification",
        "error_detection_and_correction",
        "multiple_choice_question_answering",
        "note_scoring",
        "textual_entailment",
    }
)
"""Task types whose right answer is one of few: whatever differs from it is wrong."""

LABEL_WORDS = 8
"""A longer answer of those tasks explains itself, and may be right in other words."""

CLAIMS_ERROR = frozenset({"factual_inaccuracy", "rule_code", "rule_drug", "rule_negation", "rule_number", "rule_side"})
"""Error types that promise a false statement. The others may be worse in manner, length or care alone."""


class Proof(NamedTuple):
    """Why the rejected answer is worse: `contradicts`, `other_answer`, `leaves_out`, or `differs` (nothing known)."""

    kind: str
    detail: str = ""


def prove(row: Instruction, rejected: str, facts: Mapping[str, Any] | None) -> Proof:
    """The strongest thing that can be shown of a rejected answer that differs from `row.output`."""
    if facts is not None:
        known = {(one.kind, one.said) for one in verify(dict(facts), _prose(row.output)).contradicted}
        new = [one for one in verify(dict(facts), _prose(rejected)).contradicted if (one.kind, one.said) not in known]
        if new:
            return Proof("contradicts", f"{new[0].kind}: {new[0].said}, truly {new[0].true}")
    if row.task_type in ONE_ANSWER and max(len(row.output.split()), len(rejected.split())) <= LABEL_WORDS:
        good, bad = set(_values(row.output)), set(_values(rejected))
        if good != bad:
            return Proof("other_answer", " / ".join(sorted(bad - good) or sorted(bad)))
    gone = _left_out(_words(_prose(row.output)), _words(_prose(rejected)))
    if gone:
        return Proof("leaves_out", " ".join(gone))
    return Proof("differs")


def _prose(text: str) -> str:
    """JSON as its values, a sentence each: `dose: 500` says no less than the prose."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return ". ".join(_leaves(value)) if isinstance(value, dict | list) else text


def _values(text: str) -> Iterator[str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    yield from (_plain(leaf) for leaf in _leaves(value))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield str(value)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().strip(" .").split())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:[.,]\d+)*", _plain(text))


def _left_out(good: list[str], bad: list[str]) -> list[str]:
    """The words that are missing where the bad answer is the good one with some left out; none where it is not."""
    if len(bad) >= len(good) or not bad:
        return []
    gone = []
    left = iter(bad)
    expected = next(left, None)
    for word in good:
        if word == expected:
            expected = next(left, None)
        else:
            gone.append(word)
    return gone if expected is None else []

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
from functools import partial
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

KEEPS_CONTENT = frozenset(
    {"ambiguity", "over_verbosity", "stylistic_issues", "grammatical_errors", "spelling_errors", "unbalanced_detail"}
)
"""Error types by which all that is said stays true, and stays."""

SHOWN_WRONG = ("contradicts", "other_answer")
"""The proofs that an answer is false, and not merely less."""

# Words of form: an answer says no less without them. Negations are none of them.
FORM = frozenset(
    re.findall(
        r"\w+",
        "a an the and or is are was were be been being am has have had do does did he she it they his her its their "
        "this that these those there who which of to in on at for with by from as also then so very just too",
    )
)
DENIALS = frozenset(("no", "not", "without", "never", "none", "neither", "nor"))


_LETTER = re.compile(r"^\s*\(?[a-h][.):]\s+", re.I)


class Proof(NamedTuple):
    """Why the rejected answer is worse: `contradicts`, `other_answer`, `leaves_out`, or `differs` (nothing known)."""

    kind: str
    detail: str = ""


def prove(row: Instruction, rejected: str, facts: Mapping[str, Any] | None) -> Proof:
    """The strongest thing that can be shown of a rejected answer that differs from `row.output`."""
    if is_formatting(row, rejected):
        return Proof("differs")
    if facts is not None:
        known = {(one.kind, one.said.casefold()) for one in verify(dict(facts), _prose(row.output)).contradicted}
        new = [
            one
            for one in verify(dict(facts), _prose(rejected)).contradicted
            if (one.kind, one.said.casefold()) not in known
        ]
        if new:
            return Proof("contradicts", f"{new[0].kind}: {new[0].said}, truly {new[0].true}")
    if row.task_type in ONE_ANSWER and max(len(row.output.split()), len(rejected.split())) <= LABEL_WORDS:
        good, bad = list(_values(row.output)), list(_values(rejected))
        # One value each, or, where they are other in number, one that is none of the good ones.
        against = [[one] for one in good] if len(good) == len(bad) else [good] * len(bad)
        other = [one for one, goods in zip(bad, against, strict=True) if all(map(partial(_is_other, one), goods))]
        # A label that says less ("B" for "B) Colchicine") leaves nothing out.
        return Proof("other_answer", " / ".join(other)) if other else Proof("differs")
    gone = _left_out(_words(_prose(row.output)), _words(_prose(rejected)))
    if gone and set(gone) & DENIALS and not set(gone) - DENIALS - FORM:
        return Proof("contradicts", f"what is denied in the good answer: {' '.join(gone)}")
    if set(gone) - FORM:
        return Proof("leaves_out", " ".join(gone))
    return Proof("differs")


def find_type(asked: str, proof: Proof) -> str:
    """The error type that was found, which is not always the one that was asked for.

    A type by which the content stands names no false answer, and none with a part gone.
    """
    if asked in KEEPS_CONTENT | {"brevity"} and proof.kind in SHOWN_WRONG:
        return "factual_inaccuracy"
    return "brevity" if asked in KEEPS_CONTENT and proof.kind == "leaves_out" else asked


def is_formatting(row: Instruction, rejected: str) -> bool:
    """Whether two answers say the same words in another dress: case, punctuation, layout, a letter before an option."""
    good, bad = (list(filter(None, map(_words, _values(text)))) for text in (row.output, rejected))
    lettered = [bool(_LETTER.match(text)) for text in (row.output, rejected)]
    if lettered[0] != lettered[1]:
        good, bad = (list(map(_words, _values(_LETTER.sub("", text)))) for text in (row.output, rejected))
    return good == bad


def _is_other(one: str, good: str) -> bool:
    """Whether a short answer says something else: not where one merely says more than the other ("3", "3/5")."""
    # "A" may be the letter of an option.
    said, wanted = (set(_words(text)) - (FORM - {"a"}) for text in (one, good))
    if bool(said & DENIALS) != bool(wanted & DENIALS):
        return True
    return bool(said) and bool(wanted) and not said <= wanted and not wanted <= said


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

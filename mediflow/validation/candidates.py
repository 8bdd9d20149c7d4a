"""What a teacher wrote → candidate questions, or the reason why not. Pure: no network, no files.

A teacher gives the right option and the wrong ones apart: nothing hangs on its counting, and where the right one
stands is ours to draw. What a passage or a table can decide is checked here; what needs a reader is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mediflow.checking.codes import as_icd10cm, find_icd10cm
from mediflow.checking.validate import check_value, parse_json
from mediflow.generation.parse import find_json
from mediflow.validation.topics import Topic
from medsmith.shingles import split_words, text_key

# A question is asked without its options, and they are shuffled: neither may lean on the other's place.
_LEANS = re.compile(
    r"\b(?:all|none|both|neither|any) of (?:the|these|them)\b|\bof the following\b|\b(?:all|none) (?:above|below)\b"
    r"|\b(?:above|below) options?\b|\boptions? [a-h1-8]\b|^\s*[a-h1-8][.)]\s",
    re.IGNORECASE,
)
_COMMON = frozenset(
    split_words(
        "a an and as at by due for from in into is not of on or other specified the to type unspecified with without "
        "acute chronic condition disease diseases disorder disorders essential primary secondary site syndrome code "
        "codes icd 10 cm which what does stand patient main diagnosis"
    )
)
"""Words that tell no two diseases apart."""
FAILED = frozenset(("no_answer", "unreadable", "too_few"))
"""The reasons of those that there is nothing to look at of."""


@dataclass(frozen=True)
class Candidate:
    """One question that can be used. `evidence` is what the teacher quotes of the context."""

    topic: str
    context: str
    question: str
    right: str
    wrong: tuple[str, ...]
    evidence: str
    reason: str

    @property
    def text(self) -> str:
        """What likeness is looked for in."""
        return f"{self.question}\n{self.context}"


@dataclass(frozen=True)
class Broken:
    """A question that cannot be used, as it was written."""

    reason: str
    detail: str
    text: str


@dataclass(frozen=True)
class Limits:
    """Options of a question, and the words of its context at least and at most."""

    options: int
    context_words: tuple[int, int]


Slot = Candidate | Broken


def reply_schema(topic: Topic, options: int) -> dict[str, Any]:
    """The JSON Schema of a reply, for endpoints that keep to one."""
    return {
        "type": "object",
        "properties": {"questions": {"type": "array", "items": _item_schema(topic, options)}},
        "required": ["questions"],
        "additionalProperties": False,
    }


def read_reply(text: str, name: str, topic: Topic, count: int, limits: Limits, cut: str = "") -> list[Slot]:
    """One entry for each question that was asked for, and for each that came beyond; `cut` as in cut_note."""
    value, reason = parse_json(find_json(text)) if text.strip() else (None, "is empty")
    items = value.get("questions") if isinstance(value, dict) else None
    if not isinstance(items, list):
        reason = reason or 'is no JSON object with a list "questions"'
        return [Broken("unreadable", f"the reply {reason}{cut}", text if n == 0 else "") for n in range(count)]
    slots = [_read_item(item, name, topic, limits) for item in items[:count]]
    slots += [Broken("surplus", f"more than {count} questions", _as_text(item)) for item in items[count:]]
    return slots + [Broken("too_few", f"{len(items)} of {count} questions", "")] * (count - len(items))


def mend(first: Sequence[Slot], repaired: Sequence[Slot]) -> list[Slot]:
    """The first reply with its broken questions replaced, in order, by the usable ones of the repair."""
    fresh = iter([slot for slot in repaired if isinstance(slot, Candidate)])
    return [next(fresh, slot) if is_asked_again(slot) else slot for slot in first]


def is_asked_again(slot: Slot) -> bool:
    """Whether a repair is to write this question anew."""
    return isinstance(slot, Broken) and slot.reason != "surplus"


def _item_schema(topic: Topic, options: int) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1}
    # The reason comes before the answer: what is written after it follows from it.
    properties: dict[str, Any] = dict.fromkeys(("context", "question", "evidence", "reason"), text)
    properties["right"] = {"enum": topic.labels} if topic.labels else text
    if not topic.labels:
        properties["wrong"] = {"type": "array", "items": text, "minItems": options - 1, "maxItems": options - 1}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _read_item(item: Any, name: str, topic: Topic, limits: Limits) -> Slot:
    # Only what is read is asked of an item: a key too many does no harm.
    wanted = _item_schema(topic, limits.options) | {"additionalProperties": True}
    problem = check_value(item, wanted)
    if problem is not None:
        return Broken("unreadable", problem, _as_text(item))
    said = {key: str(item[key]).strip() for key in ("context", "question", "evidence", "reason", "right")}
    wrong = [label for label in topic.labels if label != said["right"]] or [option.strip() for option in item["wrong"]]
    candidate = Candidate(name, wrong=tuple(wrong), **said)
    found = find_fault(candidate, topic, limits)
    return Broken(*found, _as_text(item)) if found else candidate


def find_fault(one: Candidate, topic: Topic, limits: Limits) -> tuple[str, str] | None:
    """The first (reason, detail) for which a question cannot be used; None where nothing speaks against it."""
    options = (one.right, *one.wrong)
    keys = [text_key(option) for option in options]
    if not all(options) or len(set(keys)) < len(options):
        return "equal_options", f"the options are not all different: {'; '.join(options)}"
    least, most = limits.context_words
    count = len(split_words(one.context))
    if count > most or (count < least and topic.answer not in ("label", "code")):
        return "context_length", f"the context has {count} words, asked were {least} to {most}"
    for part in (one.question, *options):
        if found := _LEANS.search(part):
            return "leans_on_options", f"{part!r} speaks of other options ({found[0].strip()!r})"
    if not has_words(one.context, one.evidence):
        return "evidence_not_in_context", f"the evidence is no part of the context: {one.evidence[:200]!r}"
    if topic.answer == "label":
        return None
    if has_words(one.question, one.right) and not any(has_words(one.question, option) for option in one.wrong):
        return "answer_in_question", f"the question names the right option {one.right!r} and none of the others"
    return _not_supported(one, topic)


def has_words(text: str, part: str) -> bool:
    """Whether the words of `part` stand in the text one after the other; a part without words stands nowhere."""
    words = f" {' '.join(split_words(part))} "
    return words.strip() != "" and words in f" {' '.join(split_words(text))} "


def _not_supported(one: Candidate, topic: Topic) -> tuple[str, str] | None:
    quoted = has_words(one.evidence, one.right)
    other = next((option for option in one.wrong if has_words(one.evidence, option)), None)
    if other is not None and not quoted:
        return "other_supported", f"the evidence names {other!r}, not the right option {one.right!r}"
    if topic.answer == "quoted" and not quoted:
        return "not_supported", f"the right option {one.right!r} does not stand in the evidence"
    return _wrong_code(one) if topic.answer == "code" else None


def _wrong_code(one: Candidate) -> tuple[str, str] | None:
    """Codes that do not exist, or a right option of which the table says less than of a wrong one."""
    options = (one.right, *one.wrong)
    for text in (one.question, *options):
        missing = [code for code in find_icd10cm(text) if as_icd10cm(code) is None]
        if missing:
            return "no_such_code", f"{missing[0]} is no ICD-10-CM code"
    likeness = [_likeness(one, option) for option in options]
    if likeness[0] == 0 and max(likeness) > 0:
        other = options[likeness.index(max(likeness))]
        return "wrong_code", f"by the table of codes {other!r} fits better than {one.right!r}"
    return None


def _likeness(one: Candidate, option: str) -> int:
    """How many words an option's code shares with what is asked about, or the option with the code that is asked for.

    Lay and clinical words differ: that nothing is shared says something only where another option shares something.
    """
    own, asked = find_icd10cm(option), find_icd10cm(one.question)
    if own:
        return len(_described(own[0]) & _telling(f"{one.question} {one.evidence}"))
    return len(_described(asked[0]) & _telling(option)) if asked else 0


def _described(code: str) -> set[str]:
    import simple_icd_10_cm

    return _telling(simple_icd_10_cm.get_description(as_icd10cm(code) or code))


def _telling(text: str) -> set[str]:
    return set(split_words(text)) - _COMMON


def _as_text(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)

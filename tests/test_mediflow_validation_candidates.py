"""A teacher's questions for the validation sets, read: what is refused and why, what a repair mends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mediflow.validation.candidates import Broken, Candidate, Limits, Slot, mend, read_reply, reply_schema
from mediflow.validation.topics import load_topics

LIMITS = Limits(4, (5, 60))
GOOD: dict[str, Any] = {
    "context": "The man of 61 takes metformin 500 mg twice daily. He is allergic to latex.",
    "question": "What is the dose of metformin?",
    "evidence": "takes metformin 500 mg twice daily",
    "reason": "The text says so.",
    "right": "500 mg",
    "wrong": ["850 mg", "1000 mg", "250 mg"],
}


def read(*items: Any, topic: str = "medication", count: int | None = None) -> list[Slot]:
    text = json.dumps({"questions": items})
    return read_reply(text, topic, load_topics()[topic], len(items) if count is None else count, LIMITS)


def reason(slot: Slot) -> str:
    return slot.reason if isinstance(slot, Broken) else "usable"


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({}, "usable"),
    ({"wrong": ["850 mg", "1000 mg"]}, "unreadable"),
    ({"right": ""}, "unreadable"),
    ({"wrong": ["850 mg", "1000 mg", "500 MG."]}, "equal_options"),
    ({"context": "metformin 500 mg", "evidence": "metformin 500 mg"}, "context_length"),
    ({"context": GOOD["context"] + " More is not known." * 20}, "context_length"),
    ({"question": "Which of the following is the dose of metformin?"}, "leans_on_options"),
    ({"wrong": ["850 mg", "1000 mg", "None of these"]}, "leans_on_options"),
    ({"wrong": ["850 mg", "1000 mg", "D) 250 mg"]}, "leans_on_options"),
    ({"evidence": "metformin 850 mg"}, "evidence_not_in_context"),
    ({"evidence": ""}, "unreadable"),
    ({"question": "How often are the 500 mg of metformin taken?"}, "answer_in_question"),
    ({"right": "850 mg", "wrong": ["500 mg", "1000 mg", "250 mg"]}, "other_supported"),
    ({"evidence": "He is allergic to latex."}, "not_supported"),
]


@pytest.mark.parametrize(("change", "found"), FAULTS)
def test_a_question_with_one_fault_is_refused_for_it(change: dict[str, Any], found: str) -> None:
    """Each planted fault is found under its own name; without one the question is usable, whatever its neighbours."""
    assert [reason(slot) for slot in read(GOOD | change, GOOD)] == [found, "usable"]


def test_codes_are_looked_up() -> None:
    """A code that does not exist, or that the table gives to another option, is refused; synonyms decide nothing."""
    item = {
        "context": "The letter names type 2 diabetes mellitus.",
        "question": "What is the ICD-10-CM code of type 2 diabetes mellitus?",
        "evidence": "The letter names type 2 diabetes mellitus.",
        "reason": "So says the table.",
    }
    sound = {"right": "E11.9", "wrong": ["I10", "J45.909", "E03.9"]}
    assert [reason(slot) for slot in read(item | sound, topic="icd10cm_definitions")] == ["usable"]
    swapped = {"right": "I10", "wrong": ["E11.9", "J45.909", "E03.9"]}
    assert [reason(slot) for slot in read(item | swapped, topic="icd10cm_definitions")] == ["wrong_code"]
    invented = {"right": "E11.9", "wrong": ["I10", "J45.909", "E03.77"]}
    assert [reason(slot) for slot in read(item | invented, topic="icd10cm_definitions")] == ["no_such_code"]
    lay = {"context": "The letter names sugar sickness.", "evidence": "The letter names sugar sickness.",
           "question": "What is its ICD-10-CM code?"}  # fmt: skip
    assert [reason(slot) for slot in read(item | lay | swapped, topic="icd10cm_definitions")] == ["usable"]


def test_labels_are_the_options() -> None:
    """A label topic takes no wrong options from the teacher, and no label of its own making."""
    item = {"context": "SENTENCE_1: He sleeps.", "question": "SENTENCE_2: He rests.", "evidence": "He sleeps",
            "reason": "Sleep is rest.", "right": "ENTAILMENT"}  # fmt: skip
    [one] = read(item, topic="clinical_nli")
    assert isinstance(one, Candidate)
    assert one.wrong == ("NEUTRAL", "CONTRADICTION")
    assert [reason(slot) for slot in read(item | {"right": "MAYBE"}, topic="clinical_nli")] == ["unreadable"]
    properties = reply_schema(load_topics()["clinical_nli"], 4)["properties"]["questions"]["items"]["properties"]
    assert "wrong" not in properties


def test_every_question_asked_for_is_accounted_for() -> None:
    """Too few, too many, no JSON and no text: as many entries as were asked for, and one more for each beyond."""
    assert [reason(slot) for slot in read(GOOD, count=3)] == ["usable", "too_few", "too_few"]
    assert [reason(slot) for slot in read(GOOD, GOOD, count=1)] == ["usable", "surplus"]
    for text in ("", "Sorry.", '{"questions": 3}', '{"questions": [{'):
        found = read_reply(text, "medication", load_topics()["medication"], 2, LIMITS)
        assert [reason(slot) for slot in found] == ["unreadable", "unreadable"]


def test_a_repair_fills_the_gaps_in_order() -> None:
    """Only broken questions are replaced, only by usable ones, and what came unasked stays out."""
    a, b = (read(GOOD | {"question": f"What is dose {name}?"})[0] for name in "ab")
    broken = [Broken("unreadable", "", str(number)) for number in range(3)]
    surplus = Broken("surplus", "", "")
    assert mend([broken[0], a, broken[1], broken[2], surplus], [broken[2], b]) == [b, a, broken[1], broken[2], surplus]

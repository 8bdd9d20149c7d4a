"""What is shown of a rejected answer: it contradicts the facts, is another answer, leaves out, or merely differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediflow.clinic.patients import draw_patients
from mediflow.pair import Config, Flawed, read_flaw
from mediflow.pairing.proof import CLAIMS_ERROR, KEEPS_CONTENT, is_formatting, prove
from medsmith.records import Instruction

PATIENT = draw_patients(0, 1)[0]
FACTS: dict[str, Any] = PATIENT.facts()
NEW = PATIENT.new_medication
GOOD = f"The patient was started on {NEW.drug} {NEW.dose} {NEW.unit} {NEW.frequency} for {NEW.disease}."
ROW = Instruction("r", "Summarize.", "the note", GOOD, "summarization", "soap_note", "plain_text", "hard")


def test_a_false_dose_contradicts_the_facts() -> None:
    """Ten times the dose is proven wrong where the patient's facts are known, and merely differs where not."""
    bad = GOOD.replace(f" {NEW.dose} ", f" {int(NEW.dose) * 10} ")
    proof = prove(ROW, bad, FACTS)
    assert proof.kind == "contradicts" and proof.detail.startswith("dose") and str(int(NEW.dose) * 10) in proof.detail
    assert prove(ROW, bad, None).kind == "differs"
    as_json = replace(ROW, output='{"summary": "' + GOOD + '"}', output_format="json")
    assert prove(as_json, '{"summary": "' + bad + '"}', FACTS).kind == "contradicts"


def test_what_the_chosen_answer_says_too_proves_nothing() -> None:
    """A contradiction that both answers hold does not make one worse than the other."""
    wrong = GOOD.replace(f" {NEW.dose} ", f" {int(NEW.dose) * 10} ")
    assert prove(replace(ROW, output=wrong), f"{wrong} Good luck!", FACTS).kind == "differs"


def test_the_same_in_other_words_only_differs() -> None:
    """A politer wording of the same facts is not proven wrong."""
    assert prove(ROW, f"Kindly note this: {GOOD}", FACTS).kind == "differs"


@pytest.mark.parametrize(
    ("good", "bad", "kind"),
    [
        ("ENTAILMENT", "NEUTRAL", "other_answer"),
        ("ENTAILMENT", "entailment.", "differs"),
        ('{"label": "ENTAILMENT"}', '{"label": "CONTRADICTION"}', "other_answer"),
        ('{"label": "ENTAILMENT"}', '{ "label":"Entailment" }', "differs"),
        ("3", "5", "other_answer"),
        ("3", "3/5", "differs"),
        ("A", "B", "other_answer"),
        ("A) Aspirin", "B) Aspirin", "other_answer"),
        ("ENTAILMENT", "not entailment", "other_answer"),
        ("Cardiology", "Cardiology department", "differs"),
        ("B) Colchicine", "B", "differs"),
        ("B) Colchicine", "Colchicine", "differs"),
        ("B) Colchicine", "C) Colchicine", "other_answer"),
        ('{"sentence": 9, "fixed": "no fever"}', '{"sentence": 11, "fixed": "no fever"}', "other_answer"),
    ],
)
def test_another_label_is_another_answer(good: str, bad: str, kind: str) -> None:
    """Where one answer is right, another is wrong; the same label in another dress is not another."""
    assert prove(replace(ROW, task_type="textual_entailment", output=good), bad, None).kind == kind


def test_a_long_answer_of_a_label_task_may_be_right_in_other_words() -> None:
    """An explanation beyond eight words is not told to be wrong by differing."""
    row = replace(
        ROW, task_type="classification", output="cardiology because of the heart failure that was found last year"
    )
    assert prove(row, "cardiology, for last year a failing heart was seen on imaging", None).kind == "differs"
    assert prove(replace(ROW, output="one"), "two", None).kind == "differs"


CLAUSES = ("the patient has gout", "she also takes colchicine", "there is no fever", "the left knee is swollen")


@given(
    clauses=st.lists(st.sampled_from(CLAUSES), min_size=1, max_size=4, unique=True),
    dress=st.sampled_from([str.upper, str.title, lambda text: text.replace(" the ", " "), lambda text: f"A) {text}!"]),
    joint=st.sampled_from([". ", ";\n", " - "]),
    asked=st.sampled_from([*sorted(CLAIMS_ERROR), *sorted(KEEPS_CONTENT), "brevity", "logical_flaws"]),
    facts=st.sampled_from([None, FACTS]),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_another_dress_is_no_error_and_types_are_what_was_found(
    clauses: list[str], dress: Callable[[str], str], joint: str, asked: str, facts: dict[str, Any] | None
) -> None:
    """The same words in other form are never a proven error; a claimed one is taken only where one is shown."""
    good = ". ".join(clauses) + "."
    row = replace(ROW, output=good)
    config = Config(out=Path("o"), curated=Path(), rules=1)
    truth = {} if facts is None else {row.id: facts}
    said = dress(joint.join(clauses))
    assert prove(row, said, facts).kind == "differs"
    flaw = read_flaw(row, asked, said, config, truth)
    if asked in CLAIMS_ERROR and (facts is not None or is_formatting(row, said)):
        assert not isinstance(flaw, Flawed)
    # A denial that is gone contradicts the good answer, whatever type was asked for.
    if "there is no fever" in clauses:
        flaw = read_flaw(row, asked, good.replace("no fever", "fever"), config, truth)
        assert isinstance(flaw, Flawed) and flaw.proof.kind == "contradicts"
        assert flaw.pair.error_type not in KEEPS_CONTENT | {"brevity"}
    if len(clauses) > 1:
        flaw = read_flaw(row, asked, ". ".join(clauses[1:]) + ".", config, truth)
        assert isinstance(flaw, Flawed) == (asked not in CLAIMS_ERROR or facts is None)
        assert not isinstance(flaw, Flawed) or flaw.pair.error_type not in KEEPS_CONTENT


def test_an_answer_with_a_part_gone_leaves_out() -> None:
    """The missing words are named; words in another order are no omission."""
    row = replace(ROW, output="fever; cough; rash")
    assert prove(row, "fever; rash", None) == ("leaves_out", "cough")
    assert prove(row, "rash; fever", None).kind == "differs"
    assert prove(replace(row, output='["rash", "b"]'), '["b"]', None) == ("leaves_out", "rash")

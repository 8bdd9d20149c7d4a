"""The clinic's patients and a user's own facts become one form."""

from __future__ import annotations

import json

import pytest

from mediflow.checking.facts import LabResult, as_facts, from_patient
from mediflow.checking.quantities import find_amounts, find_durations, find_frequencies, is_rounded
from mediflow.clinic.patients import draw_patient
from medsmith.errors import UserError


def test_a_patient_of_the_clinic_is_the_same_from_json() -> None:
    """Tuples become lists and change nothing; all that is taken, measured and denied is there."""
    patient = draw_patient(3, 5)
    facts = as_facts(json.loads(json.dumps(patient.facts())))
    assert facts == from_patient(patient.facts())
    assert [one.name for one in facts.conditions] == list(patient.diseases)
    assert len(facts.medications) == len(patient.medications) + 1 and facts.medications[-1].new
    assert facts.absent == patient.denied and facts.follow_up_days == 7 * patient.follow_up_weeks
    assert facts.vitals["blood pressure"] == f"{patient.systolic}/{patient.diastolic}"
    assert {one.finding for one in facts.imaging if not one.present} == {patient.absent_finding}


def test_levels_are_computed_where_they_are_not_given() -> None:
    """By the limits; without any there is none."""
    assert LabResult(name="a", value=9, low=1, high=8).level == "high"
    assert LabResult(name="a", value=0.5, low=1).level == "low"
    assert LabResult(name="a", value=8, low=1, high=8).level == "normal"
    assert LabResult(name="a", value=8).level == ""
    assert LabResult(name="a", value=8, high=1, flag="normal").level == "normal"


def test_users_facts_are_read_with_short_names_and_refused_with_a_reason() -> None:
    """`for` is the disease; numbers may stand for text; an unknown key or flag is named."""
    facts = as_facts({"medications": [{"drug": "x", "dose": 5, "for": "gout"}], "vitals": {"pulse": 80}})
    assert facts.medications[0].disease == "gout" and facts.vitals == {"pulse": "80"}
    with pytest.raises(UserError, match="facts of '[?]': medications.0.doze"):
        as_facts({"medications": [{"drug": "x", "doze": 5}]})
    with pytest.raises(UserError, match="labs.0.flag"):
        as_facts({"labs": [{"name": "x", "flag": "huge"}]})


def test_quantities_have_one_form() -> None:
    """Units are converted, concentrations are no doses, words are numbers, a rounded figure is the figure."""
    assert [one[0].base for one in find_amounts("1 g, 1,000 mg or 0.5mg; 5 mg/dL, 10 mg/kg, B12")] == [1000, 1000, 0.5]
    assert find_frequencies("BID, q8h, at bedtime, every morning, once a week") == [
        "twice", "three", "bedtime", "once", "weekly",
    ]  # fmt: skip
    assert find_frequencies("activities of daily living, total daily dose") == ["once"] * 0
    assert [one[0].days for one in find_durations("two weeks, a 5-day course, 3 months, 54-year-old")] == [14, 5, 90]
    assert is_rounded("8.1", 8.13) and not is_rounded("8.2", 8.13) and not is_rounded("1", 0.6)

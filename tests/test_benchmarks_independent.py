"""The independent wordings: each states what it claims, asides state nothing, a true text is true."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks.paraphrases_independent import _same, _short_days, _spell, claims, slots_of, write_independent
from benchmarks.voices_independent import VOICES
from mediflow.clinic.knowledge import load_knowledge
from mediflow.clinic.patients import Medication, draw_patient
from mediflow.clinic.plant import KINDS, plant

WORDINGS = [one for voice in VOICES.values() for options in voice.topics.values() for one in options]
ASIDES = [one for voice in VOICES.values() for one in voice.asides]


def _changed(kind: str) -> set[str]:
    """The wordings that an altered fact of this kind changes, over some patients."""
    changed = set()
    for number in range(60):
        patient = draw_patient(77, number)
        try:
            altered, planted = plant(patient, random.Random(number), kind)
        except ValueError:
            continue
        true, wrong = slots_of(patient, 0.5), slots_of(altered, 0.5)
        changed |= {one for one in WORDINGS + ASIDES if planted.apply(one.format_map(wrong)) != one.format_map(true)}
    return changed


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"diagnosis"}))
def test_an_altered_fact_changes_the_wordings_that_claim_it_and_no_others(kind: str) -> None:
    assert _changed(kind) == {one for one in WORDINGS if kind in claims(one)}


def test_an_altered_diagnosis_changes_the_wordings_that_name_it() -> None:
    assert {one for one in WORDINGS if "diagnosis" in claims(one)} <= _changed("diagnosis")


def test_every_kind_is_claimed_and_there_are_enough_wordings() -> None:
    assert set(KINDS) == {kind for one in WORDINGS for kind in claims(one)}
    assert (len(set(WORDINGS)), len(set(ASIDES))) == (len(WORDINGS), len(ASIDES))
    assert len(WORDINGS) >= 70 and len(ASIDES) >= 25
    assert not any(claims(one) for one in ASIDES)


def test_no_wording_holds_an_abbreviation_that_marks_a_diagnosis() -> None:
    marks = {disease.abbreviation for disease in load_knowledge()} | {disease.name for disease in load_knowledge()}
    assert [(mark, one) for one in WORDINGS + ASIDES for mark in marks if mark in one] == []


def test_other_ways_to_say_a_number_are_exact() -> None:
    assert [_spell(days) for days in (6, 7, 14, 21, 84)] == [
        "6 days",
        "a week",
        "a fortnight",
        "three weeks",
        "twelve weeks",
    ]
    assert [_short_days(days) for days in (6, 7, 21)] == ["6/7", "1/52", "3/52"]
    doses = [("0.4", "mg"), ("500", "mg"), ("50", "mg"), ("75", "mcg")]
    said = [_same(Medication("x", dose, unit, "daily", "gout")) for dose, unit in doses]
    assert said == ["400 micrograms", "0.5 g", "50 mg", "75 mcg"]


def test_what_is_excluded_or_a_relatives_is_neither_had_nor_seen() -> None:
    for number in range(300):
        patient = draw_patient(78, number)
        slots = slots_of(patient, number / 300)
        assert not {slots["excluded"], slots["kin"]} & {*patient.diseases, patient.main.finding}


def test_a_text_is_the_patients_and_repeats() -> None:
    patient = draw_patient(79, 4)
    texts = [write_independent(patient, random.Random(n)) for n in range(200)]
    assert texts == [write_independent(patient, random.Random(n)) for n in range(200)]
    older = [write_independent(replace(patient, age=patient.age + 1), random.Random(n)) for n in range(200)]
    assert 20 < sum(a != b for a, b in zip(texts, older, strict=True)) < 120

"""One fact is altered and no other, and the simulated teacher logs what it altered."""

from __future__ import annotations

import json
import random
from dataclasses import asdict

import pytest

from mediflow.clinic.patients import draw_patient
from mediflow.clinic.plant import KINDS, plant
from mediflow.clinic.reply import reply
from mediflow.clinic.wrong import answer_wrongly

FIELDS = {
    "dose": {"medications", "new_medication"}, "unit": {"medications", "new_medication"},
    "frequency": {"medications", "new_medication"}, "drug": {"medications", "new_medication"},
    "lab_value": {"lab_value"}, "lab_flag": {"lab_value"}, "negation": {"symptoms", "denied"}, "side": {"side"},
    "size": {"size"}, "diagnosis": {"diseases"}, "code": set(), "age": {"age"}, "duration": {"days"},
    "vital": {"temperature", "pulse", "systolic", "diastolic"}, "allergy": {"allergy"},
    "follow_up": {"follow_up_weeks"},
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_one_fact_changes_and_is_told(kind: str) -> None:
    """Over 40 patients only fields of the kind change, and what is said differs from what is true."""
    seen = 0
    for number in range(40):
        patient = draw_patient(8, number)
        try:
            altered, planted = plant(patient, random.Random(number), kind)
        except ValueError:
            continue
        seen += 1
        before, after = asdict(patient), asdict(altered)
        changed = {name for name in before if before[name] != after[name]}
        assert changed <= FIELDS[kind] and (changed or planted.swap)
        assert planted.kind == kind and planted.true != planted.said
    assert seen >= 10 and set(FIELDS) == set(KINDS)


def test_kinds_are_drawn_evenly_and_by_seed() -> None:
    """Every kind comes up; the same seed, the same fact."""
    patient = draw_patient(8, 1)
    kinds = [plant(patient, random.Random(seed))[1].kind for seed in range(300)]
    assert len(set(kinds)) >= 13 and max(kinds.count(kind) for kind in set(kinds)) < 60
    assert plant(patient, random.Random(3)) == plant(patient, random.Random(3))
    with pytest.raises(KeyError):
        plant(patient, random.Random(0), "mood")


@pytest.mark.parametrize("form", ["tagged", "json"])
def test_the_teacher_writes_the_altered_fact_and_nothing_else_changes(form: str) -> None:
    """Examples that are not in the log are word for word those of the honest teacher; those that are differ."""
    facts = [json.loads(json.dumps(draw_patient(6, number).facts())) for number in range(3)]
    request = {
        "kind": "generate", "task_type": "summarization", "document_type": "discharge_summary",
        "section": "whole document", "output_format": "plain_text", "difficulty": "hard", "examples": 3,
        "instructions": 2, "reply": form, "facts": facts,
    }  # fmt: skip
    honest = reply(request, 5)
    wrong, rows = answer_wrongly(reply, request, 5, 0.5, random.Random(1))
    assert 0 < len(rows) < 6 and all(row["stated"] for row in rows)
    if form == "json":
        one, other = ([e for g in json.loads(text)["instructions"] for e in g["examples"]] for text in (honest, wrong))
    else:
        one, other = (text.split("<example>")[1:] for text in (honest, wrong))
    assert [slot for slot in range(6) if one[slot] != other[slot]] == [row["example"] for row in rows]
    assert all(row["facts_id"] == facts[row["example"] % 3]["id"] and row["kind"] in KINDS for row in rows)
    assert answer_wrongly(reply, request, 5, 0.0, random.Random(1)) == (honest, [])

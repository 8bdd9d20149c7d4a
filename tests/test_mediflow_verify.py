"""Statements that contradict a patient's facts are found; what is silent, asked, feared or another's is none."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from typing import Any

import pytest

from mediflow.checking.verify import KINDS as FOUND_KINDS
from mediflow.checking.verify import PARTS, verify, verify_example
from mediflow.clinic.answers import ask
from mediflow.clinic.documents import write_note
from mediflow.clinic.patients import Patient, draw_patient
from mediflow.clinic.plant import KINDS, plant
from mediflow.taxonomy import WHOLE, TaskType, load_taxonomy
from medsmith.errors import UserError

FACTS: dict[str, Any] = {
    "id": "p1",
    "age": 54,
    "sex": "woman",
    "conditions": [
        {"name": "type 2 diabetes mellitus", "code": "E11.9", "aliases": ["T2DM"]},
        {"name": "asthma", "code": "J45.909"},
    ],
    "present": ["polyuria", "night sweats"],
    "absent": ["fever", "chest pain"],
    "duration_days": 14,
    "medications": [
        {"drug": "metformin", "dose": 1, "unit": "g", "frequency": "twice daily", "for": "type 2 diabetes mellitus"},
        {"drug": "salbutamol", "dose": 100, "unit": "mcg", "frequency": "every eight hours", "for": "asthma"},
    ],
    "labs": [{"name": "HbA1c", "value": 8.13, "unit": "%", "low": 4, "high": 5.6}],
    "vitals": {"temperature": "37.5", "pulse": "88", "blood pressure": "140/90"},
    "imaging": [
        {"finding": "pleural effusion", "side": "left", "size": "small", "region": "chest"},
        {"finding": "pneumothorax", "present": False},
        {"finding": "lung nodule", "side": "right", "size": "12 mm", "region": "chest"},
    ],
    "allergies": ["penicillin"],
    "social": {"tobacco": "never", "alcohol": "past", "living": "alone"},
    "dates": {"admission": "2024-05-01"},
    "follow_up_days": 21,
    "complete": ["conditions", "medications", "allergies", "codes"],
}

TRUE = """
She takes metformin 1 g twice daily for T2DM. | Metformin 1000 mg BID. | Metformin 1,000 milligrams every 12 hours.
She takes 1 g of metformin b.i.d. and salbutamol 0.1 mg three times a day. | Salbutamol 100 µg q8h for asthma.
HbA1c was 8.1 % (normal 4 to 5.6). | HbA1c 8.13%, reference range 4-5.6. | The HbA1c is elevated.
A high HbA1c was found.
The HbA1c was checked 3 months ago. | HbA1c, last seen 2 weeks ago, is not normal. | The goal is an HbA1c below 7 %.
A 54-year-old woman. | Her 12-year-old son has fever. | Aged 54. | At the age of 20 she smoked.
Her father died at 60 years of age.
Denies fever, chest pain, or cough. | No fever but polyuria. | No evidence of pneumothorax. | Fever is absent.
Fever: no.
Fever and chest pain are denied. | Without fever. | Chest pain was not reported. | She was free of fever.
Is there any fever?
Return if you have fever. | Risk of pneumothorax was explained. | Her mother has asthma and gout. | Rule out gout.
Polyuria has resolved.
No increase of polyuria. | Possible gout was considered. | There is a small left pleural effusion.
The left-sided effusion is small.
She left the hospital with a small pleural effusion on the left. | A pleural effusion, 12 mm lung nodule on the right.
Two weeks of polyuria. | Polyuria for 14 days. | A 14-day history of polyuria.
Follow-up in 3 weeks. | She will be seen again in 21 days. | The sutures are removed in 5 days.
She was seen 4 days ago.
Type 2 diabetes mellitus (E11.9). | Code J45.909. | Vitamin B12 and T12 were normal. | The diagnosis is asthma.
BP 140/90, pulse 88, temperature 37.5 C. | Temp 99.5 F. | Goal blood pressure is below 130/80.
140 over 90 blood pressure.
Allergic to penicillin. | Penicillin allergy. | She has never smoked. | She used alcohol in the past.
She lives alone.
Avoid alcohol. | The plan is no alcohol. | Admission was on May 1, 2024. | Surgery was on 2024-06-01.
Admission: 1 May 2024.
Stop ibuprofen. | Metformin may cause nausea. | If metformin is not tolerated, give glipizide 5 mg daily for T2DM.
Lisinopril is often used for hypertension. | She asked about aspirin. | Takes metformin tablets, total 2 g.
"""
SHORTHAND = """
F/u 3 wks. | RTC 3w. | Appt in 21 d. | Follow-up CT in 6 months. | Return to work in 2 weeks. | Repeat labs in 3 months.
Repeat HbA1c in 3 months and follow up in 3 weeks. | Sutures out 10 d, f/u 3 wks. | Return to school in 5 days.
All: PCN. | Allergies: PCN (hives) | NKDA except penicillin. | Her sister is allergic to latex. | PCN-allergic.
Latex may cause an allergic reaction. | Latex causes allergic reactions in some people. | Penicillin gave her hives.
54 y/o F p/w polyuria x 14d. | 54F w/ polyuria. | Temp 99F. | FHx: mother 61F with gout. | Her dad, who is 80, is well.
A woman of 54. | Daughter, 14 y/o, is well. | Appendectomy at age 19. | She lost 20 lbs. | An 18 F catheter. | Age: 54.
PMHx: asthma. | No h/o gout. | FHx of gout. | r/o gout. | DDx: gout, lupus. | Dx T2DM (E11.9). | Denies h/o gout.
A1c 8.1 (H). | HbA1c 8.1 H. | HbA1c 8.13 ↑, otherwise fine. | HbA1c was not WNL. | Goal A1c <7 (L).
Vitamin K 10 mg. | T 37.5, P 88, BP 140/90. | T37.5 P88 BP140/90 | p 0.05 was reached. | The P wave was 80 ms.
Goal BP < 130/80. | T12 fracture. | L-sided pleural effusion. | 2 L of fluid, pleural effusion.
Small L pleural effusion.
R lung nodule, 12 mm. | Denies: fever, chest pain. | w/o fever. | ROS (-) for fever. | Neg for pneumothorax.
Pertinent negatives: fever.
"""
"""True, or about another person, time or thing, as clinicians note it."""
SHORTHAND_FALSE = {
    "follow_up": "F/u 2 wks. | RTC 5w. | See again in 2 weeks. | Appt with endocrinology in 14 d. | "
    "Next visit: 7 days.",
    "allergy": "All: latex. | Allergic: latex. | Latex causes an allergic reaction. | NKDA. | NKDA except latex. | "
    "Anaphylaxis to latex. | Allergies: ASA",
    "age": "45 y/o here today. | 45F with asthma. | A woman of 64 was seen. | Age/sex: 45F",
    "diagnosis": "PMH: gout. | Pt w/ h/o gout. | Past illnesses: gout. | Dx gout. | She was told that it is gout. | "
    "Problem list\n# Gout",
    "lab_flag": "HbA1c 8.1 (L). | HbA1c 8.1 % L. | Her HbA1c turned out normal (8.1 %). | HbA1c 8.13 ↓ | A1c WNL.",
    "lab_value": "A1c 6.2. | Her HbA1c turned out elevated (9.4 %).",
    "vital": "T 39.1, BP 140/90. | P 120, BP 140/90. | T37.5 P99 | BP120/70",
    "side": "R-sided pleural effusion. | Small R pleural effusion.",
    "duration": "Polyuria x 5d. | 5 wks of polyuria.",
    "negation": "w/o polyuria. | ROS (-) for polyuria. | Neg for polyuria. | Pertinent negatives: polyuria.",
}
FALSE = {
    "dose": "Metformin 500 mg twice daily. | She takes 850 mg of metformin. | Salbutamol 200 mcg q8h.",
    "unit": "Metformin 1 mg twice daily. | Salbutamol 100 mg for asthma. | HbA1c was 8.13 mmol/mol.",
    "frequency": "Metformin 1 g at bedtime. | Metformin 1 g qd for T2DM. | Salbutamol 100 mcg twice a day.",
    "drug": "Glipizide was started for T2DM. | She takes lisinopril 10 mg daily. | Metformin 1 g for asthma. | "
    "T2DM is treated "
    "with glipizide. | She takes no regular medication.",
    "lab_value": "HbA1c was 9.2 % (normal 4 to 5.6). | HbA1c: 6.1%. | The HbA1c came back at 7.9 %.",
    "lab_flag": "The HbA1c is normal. | HbA1c was within normal limits. | A low HbA1c. | The HbA1c is not elevated.",
    "negation": "Denies polyuria. | She reports fever. | No pleural effusion. | A pneumothorax is seen. | "
    "Polyuria and cough are "
    "denied. | There is no evidence of night sweats. | Positive for chest pain. | She denies cough but has fever. | "
    "No asthma.",
    "side": "A small pleural effusion on the right. | Right-sided pleural effusion. | A lung nodule in the left lung.",
    "size": "A large left pleural effusion. | The pleural effusion is moderate. | A lung nodule of 2 cm.",
    "diagnosis": "The diagnosis is gout. | Past medical history: migraine. | She was diagnosed with epilepsy. | "
    "Known MIG.",
    "code": "Asthma (J45.20). | ICD-10 code I10. | Type 2 diabetes mellitus, E10.9.",
    "age": "A 45-year-old woman. | Age: 64. | She is 53 years old.",
    "sex": "A 54-year-old man.",
    "duration": "Polyuria for 5 days. | Three weeks of polyuria. | A 3-day history of night sweats.",
    "vital": "Pulse is 98 per minute. | BP 150/90. | Temperature is 39.1 C. | Temp 102.2 F.",
    "allergy": "Allergic to latex. | No known drug allergies. | Latex allergy. | She is not allergic to penicillin.",
    "social": "She currently smokes. | Never used alcohol. | She lives with family.",
    "date": "Admission was on May 2, 2024. | Admission date: 2024-05-11.",
    "follow_up": "Follow-up in 2 weeks. | She will be seen again in 10 days. | Return to clinic in one week.",
}


@pytest.mark.parametrize("text", [one.strip() for line in TRUE.strip().split("\n") for one in line.split(" | ")])
def test_true_open_and_foreign_statements_are_no_contradiction(text: str) -> None:
    """Each in other words, or about something else."""
    assert verify(FACTS, text).contradicted == []


@pytest.mark.parametrize(("kind", "text"), [(kind, one) for kind in FALSE for one in FALSE[kind].split(" | ")])
def test_contradictions_are_found_and_named(kind: str, text: str) -> None:
    """One, of the right kind, with its sentence."""
    found = verify(FACTS, f"Seen today. {text} Thank you.").contradicted
    assert [one.kind for one in found] == [kind]
    assert found[0].where == text and found[0].said and found[0].true


@pytest.mark.parametrize("text", [one.strip() for line in SHORTHAND.strip().split("\n") for one in line.split(" | ")])
def test_true_shorthand_is_no_contradiction(text: str) -> None:
    """Negative controls of each reading of an abbreviation."""
    assert verify(FACTS, text).contradicted == []


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, one) for kind in SHORTHAND_FALSE for one in SHORTHAND_FALSE[kind].split(" | ")]
)
def test_contradictions_in_shorthand_are_found(kind: str, text: str) -> None:
    """At least one of the kind, and none of another."""
    assert {one.kind for one in verify(FACTS, f"Seen today.\n{text}\nThank you.").contradicted} == {kind}


def test_no_drug_allergies_say_nothing_of_latex() -> None:
    """A patient who is allergic to latex may well have no known drug allergies, but not none at all."""
    latex = FACTS | {"allergies": ["latex"]}
    assert verify(latex, "NKDA. No known drug allergies.").contradicted == []
    assert verify(latex, "No known allergies.").contradicted[0].kind == "allergy"


def test_every_kind_is_tested() -> None:
    """None of the rules is without a planted fault."""
    assert set(FALSE) == set(FOUND_KINDS)


def test_statements_are_counted_and_what_is_unknown_is_not() -> None:
    """Three comparable statements; a text of other things has none, and no facts contradict nothing."""
    assert verify(FACTS, "Metformin 1 g twice daily. She denies fever.").checked == 3
    assert verify(FACTS, "The weather was fine. Calcium was 2.2 mmol/L.").checked == 0
    assert verify({"id": "nobody"}, "A 30-year-old man with gout takes aspirin 100 mg daily.").checked == 0


def test_lists_that_are_not_complete_are_open() -> None:
    """Another drug, disease or allergy may also be true, but another drug for the same disease is not."""
    open_facts = FACTS | {"complete": []}
    for text in (
        "She takes lisinopril 10 mg daily.",
        "The diagnosis is gout.",
        "Allergic to latex.",
        "ICD-10 code I10.",
    ):
        assert verify(open_facts, text).contradicted == []
        assert verify(FACTS, text).contradicted != []
    assert verify(open_facts, "Glipizide was started for T2DM.").contradicted[0].kind == "drug"


def test_json_is_read_as_sentences() -> None:
    """Drug and disease of one object belong together."""
    relation = {"relations": [{"drug": "metformin", "disease": "asthma"}]}
    assert verify(FACTS, json.dumps(relation)).contradicted[0].kind == "drug"
    dose = {"medications": [{"drug": "metformin", "dose": "500 mg"}, {"drug": "salbutamol", "dose": "100 mcg"}]}
    assert [one.said for one in verify(FACTS, json.dumps(dose)).contradicted] == ["metformin 500 mg"]


def test_facts_that_are_none_are_the_users_mistake() -> None:
    """Named with the patient and the key."""
    with pytest.raises(UserError, match="facts of 'p9': ages: Extra inputs"):
        verify({"id": "p9", "ages": 3}, "text")
    with pytest.raises(UserError, match="no part 'inputs'"):
        verify_example(("inputs",), FACTS, "", "")


def test_parts_leave_out_what_states_nothing() -> None:
    """Second sentences, options, questions, and the sentence that the answer calls wrong."""
    nli = "SENTENCE_1: Polyuria.\nSENTENCE_2: She denies polyuria."
    assert verify_example(("document",), FACTS, nli, "CONTRADICTION").contradicted == []
    assert verify_example(("input",), FACTS, nli, "").contradicted != []
    error = "0 She reports polyuria.\n1 She takes glipizide for T2DM."
    assert verify_example(("other_sentences",), FACTS, error, '{"sentence": 1}').contradicted == []
    assert verify_example(("other_sentences",), FACTS, error, "-1").contradicted != []
    asked = "Text.\nQUESTION: On which side is the pleural effusion?"
    assert verify_example(("document", "answered"), FACTS, asked, '{"answer": "left"}').contradicted == []
    assert verify_example(("document", "answered"), FACTS, asked, "right").contradicted[0].kind == "side"


def test_no_document_of_the_clinic_contradicts_its_patient() -> None:
    """Every document type about 12 patients, thousands of statements, not one accused."""
    taxonomy = load_taxonomy()
    checked = 0
    for number in range(12):
        patient = draw_patient(71, number)
        for document in taxonomy.documents.values():
            note = write_note(document, WHOLE, patient, random.Random(number))
            verified = verify(patient.facts(), note.text)
            assert verified.contradicted == []
            checked += verified.checked
    assert len(taxonomy.documents) == 36 and checked > 4000


def example(task: TaskType, document: str, section: str, patient: Patient, number: int) -> tuple[str, str]:
    """Input and output, the draws of which are those of the number."""
    draw = random.Random(number)
    note = write_note(load_taxonomy().documents[document], section, patient, draw, task.needs)
    exchange = ask(task.name, note, patient, draw)
    return exchange.input, exchange.output(draw.choice(("json", "plain_text")))


def test_no_example_of_the_clinic_contradicts_its_patient_and_planted_facts_are_found() -> None:
    """All tasks on all inputs, in both formats; of what is altered and stated, 95 in 100 are found."""
    taxonomy = load_taxonomy()
    inputs, tasks = taxonomy.inputs(), list(taxonomy.tasks.values())
    planted, found = Counter[str](), Counter[str]()
    for number in range(420):
        patient, rng = draw_patient(72, number), random.Random(number)
        task, (document, section) = tasks[number % 14], inputs[number % 98]
        true = example(task, document, section, patient, number)
        assert verify_example(task.asserts, patient.facts(), *true).contradicted == []
        altered, what = plant(patient, rng)
        wrong = tuple(what.apply(text) for text in example(task, document, section, altered, number))
        stated = "\n".join(PARTS[part](*wrong) for part in task.asserts)
        if stated == "\n".join(PARTS[part](*true) for part in task.asserts):
            continue
        if what.marks and not any(mark in stated for mark in what.marks):
            continue
        planted[what.kind] += 1
        found[what.kind] += bool(verify_example(task.asserts, patient.facts(), *wrong).contradicted)
    assert planted.total() > 120 and len(planted) > 10 and set(planted) <= set(KINDS)
    assert found.total() >= 0.95 * planted.total(), planted - found


def test_long_texts_and_odd_characters_cost_little() -> None:
    """Nothing grows faster than the text; what changes its length in small letters keeps its places."""
    odd = "İ denies polyuria. " + "no " * 3000 + "(" * 2000 + "-" * 2000
    before = time.process_time()
    assert verify(FACTS, odd).contradicted[0].kind == "negation"
    verify(FACTS, "Metformin 1 g twice daily, " * 400)
    assert time.process_time() - before < 2

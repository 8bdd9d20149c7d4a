"""Miniature twins of further CLUE+ benchmarks, in their published file formats, with known truth.

Every text follows from a patient's state and a seed of its own: what is added here changes nothing else of the clinic.
The clinic's training documents are made of the same sentences. So here each stands behind a label, or between short
turns, that those documents do not have: else one training row in five would hold sixteen words of a test item in a row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mediflow.clinic.documents import write_note
from mediflow.clinic.exam import free_rows
from mediflow.clinic.files import put
from mediflow.clinic.knowledge import find_disease, load_knowledge
from mediflow.clinic.patients import ALLERGIES, Patient
from mediflow.clinic.statements import Statement, dose
from mediflow.clinic.twins_social import sentence_rows, social_rows
from mediflow.taxonomy import WHOLE, DocumentType, load_taxonomy

RECORDS = 12
"""Patients of LongHealth's twin: each of their questions is asked three times, with many documents."""
DOCUMENTS = tuple(
    DocumentType(name.lower(), name, False, {name: tuple(topics.split())})
    for name, topics in (
        ("Admission", "presentation symptoms denials allergy"),
        ("Nursing", "vitals general"),
        ("Findings", "labs imaging diagnosis"),
        ("Plan", "treatment follow_up"),
    )
)
LETTER = DocumentType(
    "letter", "Letter", False,
    {"Letter": ("presentation", "symptoms", "history", "medications", "labs", "imaging", "diagnosis", "treatment",
                "vitals", "follow_up")},
)  # fmt: skip
LINES = {
    "presentation": "Reason for coming", "symptom": "Reported too", "denial": "Not present", "history": "Background",
    "medication": "Taken at home", "allergy": "Not tolerated", "work": "Occupation", "living": "Home",
    "substance": "Habits", "vital": "Measured", "general": "Impression", "lab": "From the laboratory",
    "imaging": "Pictures", "imaging_normal": "Pictures", "imaging_absent": "Looked for", "diagnosis": "Conclusion",
    "treatment": "Begun", "follow_up": "Next visit",
}  # fmt: skip
"""What stands before a sentence of each kind, in letters and notes."""
ACI_FILES = {"train": "train", "dev": "valid", "test": "clinicalnlp_taskB_test1"}
ACI_SECTIONS = {
    "CHIEF COMPLAINT": ("presentation",),
    "HISTORY OF PRESENT ILLNESS": ("symptom", "denial", "history", "medication", "allergy", "work", "living",
                                   "substance"),
    "PHYSICAL EXAM": ("vital",),
    "RESULTS": ("lab", "imaging", "imaging_normal", "imaging_absent"),
    "ASSESSMENT AND PLAN": ("diagnosis", "treatment", "follow_up"),
}  # fmt: skip
ACI_ASKED = {
    "symptom": "what else have you noticed", "denial": "anything of this kind", "medication": "what do you take",
    "allergy": "anything that you cannot take", "work": "what about work", "living": "and at home",
    "substance": "let me ask about habits",
}  # fmt: skip
"""What the doctor says before the patient states something; where there is nothing, it is the doctor who states it."""
MTS_FILES = {"train": "TrainingSet", "dev": "ValidationSet", "test": "TestSet-1-MEDIQA-Chat-2023"}
MTS_SECTIONS = {
    "GENHX": ("presentation", "symptom", "denial"), "FAM/SOCHX": ("work", "living", "substance"),
    "MEDICATIONS": ("medication",), "ALLERGY": ("allergy",), "EXAM": ("vital",), "LABS": ("lab",),
    "PLAN": ("treatment", "follow_up"),
}  # fmt: skip


class Asked(NamedTuple):
    """A question on a record: the kind of statement that answers it, its right answer, and what wrong ones are of."""

    kind: str
    text: str
    right: str
    others: Sequence[str]


def _asked(p: Patient) -> list[Asked]:
    drugs = sorted({drug.name for disease in load_knowledge() for drug in disease.drugs})
    weeks = [f"in {n} weeks" if n > 1 else "in 1 week" for n in range(1, 13)]
    return [
        Asked("allergy", "What is the patient allergic to?", p.allergy, ALLERGIES),
        Asked("presentation", "For how many days had the patient been ill?", str(p.days), _numbers(2, 22)),
        Asked("vital", "What was the pulse?", str(p.pulse), _numbers(52, 129)),
        Asked("treatment", "Which drug was begun?", p.new_medication.drug, drugs),
        Asked("follow_up", "When is the follow-up?", weeks[p.follow_up_weeks - 1], weeks),
    ]


def _numbers(low: int, high: int) -> list[str]:
    return [str(number) for number in range(low, high)]


def longhealth_records(patients: Sequence[Patient], seed: str) -> dict[str, Any]:
    """LongHealth: of each patient four documents and three questions, with where the answer stands."""
    return {patient.id: _record(patient, random.Random(f"longhealth {seed} {patient.id}")) for patient in patients}


def _record(patient: Patient, rng: random.Random) -> dict[str, Any]:
    notes = [write_note(document, WHOLE, patient, rng).statements for document in DOCUMENTS]
    heads = [f"{document.title} of patient {patient.id}" for document in DOCUMENTS]
    texts = {f"text_{n}": f"{head}\n{_lines(note)}" for n, (head, note) in enumerate(zip(heads, notes, strict=True))}
    questions = []
    for number, asked in enumerate(rng.sample(_asked(patient), 3)):
        options = [*rng.sample([value for value in asked.others if value != asked.right], 4), asked.right]
        rng.shuffle(options)
        questions.append(
            {
                "No": number,
                "question": f"Patient {patient.id}: {asked.text}",
                **{f"answer_{letter}": option for letter, option in zip("abcde", options, strict=True)},
                "correct": asked.right,
                "answer_location": {
                    f"text_{n}": place
                    for n, note in enumerate(notes)
                    if (place := _location(note, asked.kind, texts[f"text_{n}"]))
                },
            }
        )
    return {"name": patient.id, "texts": texts, "questions": questions}


def _location(note: Sequence[Statement], kind: str, text: str) -> dict[str, list[float]]:
    """Where statements of a kind stand, as shares of the document's length; empty where there are none."""
    spans = [(text.index(s.text), text.index(s.text) + len(s.text)) for s in note if s.kind == kind]
    if not spans:
        return {}
    return {side: [round(span[n] / len(text), 4) for span in spans] for n, side in enumerate(("start", "end"))}


def _lines(statements: Sequence[Statement]) -> str:
    """A sentence a line, each behind its label."""
    return "\n".join(f"{LINES[s.kind]}: {s.text}" for s in statements)


def medisumqa_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, str]]:
    """MeDiSumQA: two lay questions on the letter of every other patient, so as many rows as patients."""
    rows = []
    for patient in patients[: (len(patients) + 1) // 2]:
        rng = random.Random(f"medisumqa {seed} {patient.id}")
        letter = _lines(write_note(LETTER, WHOLE, patient, rng).statements)
        m, weeks = patient.new_medication, "week" if patient.follow_up_weeks == 1 else "weeks"
        pairs = (
            ("Why did I have to come?", f"You came because of {patient.days} days of {patient.symptoms[0]}."),
            ("What is wrong with me?", f"You have {patient.main.name}."),
            ("Which new medicine do I take?", f"You take {dose(m.drug, m.dose, m.unit, m.frequency)}."),
            ("When must I be seen again?", f"You will be seen in {patient.follow_up_weeks} {weeks}."),
        )
        for asked, answer in rng.sample(pairs, 2):
            rows.append({"note_id": patient.id, "discharge_summary": letter, "Question": asked, "Answer": answer})
    return rows[: len(patients)]


def medisumcode_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, Any]]:
    """MeDiSumCode: a letter and the codes of all its diagnoses, written without their dots as MIMIC-IV has them."""
    rows = []
    for patient in patients:
        rng = random.Random(f"medisumcode {seed} {patient.id}")
        known = [find_disease(name) for name in patient.diseases]
        codes = [{"code": d.code.replace(".", ""), "description": d.name} for d in known]
        text = _lines(write_note(LETTER, WHOLE, patient, rng).statements)
        rows.append({"hadm_id": patient.id, "text": text, "icd_codes": codes})
    return rows


def aci_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, str]]:
    """ACI-Bench: a visit's conversation and its note, which states the same facts in five sections."""
    talk = load_taxonomy().documents["doctor_patient_conversation"]
    rows = []
    for patient in patients:
        rng = random.Random(f"aci_bench {seed} {patient.id}")
        said = write_note(talk, WHOLE, patient, rng)
        turns = said.text.splitlines()
        talked = "\n".join(_turns(s, turn, rng) for s, turn in zip(said.statements, turns, strict=True))
        parts = ((title, _lines(said.of(*kinds))) for title, kinds in ACI_SECTIONS.items())
        note = "\n\n".join(f"{title}\n\n{text}" for title, text in parts)
        rows.append({"dataset": "simulated", "encounter_id": patient.id, "dialogue": talked, "note": note})
    return rows


def mts_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, str]]:
    """MTS-Dialog: the part of a visit that one section is about, and that section; the headers take turns."""
    talk = load_taxonomy().documents["doctor_patient_conversation"]
    rows = []
    for place, patient in enumerate(patients):
        rng = random.Random(f"mts_dialog {seed} {patient.id}")
        said = write_note(talk, WHOLE, patient, rng)
        there = [header for header, kinds in MTS_SECTIONS.items() if said.of(*kinds)]
        header = there[place % len(there)]
        kinds = MTS_SECTIONS[header]
        turns = [pair for pair in zip(said.statements, said.text.splitlines(), strict=True) if pair[0].kind in kinds]
        talked = "\n".join(_turns(statement, turn, rng) for statement, turn in turns)
        for mark, name in (("[doctor]", "Doctor:"), ("[patient]", "Patient:")):
            talked = talked.replace(mark, name)
        text = _lines(said.of(*kinds))
        rows.append({"ID": str(place), "section_header": header, "section_text": text, "dialogue": talked})
    return rows


def _turns(statement: Statement, turn: str, rng: random.Random) -> str:
    """One thing of a visit, in two turns."""
    if turn.startswith("[patient]"):
        return f"[doctor] {ACI_ASKED[statement.kind]}\n{turn}"
    return f"{turn}\n[patient] {rng.choice(('okay', 'i see', 'all right', 'mm-hmm'))}"


def write_twins(folder: Path, patients: Mapping[str, Sequence[Patient]], seed: int) -> dict[str, int]:
    """Write the files below `folder`; `patients` by split (train, dev, test). Returns rows by file."""
    counts: dict[str, int] = {}
    splits: dict[str, Callable[[Sequence[Patient], str], list[dict[str, Any]]]] = {
        "aci_bench/{aci}.csv": aci_rows,
        "mts_dialog/MTS-Dialog-{mts}.csv": mts_rows,
        "sdoh/{split}.jsonl": social_rows,
    }
    for split, drawn in patients.items():
        for name, rows_of in splits.items():
            path = name.format(split=split, aci=ACI_FILES[split], mts=MTS_FILES[split])
            put(counts, folder, path, rows_of(drawn, f"{seed} {split}"))
    test, tag = patients["test"], f"{seed} test"
    put(counts, folder, "medisumqa/medisumqa.json", medisumqa_rows(test, tag))
    put(counts, folder, "medisumcode/medisumcode.jsonl", medisumcode_rows(test, tag))
    free = free_rows("test", "exam", tag, 4 * len(test))
    put(counts, folder, "medication_qa/MedInfo2019-QA-Medications.xlsx", free)
    if "train" in patients:
        put(counts, folder, "sdoh_sentences/Iteration_1.csv", sentence_rows(patients["train"], f"{seed} train"))
    put(counts, folder, "sdoh_sentences/Partial_Iteration_2_annotated.csv", sentence_rows(test, tag))
    records = longhealth_records(test[:RECORDS], tag)
    put(counts, folder, "longhealth/benchmark_v5.json", records)
    counts["longhealth/benchmark_v5.json"] = sum(len(record["questions"]) for record in records.values())
    return counts

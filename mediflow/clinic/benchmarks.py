"""Miniature twins of public benchmarks, in their published file formats, with known truth."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mediflow.clinic.answers import (
    LABELS,
    hypothesis,
    numbered,
    plant_error,
    question,
)
from mediflow.clinic.documents import Note, write_note
from mediflow.clinic.exam import ASKED, validation_question
from mediflow.clinic.files import put
from mediflow.clinic.knowledge import use_world
from mediflow.clinic.lessons import LessonSet, page_facts, write_lessons
from mediflow.clinic.patients import SIDES, SIZES, Patient, draw_patients
from mediflow.clinic.puzzles import FAMILIES, words
from mediflow.clinic.relations import page, values_of
from mediflow.clinic.relations import question as question_on
from mediflow.clinic.twins import write_twins
from mediflow.clinic.twins_neighbours import write_neighbours
from mediflow.clinic.wording import CHOICE, RADIOLOGY
from mediflow.taxonomy import WHOLE, DocumentType, load_taxonomy

MEDEC_COLUMNS = ("Text ID", "Text", "Sentences", "Error Flag", "Error Type", "Error Sentence ID", "Error Sentence",
                 "Corrected Sentence", "Corrected Text")  # fmt: skip
MEDEC_FILES = {"train": "TrainingSet", "dev": "ValidationSet", "test": "TestSet"}
MEQSUM_FILE = "MeQSum_ACL2019_BenAbacha_Demner-Fushman.xlsx"
VISIT = DocumentType("visit", "Visit", False, {"Visit": ("presentation", "history", "labs", "diagnosis", "treatment")})
FULL = DocumentType(
    "full", "Full", False,
    {"Full": ("presentation", "symptoms", "denials", "labs", "imaging", "medications", "treatment")},
)  # fmt: skip


def mednli_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, str]]:
    """MedNLI rows, the three labels in equal shares."""
    rows = []
    for number, patient in enumerate(patients):
        rng = random.Random(f"mednli {seed} {patient.id}")
        label = LABELS[number % 3]
        first, second = hypothesis(write_note(FULL, WHOLE, patient, rng).statements, patient, label, rng)
        rows.append({"pairID": patient.id, "gold_label": label.lower(), "sentence1": first, "sentence2": second})
    return rows


def problem_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, str]]:
    """Progress notes (SOAP) with the problem list as summary."""
    soap = load_taxonomy().documents["soap_note"]
    rows = []
    for patient in patients:
        rng = random.Random(f"problem {seed} {patient.id}")
        parts = {name: write_note(soap, name, patient, rng).text for name in ("Subjective", "Objective", "Assessment")}
        rows.append(
            {
                "File ID": patient.id,
                "Subjectives": parts["Subjective"].removeprefix("Subjective: "),
                "Assessment": parts["Assessment"].removeprefix("Assessment: "),
                "Objectives": parts["Objective"].removeprefix("Objective: "),
                "Summary": "; ".join(patient.diseases),
            }
        )
    return rows


def meqsum_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, str]]:
    """A consumer's message and the one question in it."""
    rows = []
    for patient in patients:
        rng = random.Random(f"meqsum {seed} {patient.id}")
        disease, drug, symptom = patient.main, patient.new_medication.drug, patient.symptoms[0]
        who = rng.choice(("mother", "father", "husband", "sister", "son"))
        asked, summary = rng.choice(inquiries(disease.name, drug, symptom))
        sentences = [
            f"My {who} is {patient.age} years old.",
            f"My {who} was told it is {disease.name}.",
            f"The doctor gave {drug}.",
            f"There has been {symptom} for {patient.days} days.",
        ]
        rng.shuffle(sentences)
        hello, thanks = (
            rng.choice(("Hello.", "Dear doctor,", "Hi,")),
            rng.choice(("Thank you.", "Please help.", "Thanks.")),
        )
        chq = " ".join([hello, *sentences[:3], asked, thanks])
        rows.append({"File": f"{patient.id}.txt", "CHQ": chq, "Summary": summary})
    return rows


def inquiries(disease: str, drug: str, symptom: str) -> tuple[tuple[str, str], ...]:
    """What a consumer may ask, each with its summary as one short question."""
    return (
        (f"Could the {drug} cause {symptom}?", f"Can {drug} cause {symptom}?"),
        (f"What can be done about the {disease}?", f"What are the treatments for {disease}?"),
        (f"What are the signs of {disease}?", f"What are the symptoms of {disease}?"),
        (f"How often must {drug} be taken?", f"What is the dosage of {drug}?"),
    )


def medec_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, Any]]:
    """MEDEC rows, half of them with one planted error."""
    rows = []
    for number, patient in enumerate(patients):
        rng = random.Random(f"medec {seed} {patient.id}")
        note: Note = write_note(VISIT, WHOLE, patient, rng)
        right = [s.text for s in note.statements]
        row: dict[str, Any] = {"Text ID": patient.id}
        if number % 2:
            sentences, index, kind, correct = plant_error(note.statements, rng)
            row |= {"Error Flag": 1, "Error Type": kind, "Error Sentence ID": index,
                    "Error Sentence": sentences[index], "Corrected Sentence": correct}  # fmt: skip
        else:
            sentences = right
            row |= {"Error Flag": 0, "Error Type": "", "Error Sentence ID": -1, "Error Sentence": "NA",
                    "Corrected Sentence": "NA"}  # fmt: skip
        row |= {"Text": " ".join(sentences), "Sentences": numbered(sentences), "Corrected Text": " ".join(right)}
        rows.append({column: row[column] for column in MEDEC_COLUMNS})
    return rows


def rrs_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, str]]:
    """Questions on radiology findings with short answers from the text."""
    radiology = load_taxonomy().documents["radiology_report"]
    rows = []
    for patient in patients:
        rng = random.Random(f"rrs {seed} {patient.id}")
        note = write_note(radiology, "Findings", patient, rng)
        asked, answer = question(patient, note.statements, rng) if note.of("imaging", "imaging_absent") else ("", "")
        rows.append(
            {"id": patient.id, "findings": note.text.removeprefix("Findings: "), "question": asked, "answer": answer}
        )
    return rows


TOPICS = (*ASKED, "reading", "general", "radiology")
"""What merges are chosen by: what experts read, and what they should not forget."""


def validation_rows(topic: str, seed: str, count: int) -> list[dict[str, Any]]:
    """Synthetic multiple-choice questions on one topic (the paper's validation sets, section 3.1.4, in miniature)."""
    rows = []
    for number in range(count):
        rng = random.Random(f"validation {topic} {seed} {number}")
        instruction, asked, options, index = _topic(topic, number, rng)
        rows.append({"id": f"{topic}-{number:04d}", "topic": topic, "instruction": instruction, "context": "",
                     "question": asked, "options": options, "answer_index": index})  # fmt: skip
    return rows


def _topic(topic: str, number: int, rng: random.Random) -> tuple[str, str, list[str], int]:
    if topic in ASKED:
        return CHOICE, *validation_question(topic, number, rng)
    if topic in {"reading", "general"}:
        return _lesson(topic, rng)
    patients = draw_patients(rng.randrange(10**9), 20)
    patient = next(p for p in patients if p.main.finding)
    note = write_note(load_taxonomy().documents["radiology_report"], "Findings", patient, rng)
    values, right = rng.choice(((SIDES, patient.side), (SIZES, patient.size)))
    finding = patient.main.finding
    asked = f"On which side is the {finding}?" if values == SIDES else f"How large is the {finding}?"
    findings = note.text.removeprefix("Findings: ")
    return RADIOLOGY, f"FINDINGS: {findings}\nQUESTION: {asked}", list(values), values.index(right)


def _lesson(topic: str, rng: random.Random) -> tuple[str, str, list[str], int]:
    """A lesson of the base's as a choice; wrong options stand in the same text, or could."""
    with use_world("base"):
        if topic == "reading":
            facts = page_facts(rng)
            fact = rng.choice(facts)
            told, text, right = question_on(fact, "lessons", rng), page(facts, rng), fact.value
            others = [*(f.value for f in facts), *rng.sample(values_of(fact.relation), 6)]
        else:
            text, tasks = FAMILIES["list"](rng)
            kind = rng.choice(("copy", "replace", "pick", "behind"))
            _, told, right = rng.choice([task for task in tasks if task.kind == kind])
            listed = right.split(", ")
            if len(listed) > 1:  # a written answer: wrong ones have another word at one place
                places = rng.sample(range(len(listed)), 3)
                other = next(word for word in words(rng, 1 + len(listed)) if word not in listed)
                others = [", ".join([*listed[:at], other, *listed[at + 1 :]]) for at in places]
            else:
                others = [*text.split(", "), *words(rng, 6)]
    wrong = list(dict.fromkeys(option for option in others if option != right))[:3]
    place = rng.randrange(4)
    return told, text, [*wrong[:place], right, *wrong[place:]], place


def skill_rows(seed: str, count: int) -> list[dict[str, Any]]:
    """What the embedded base could do before it read anything: lessons of its own kinds that it was never taught."""
    lessons = write_lessons(f"skills {seed}", LessonSet(rows=count, shares={"general": 0.85, "reading": 0.15}))
    return [
        {"id": f"{number:04d}", "kind": row.get("kind", row["task"]), "messages": row["messages"]}
        for number, row in enumerate(lessons)
    ]


def write_benchmarks(folder: Path, patients: Mapping[str, Sequence[Patient]], seed: int) -> dict[str, int]:
    """Write every benchmark's files below `folder`; `patients` by split (train, dev, test). Returns rows by file."""
    counts: dict[str, int] = {}
    for split, drawn in patients.items():
        tag = f"{seed} {split}"
        put(counts, folder, f"mednli/mli_{split}_v1.jsonl", mednli_rows(drawn, tag))
        put(counts, folder, f"problem_list/{split}.csv", problem_rows(drawn, tag))
        medec = f"medec/MEDEC-MS-{MEDEC_FILES[split]}-with-GroundTruth-and-ErrorType.csv"
        put(counts, folder, medec, medec_rows(drawn, tag))
        put(counts, folder, f"rrs_qa/{split}.jsonl", rrs_rows(drawn, tag))
    put(counts, folder, f"meqsum/{MEQSUM_FILE}", meqsum_rows(patients["test"], f"{seed} test"))
    put(counts, folder, "conversations/test.jsonl", skill_rows(f"{seed} test", 2 * len(patients["test"])))
    return counts | write_twins(folder, patients, seed) | write_neighbours(folder, patients, seed)

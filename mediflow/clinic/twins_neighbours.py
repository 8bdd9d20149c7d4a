"""Miniature twins of six neighbouring benchmarks in their published file formats; every answer follows from the state.

RadQA, CLIP, MedQA, entities, radiology summaries and triage. Seeds are their own: what is added here changes nothing
else of the clinic. Only the radiology report is the one of `benchmarks.rrs_rows`: a patient has one.
`permuted` makes the negative control: text and answer independent, their shares the same.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mediflow.clinic.documents import Note, write_note
from mediflow.clinic.exam import choice_rows, worded_rows
from mediflow.clinic.knowledge import load_knowledge
from mediflow.clinic.patients import Patient
from mediflow.clinic.statements import Statement, number
from mediflow.taxonomy import WHOLE, DocumentType, load_taxonomy
from medsmith.records import write_jsonl

SENTENCES = 8
"""Sentences of a CLIP document: a document stands for so many rows."""
COURSE = DocumentType(
    "course", "Course", False,
    {"Course": ("presentation", "symptoms", "medications", "diagnosis", "treatment")},
)  # fmt: skip
ROOM = 4
"""Questions on facts, at most, for each patient of a split: facts are few and each is asked once."""
CLIP_SPLITS = {"train": "train", "dev": "val", "test": "test"}
GENDER = {"woman": "F", "man": "M"}


def radqa_data(patients: Sequence[Patient], seed: str) -> dict[str, Any]:
    """SQuAD 2.0: of each report one question, every other without an answer (a finding that the report lacks)."""
    findings = sorted({disease.finding for disease in load_knowledge() if disease.finding})
    articles = []
    for place, patient in enumerate(patients):
        rng = random.Random(f"radqa {seed} {patient.id}")
        note = _report(patient, seed)
        context = note.text
        if place % 2:
            asked, answers = f"How large is the {rng.choice([f for f in findings if f not in context])}?", []
        else:
            asked, text = _spans(note.statements, patient)
            answers = [{"text": text, "answer_start": context.index(text)}]
        asked_of = {"id": f"{patient.id}-1", "question": asked, "answers": answers, "is_impossible": not answers}
        paragraph = {"document_id": f"{patient.id}_O", "context": context, "qas": [asked_of]}
        articles.append({"title": patient.id, "paragraphs": [paragraph]})
    return {"version": "simulated", "data": articles}


def _spans(statements: Sequence[Statement], patient: Patient) -> tuple[str, str]:
    """A question that the report answers and the words that do."""
    shown = next((s for s in statements if s.kind == "imaging"), None)
    if shown is not None:
        return f"How large is the {patient.main.finding}?", patient.size
    absent = next(s for s in statements if s.kind == "imaging_absent")
    return "What is ruled out?", absent.values[0]


def _report(patient: Patient, seed: str) -> Note:
    """The findings as `rrs_rows` words them: other wordings would only be more text to keep out of training."""
    radiology = load_taxonomy().documents["radiology_report"]
    return write_note(radiology, "Findings", patient, random.Random(f"rrs {seed} {patient.id}"))


def clip_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, Any]]:
    """Discharge notes by sentence, with the labels that each sentence was written for, none to two."""
    rows = []
    for patient in patients[: max(1, len(patients) // SENTENCES)]:
        rng = random.Random(f"clip {seed} {patient.id}")
        for place, (text, labels) in enumerate(_discharge(patient, rng)):
            marked = [f"I-{label}" for label in sorted(labels)]
            rows.append(
                {"doc_id": patient.id, "sent_index": place, "sentence": repr(words(text)), "labels": repr(marked)}
            )
    return rows


def _discharge(p: Patient, rng: random.Random) -> list[tuple[str, tuple[str, ...]]]:
    """Four sentences that ask for nothing, then four of seven that do."""
    weeks, drug, lab = p.follow_up_weeks, p.new_medication.drug, p.main.lab.name
    region, who = p.main.region or "chest", p.main.specialty
    course = [(s.text, ()) for s in write_note(COURSE, WHOLE, p, rng).statements if s.kind != "treatment"][:4]
    appointment, lab_label = "Appointment-related followup", "Lab-related followup"
    asked: list[tuple[str, tuple[str, ...]]] = [
        (f"Please see {who} in {weeks} weeks.", (appointment,)),
        (f"Please see {who} in {weeks} weeks, with a new {lab} value.", (appointment, lab_label)),
        (f"The {lab} value is pending at discharge.", (lab_label,)),
        (f"Take {drug} for {p.days} days, then stop.", ("Medication-related followups",)),
        (f"Imaging of the {region} should be repeated.", ("Imaging-related followup",)),
        (f"The {p.care.operation} has to be scheduled.", ("Procedure-related followup",)),
        (f"Come back at once for {p.symptoms[0]}.", ("Case-specific instructions for patient",)),
        (f"The proxy is {p.care.proxy}.", ("Other helpful contextual information",)),
    ]
    return [*course, *rng.sample(asked, 4)]


def ner_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, Any]]:
    """A sentence of each patient's visit as tokens; drugs, diseases and symptoms are tagged by IOB2."""
    rows = []
    for patient in patients:
        rng = random.Random(f"ner {seed} {patient.id}")
        statement = rng.choice([s for s in write_note(COURSE, WHOLE, patient, rng).statements if s.values])
        tokens, tags = tagged(statement.text, _entities(statement))
        rows.append({"id": patient.id, "doc_id": patient.id, "text": statement.text, "tokens": tokens, "tags": tags})
    return rows


def _entities(s: Statement) -> dict[str, str]:
    """Text → type of what a statement of the visit names."""
    if s.kind in {"medication", "treatment"}:
        return {s.values[0]: "Drug", s.values[4]: "Disease"}
    if s.kind == "diagnosis":
        abbreviation = next(d.abbreviation for d in load_knowledge() if d.name == s.values[0])
        return {s.values[0]: "Disease", abbreviation: "Disease"}
    return {s.values[2] if s.kind == "presentation" else s.values[0]: "Symptom"}


def tagged(text: str, types: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The tokens of a text and their IOB2 tags, where each of the names stands (in any case) as whole words."""
    tokens, names = words(text), [(words(name.casefold()), kind) for name, kind in types.items()]
    folded, tags = [token.casefold() for token in tokens], ["O"] * len(tokens)
    for name, kind in names:
        for start in range(len(tokens) - len(name) + 1):
            if folded[start : start + len(name)] == name and set(tags[start : start + len(name)]) == {"O"}:
                tags[start : start + len(name)] = [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1)]
    return tokens, tags


def words(text: str) -> list[str]:
    """Words and signs, as tokenised corpora have them."""
    return re.findall(r"\w+|[^\w\s]", text)


def summary_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, str]]:
    """Findings in two sentences and the impression that they amount to."""
    rows = []
    for patient in patients:
        seen = f"{patient.size} {patient.main.finding} on the {patient.side}"
        impression = f"{seen[0].upper()}{seen[1:]}." if patient.main.finding else "No acute finding."
        rows.append({"uid": patient.id, "findings": _report(patient, seed).text, "impression": impression})
    return rows


def triage_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, Any]]:
    """Cases with vital signs in the units of MIMIC-IV-ED (degrees Fahrenheit); the level is `level_of`."""
    rows = []
    for place, p in enumerate(patients):
        text = f"A {p.age}-year-old {p.sex} with {' and '.join(p.symptoms)} for {p.days} days."
        rows.append(
            {
                "subject_id": p.id, "stay_id": f"{p.id}-{place}", "gender": GENDER[p.sex], "age": p.age,
                "temperature": number(round(p.temperature * 9 / 5 + 32, 1)), "heartrate": p.pulse,
                "resprate": p.care.respiration, "o2sat": p.care.saturation, "sbp": p.systolic, "dbp": p.diastolic,
                "pain": p.care.pain, "acuity": level_of(p), "chiefcomplaint": p.symptoms[0], "tiragecase": text,
                "Final Decision": "RETAIN",
            }
        )  # fmt: skip
    return rows


def level_of(p: Patient) -> int:
    """The rule of this clinic: saturation, then pulse and breathing, then fever and pain decide."""
    if p.care.saturation < 90:
        return 1
    if p.pulse > 115 or p.care.respiration > 24:
        return 2
    if p.temperature >= 38.5 or p.care.pain >= 8:
        return 3
    return 4 if p.temperature >= 37.5 or p.care.pain >= 5 else 5


def permuted(rows: Sequence[dict[str, Any]], columns: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """The rows with these columns moved together to other rows at random: nothing is left to learn or to know."""
    order = list(range(len(rows)))
    random.Random(f"permuted {seed}").shuffle(order)
    return [row | {name: rows[other][name] for name in columns} for row, other in zip(rows, order, strict=True)]


def write_neighbours(folder: Path, patients: Mapping[str, Sequence[Patient]], seed: int) -> dict[str, int]:
    """Write the files of all six below `folder`; `patients` by split. Returns rows by file."""
    counts: dict[str, int] = {}
    sentences: list[dict[str, Any]] = []
    for split, drawn in patients.items():
        tag = f"{seed} {split}"
        radqa = radqa_data(drawn, tag)
        _write(counts, folder, f"radqa/{split}.json", _write_json, radqa, len(radqa["data"]))
        _write(
            counts,
            folder,
            f"medqa/phrases_no_exclude_{split}.jsonl",
            write_jsonl,
            choice_rows(split, "exam", str(seed), ROOM * len(drawn)),
        )
        _write(counts, folder, f"ner/{split}.jsonl", write_jsonl, ner_rows(drawn, tag))
        _write(counts, folder, f"radiology_summary/{split}.csv", _write_csv, summary_rows(drawn, tag))
        cases = "MIETIC-validate-samples" if split == "test" else split
        _write(counts, folder, f"triage/{cases}.csv", _write_csv, triage_rows(drawn, tag))
        rows = clip_rows(drawn, tag)
        documents = list(dict.fromkeys(row["doc_id"] for row in rows))
        _write(counts, folder, f"clip/{CLIP_SPLITS[split]}_ids.csv", _write_lines, documents)
        sentences += rows
    words = worded_rows(str(seed), 2 * len(patients["test"])) if "test" in patients else []
    _write(counts, folder, "medqa_words/phrases_no_exclude_test.jsonl", write_jsonl, words)
    _write(counts, folder, "clip/sentence_level.csv", _write_csv, sentences)
    return counts


def _write(
    counts: dict[str, int],
    folder: Path,
    name: str,
    write: Callable[[Path, Any], Any],
    rows: Any,
    count: int | None = None,
) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write(folder / name, rows)
    counts[name] = len(rows) if count is None else count


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

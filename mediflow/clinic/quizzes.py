"""Examination questions of the simulated clinic: one maker a topic of validation sets, each with its known answer."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

from mediflow.clinic.answers import LABELS, QUESTIONS, choices_of, hypothesis, questions_on
from mediflow.clinic.benchmarks import inquiries, meqsum_rows
from mediflow.clinic.documents import Note, write_note
from mediflow.clinic.knowledge import Disease, find_disease, load_knowledge, world_in_use
from mediflow.clinic.patients import FREQUENCIES, Patient, draw_patient
from mediflow.clinic.quiz_pages import PAGES
from mediflow.clinic.statements import Statement
from mediflow.taxonomy import WHOLE, DocumentType, load_taxonomy
from medsmith.records import content_id
from medsmith.shingles import split_words

TRIES = 60
POOL_PATIENTS = 300
MASKED = ("treatment", "medication", "imaging")
STOCK = 6
"""Different questions of a topic that a teacher who repeats himself comes back to."""
SIDES = ("left", "right", "both sides", "midline")
SIZES = ("small", "moderate", "large", "tiny")
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z0-9])")


@dataclass(frozen=True)
class Quiz:
    """One question; `evidence` stands in the context word for word."""

    context: str
    question: str
    right: str
    wrong: list[str]
    evidence: str
    reason: str


def write_questions(request: dict[str, Any], rng: random.Random) -> str:
    """Answer a request of kind question. Raises KeyError for a topic that the clinic does not know."""
    quizzes = [write_quiz(request["topic"], request["options"], rng) for _ in range(request["questions"])]
    return _as_reply(map(asdict, quizzes), request["topic"])


def write_quiz(topic: str, options: int, rng: random.Random) -> Quiz:
    """One question of a topic with so many options (labels have their own number)."""
    make = MAKERS[topic]
    for _ in range(TRIES):
        quiz = make(draw_patient(rng.getrandbits(40), 0), options, rng)
        if quiz is not None:
            return quiz
    raise KeyError(f"{topic} with {options} options")


def misanswer(
    text: str, request: dict[str, Any], wrong_key: float, repeated: float, rng: random.Random
) -> tuple[str, list[dict[str, Any]]]:
    """The reply with a share of its questions keyed wrongly, and a share that repeat others; what was planted.

    One half of the wrong keys stand beside the evidence for the right one; the other half are covered: a sentence that
    names the wrong option is quoted, or else one that does not name the right one. Of the repeats one half are word for
    word, the others have a word of thanks more.
    """
    written = json.loads(text)["questions"]
    planted: list[dict[str, Any]] = []
    for place, quiz in enumerate(written):
        if rng.random() < repeated:
            stock = random.Random(f"stock {request['topic']} {rng.randrange(STOCK)}")
            quiz = asdict(write_quiz(request["topic"], request["options"], stock))
            if rng.random() < 0.5:
                quiz["context"] += " Thank you."
            written[place] = quiz
            planted.append({"kind": "repeated", "question": _name(quiz)})
        elif rng.random() < wrong_key:
            true = quiz["right"]
            others = quiz.get("wrong") or [label for label in LABELS if label != true]
            said = rng.choice(others)
            quiz |= {"right": said, "wrong": [true if option == said else option for option in others]}
            sentences = _sentences(quiz["context"])
            named = [sentence for sentence in sentences if _stands_in(said, sentence)]
            free = named or [sentence for sentence in sentences if not _stands_in(true, sentence)]
            covered = bool(free) and rng.random() < 0.5
            if covered:
                quiz["evidence"] = rng.choice(free)
            planted.append(
                {"kind": "wrong_key", "question": _name(quiz), "true": true, "said": said, "covered": covered}
            )
    return _as_reply(written, request["topic"]), planted


def _as_reply(quizzes: Any, topic: str) -> str:
    left_out = {"wrong"} if topic == "clinical_nli" else set()
    rows = [{key: value for key, value in quiz.items() if key not in left_out} for quiz in quizzes]
    return json.dumps({"questions": rows}, ensure_ascii=False)


def _name(quiz: dict[str, Any]) -> str:
    return content_id(quiz["context"], quiz["question"])


def _sentences(text: str) -> list[str]:
    return [sentence for line in text.split("\n") for sentence in _SENTENCE.split(line) if sentence]


def _form(title: str, **sections: str) -> DocumentType:
    named = {name.replace("_", " "): tuple(topics.split()) for name, topics in sections.items()}
    return DocumentType(title, title, False, named)


CASE = _form("Clinical Case", Case="presentation symptoms denials history labs imaging")
MEDICATION = _form("Medication", Home_Medication="history medications", New="treatment", Allergies="allergy")
DOCUMENTS: dict[str, dict[str, str | DocumentType]] = {
    "medication": {"": MEDICATION},
    "radiology_report": {"": "radiology_report"},
    "discharge_letter_qa": {"": "discharge_summary"},
    "consultation_qa": {"": "doctor_patient_conversation"},
    "ehr_qa": {
        "LABORATORY REPORT": _form("Laboratory Report", Results="labs"),
        "RADIOLOGY REPORT": _form("Radiology Report", Findings="imaging"),
        "PROGRESS NOTE": _form("Progress Note", Course="presentation symptoms vitals", Plan="treatment follow_up"),
    },
}
"""The documents that answers are quoted from, under their headings; a name is one of the taxonomy's."""


def _write(document: str | DocumentType, patient: Patient, rng: random.Random) -> Note:
    known = load_taxonomy().documents[document] if isinstance(document, str) else document
    return write_note(known, WHOLE, patient, rng)


def _quoted(topic: str, patient: Patient, options: int, rng: random.Random) -> Quiz | None:
    """A question whose answer stands in the document, or in one of several; None where too few others are known."""
    parts, asked = [], []
    for heading, document in DOCUMENTS[topic].items():
        note = _write(document, patient, rng)
        parts.append(f"{heading}\n{note.text}" if heading else note.text)
        asked += [
            (note.text[start:end], statement, *pair)
            for statement, (start, end) in zip(note.statements, note.spans, strict=True)
            for pair in questions_on(statement)
            if _stands_in(pair[1], note.text[start:end])
        ]
    rng.shuffle(asked)
    for evidence, statement, question, right in asked:
        others = _others(topic, statement, question, right)
        if len(others) >= options - 1:
            wrong = rng.sample(others, options - 1)
            return Quiz("\n\n".join(parts), question, right, wrong, evidence, f"The text says: {evidence}")
    return None


def _stands_in(answer: str, text: str) -> bool:
    return f" {' '.join(split_words(answer))} " in f" {' '.join(split_words(text))} "


def _others(topic: str, statement: Statement, question: str, right: str) -> list[str]:
    """What the same question is answered of other patients, without what says the same in more or fewer words."""
    for values in (SIDES, SIZES, FREQUENCIES):
        if right in values:
            return [option for option in values if option != right]
    found = _pool(topic, world_in_use()).get(_head(statement, question), ())
    return [other for other in found if not _stands_in(other, right) and not _stands_in(right, other)]


@cache
def _pool(topic: str, world: str) -> dict[str, tuple[str, ...]]:
    """Answers by kind of question, of patients of its own."""
    found: dict[str, set[str]] = {}
    rng = random.Random("pool")
    for number in range(POOL_PATIENTS):
        patient = draw_patient(-1, number)
        for document in DOCUMENTS[topic].values():
            for statement in _write(document, patient, rng).statements:
                for question, answer in questions_on(statement):
                    found.setdefault(_head(statement, question), set()).add(answer)
    return {head: tuple(sorted(answers)) for head, answers in found.items()}


def _head(statement: Statement, question: str) -> str:
    """Of which kind a question is: without the names of drugs, diseases and findings, but of each test its own."""
    for value in sorted(statement.values if statement.kind in MASKED else (), key=len, reverse=True):
        question = re.sub(rf"\b{re.escape(value)}\b", "…", question)
    return f"{statement.kind}: {question}"


def _case(patient: Patient, options: int, rng: random.Random) -> Quiz | None:
    note = _write(CASE, patient, rng)
    main = patient.main
    shared = set(patient.symptoms)
    foreign = [d for d in load_knowledge() if d.name not in patient.diseases and not shared & set(d.symptoms)]
    others = rng.sample(foreign, options - 1)
    evidence = note.text[slice(*note.spans[0])]
    if rng.random() < 0.5:
        asked, right, wrong = "What is the most likely diagnosis?", main.name, [d.name for d in others]
    else:
        asked = "With which drug would you treat the patient?"
        right, wrong = rng.choice(main.drugs).name, [rng.choice(d.drugs).name for d in others]
    reason = f"{patient.symptoms[0]} and {patient.symptoms[1]} with this {main.lab.name} fit {main.name}."
    return Quiz(note.text, asked, right, wrong, evidence, reason)


def _knowledge(patient: Patient, options: int, rng: random.Random) -> Quiz | None:
    disease = patient.main
    _, text = PAGES[rng.choice(("medwiki", "guidelines", "pubmed"))](disease, rng)
    if options != 4:
        return _code_quiz(disease, text, options, rng)
    asked, shown, index = choices_of(rng.choice(QUESTIONS), disease, [d for d in load_knowledge() if d != disease], rng)
    right = shown[index]
    named = [sentence for sentence in _sentences(text) if _stands_in(right, sentence)]
    if not named:
        return None
    wrong = [option for option in shown if option != right]
    return Quiz(text, asked, right, wrong, named[0], f"{right} belongs to {disease.name}.")


def _definition(patient: Patient, options: int, rng: random.Random) -> Quiz | None:
    disease = patient.main
    others = rng.sample([d for d in load_knowledge() if d.code != disease.code], options - 1)
    if rng.random() < 0.5:
        context = rng.choice(
            (
                f"Query from {disease.specialty}. A {patient.sex} of {patient.age} was treated for {disease.name}.",
                f"The letter of a {patient.sex} of {patient.age} from {disease.specialty} names {disease.name}.",
            )
        )
        asked, right = f"What is the ICD-10-CM code of {disease.name}?", disease.code
        wrong = [d.code for d in others]
    else:
        context = rng.choice(
            (
                f"A {patient.sex} of {patient.age} was seen in {disease.specialty}. The bill shows {disease.code}.",
                f"The code {disease.code} was entered by {disease.specialty} for a {patient.sex} of {patient.age}.",
            )
        )
        asked, right = f"Which disease has the ICD-10-CM code {disease.code}?", disease.name
        wrong = [d.name for d in others]
    return Quiz(context, asked, right, wrong, _sentences(context)[-1], f"{disease.code} is {disease.name}.")


def _code_quiz(disease: Disease, context: str, options: int, rng: random.Random) -> Quiz | None:
    others = rng.sample([d for d in load_knowledge() if d.code != disease.code], options - 1)
    named = [s for s in _sentences(context) if re.search(rf"\b{re.escape(disease.name)}\b", s, re.IGNORECASE)]
    asked = f"What is the ICD-10-CM code of {disease.name}?"
    if not named:
        return None
    wrong = [d.code for d in others]
    return Quiz(context, asked, disease.code, wrong, named[0], f"{disease.code} is {disease.name}.")


def _nli(patient: Patient, options: int, rng: random.Random) -> Quiz | None:
    label = rng.choice(LABELS)
    note = _write("discharge_summary", patient, rng)
    first, second = hypothesis(note.statements, patient, label, rng)
    wrong = [other for other in LABELS if other != label]
    return Quiz(f"SENTENCE_1: {first}", f"SENTENCE_2: {second}", label, wrong, first, f"{label}: {first} {second}")


def _letter_codes(patient: Patient, options: int, rng: random.Random) -> Quiz | None:
    note = _write("discharge_summary", patient, rng)
    own = {find_disease(name).code for name in patient.diseases}
    others = rng.sample([d for d in load_knowledge() if d.code not in own], options - 1)
    evidence = _said(note, "diagnosis")
    asked = "Which ICD-10-CM code belongs to the main diagnosis of this letter?"
    right, wrong = patient.main.code, [d.code for d in others]
    return Quiz(note.text, asked, right, wrong, evidence, f"{right} is {patient.main.name}.")


def _problems(patient: Patient, options: int, rng: random.Random) -> Quiz | None:
    soap = load_taxonomy().documents["soap_note"]
    note = Note(*_joined([write_note(soap, name, patient, rng) for name in ("Subjective", "Objective", "Assessment")]))
    others = [d.name for d in load_knowledge() if d.name not in patient.diseases]
    wrong: list[str] = []
    while len(wrong) < options - 1:
        changed = list(patient.diseases)
        changed[rng.randrange(len(changed))] = rng.choice(others)
        if "; ".join(changed) not in wrong:
            wrong.append("; ".join(changed))
    right = "; ".join(patient.diseases)
    evidence = _said(note, "diagnosis")
    return Quiz(note.text, "What are the patient's problems?", right, wrong, evidence, f"The note tells of {right}.")


def _joined(notes: Sequence[Note]) -> tuple[str, Any, Any, Any, str]:
    """Several sections as one note."""
    text, spans = "", []
    for note in notes:
        start = len(text) + bool(text)
        text += ("\n" if text else "") + note.text
        spans += [(start + first, start + last) for first, last in note.spans]
    statements = tuple(s for note in notes for s in note.statements)
    return text, statements, tuple(spans), tuple(part for note in notes for part in note.parts), ""


def _said(note: Note, kind: str) -> str:
    """The text of the first statement of a kind."""
    spans = zip(note.statements, note.spans, strict=True)
    return next(note.text[start:end] for statement, (start, end) in spans if statement.kind == kind)


def _inquiry(patient: Patient, options: int, rng: random.Random) -> Quiz | None:
    row = meqsum_rows([patient], str(rng.getrandbits(40)))[0]
    found: dict[str, str] = {}
    for one in (patient, draw_patient(rng.getrandbits(40), 0)):
        pairs = inquiries(one.main.name, one.new_medication.drug, one.symptoms[0])
        found |= {summary: asked for asked, summary in pairs}
    right = row["Summary"]
    others = [summary for summary in found if summary != right][: max(3, options - 1)]
    if len(others) < options - 1:
        return None
    wrong = rng.sample(others, options - 1)
    asked = "Which one question sums up the message?"
    return Quiz(row["CHQ"], asked, right, wrong, found[right], f"What is asked is: {found[right]}")


MAKERS: dict[str, Callable[[Patient, int, random.Random], Quiz | None]] = {
    "clinical_case": _case,
    "clinical_knowledge": _knowledge,
    "icd10cm_definitions": _definition,
    "clinical_nli": _nli,
    "discharge_letter_codes": _letter_codes,
    "problem_list": _problems,
    "inquiry_summary": _inquiry,
    **{topic: partial(_quoted, topic) for topic in DOCUMENTS},
}

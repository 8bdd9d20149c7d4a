"""Ask one task of a document and give the known answer: a pure function of the note, the patient and the draw."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from functools import cache

from mediflow.clinic import rewriting
from mediflow.clinic.documents import Note
from mediflow.clinic.exchange import Exchange, as_written
from mediflow.clinic.knowledge import Disease, find_disease, load_knowledge, treated_by, world_in_use
from mediflow.clinic.patients import SIDES, Patient
from mediflow.clinic.statements import Statement

Asked = Callable[[Disease, list[Disease], random.Random], tuple[str, str, list[str]]]
LABELS = ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")


def ask(task: str, note: Note, patient: Patient, rng: random.Random) -> Exchange:
    """Make one exchange of a task type. Raises KeyError for a task the clinic does not know."""
    return TASKS[task](note, patient, rng)


def question(patient: Patient, statements: Sequence[Statement], rng: random.Random) -> tuple[str, str]:
    """A question about one of the statements and its short answer."""
    return rng.choice([pair for statement in statements for pair in questions_on(statement)])


def questions_on(s: Statement) -> list[tuple[str, str]]:
    """Every question that one statement answers, each with its short answer."""
    asked = []
    if s.kind == "imaging":
        region, size, finding, side = s.values
        asked += [
            (f"On which side is the {finding}?", side),
            (f"How large is the {finding}?", size),
            (f"What does the imaging of the {region} show?", finding),
            (f"Is there a {finding}?", "yes"),
        ]
    elif s.kind == "imaging_absent":
        asked.append((f"Is there a {s.values[0]}?", "no"))
    elif s.kind == "lab":
        asked += [
            (f"What was the {s.values[0]}?", f"{s.values[1]} {s.values[2]}"),
            (f"Is the {s.values[0]} high, low or normal?", s.values[3]),
        ]
    elif s.kind in {"treatment", "medication"} and s.values:
        asked += [
            (f"What is the dose of {s.values[0]}?", f"{s.values[1]} {s.values[2]}"),
            (f"How often is {s.values[0]} taken?", s.values[3]),
            (f"Which drug is given for {s.values[4]}?", s.values[0]),
        ]
    elif s.kind == "vital":
        asked.append((f"What is the {s.values[0]}?", s.values[1]))
    elif s.kind == "follow_up":
        asked.append(("When is the follow-up?", f"in {s.values[0]}"))
    elif s.kind == "presentation":
        asked += [("What is the main complaint?", s.values[2]), ("For how many days?", s.values[3])]
    return [*asked, *s.asked]


def hypothesis(statements: Sequence[Statement], patient: Patient, label: str, rng: random.Random) -> tuple[str, str]:
    """A premise from the statements and a second sentence that stands in the relation `label` to it."""
    usable = [s for s in statements if (s.kind in HYPOTHESES and s.values) or s.holds]
    premise = rng.choice(usable)
    if label == "NEUTRAL":
        return premise.text, _neutral(premise, patient, rng)
    entailed, contradicted = (premise.holds, premise.fails) if premise.holds else HYPOTHESES[premise.kind](premise, rng)
    return premise.text, rng.choice(entailed if label == "ENTAILMENT" else contradicted)


def _neutral(premise: Statement, patient: Patient, rng: random.Random) -> str:
    """Something of another kind that the premise leaves open, true or not."""
    free = [s for d in load_knowledge() if d.name not in patient.diseases for s in d.symptoms]
    symptom = rng.choice([s for s in free if s not in premise.values])
    choices = [f"The patient has {symptom}.", "The patient lives alone.", "The patient is retired."]
    if premise.kind != "imaging":
        choices.append(f"There is a finding on the {rng.choice(SIDES)}.")
    if premise.kind not in {"medication", "treatment"}:
        choices.append(f"The patient takes {rng.choice(rng.choice(load_knowledge()).drugs).name}.")
    return rng.choice(choices)


def _of_symptom(s: Statement, rng: random.Random) -> tuple[list[str], list[str]]:
    symptom = s.values[2] if s.kind == "presentation" else s.values[0]
    return (
        [f"The patient has {symptom}.", f"The patient complains of {symptom}."],
        [f"The patient denies {symptom}.", f"The patient does not have {symptom}."],
    )


def _of_denial(s: Statement, rng: random.Random) -> tuple[list[str], list[str]]:
    has, has_not = _of_symptom(s, rng)
    return has_not, has


def _of_lab(s: Statement, rng: random.Random) -> tuple[list[str], list[str]]:
    name, _, _, where = s.values
    wrong = [other for other in ("high", "low", "normal") if other != where]
    return [f"The {name} is {where}."], [f"The {name} is {other}." for other in wrong]


def _of_imaging(s: Statement, rng: random.Random) -> tuple[list[str], list[str]]:
    region, size, finding, side = s.values
    other = SIDES[1 - SIDES.index(side)]
    return (
        [f"The {finding} is on the {side}.", f"The imaging of the {region} is abnormal.", f"There is a {finding}."],
        [f"The {finding} is on the {other}.", f"The imaging of the {region} is normal.", f"There is no {finding}."],
    )


def _of_drug(s: Statement, rng: random.Random) -> tuple[list[str], list[str]]:
    """Only the knowledge of which drug treats what decides: the hypothesis leaves the drug's name out."""
    drug, amount, unit, _, disease = s.values
    wrong = rng.choice([d for d in load_knowledge() if d.name != disease])
    return (
        [f"The patient is treated for {disease}.", f"The patient takes {amount} {unit} of {drug}."],
        ["The patient takes no medication.", f"{drug.capitalize()} was given for {wrong.name}."],
    )


HYPOTHESES: dict[str, Callable[[Statement, random.Random], tuple[list[str], list[str]]]] = {
    "presentation": _of_symptom,
    "symptom": _of_symptom,
    "denial": _of_denial,
    "lab": _of_lab,
    "imaging": _of_imaging,
    "medication": _of_drug,
    "treatment": _of_drug,
}


def choices(disease: Disease, rng: random.Random) -> tuple[str, list[str], int]:
    """A question on the medicine of one disease, four options, and the index of the right one."""
    others = [d for d in load_knowledge() if d.name != disease.name]
    return choices_of(rng.choice(QUESTIONS), disease, others, rng)


def choices_of(asked: Asked, disease: Disease, others: list[Disease], rng: random.Random) -> tuple[str, list[str], int]:
    """One question of the kind `asked`; distractors are drawn from `others` until the four options differ."""
    while True:
        text, right, options = asked(disease, rng.sample(others, 3), rng)
        if len({right, *options}) == 4:
            break
    index = rng.randrange(4)
    options.insert(index, right)
    return text, options, index


def which_drug(d: Disease, wrong: list[Disease], rng: random.Random) -> tuple[str, str, list[str]]:
    """A drug by its disease."""
    return f"Which drug treats {d.name}?", rng.choice(d.drugs).name, [rng.choice(w.drugs).name for w in wrong]


def which_disease(d: Disease, wrong: list[Disease], rng: random.Random) -> tuple[str, str, list[str]]:
    """A disease by its drug."""
    return f"What is {rng.choice(d.drugs).name} used for?", d.name, [w.name for w in wrong]


def which_symptom(d: Disease, wrong: list[Disease], rng: random.Random) -> tuple[str, str, list[str]]:
    """A symptom by its disease."""
    options = [rng.choice([s for s in w.symptoms if s not in d.symptoms]) for w in wrong]
    return f"Which is a symptom of {d.name}?", rng.choice(d.symptoms), options


def which_code(d: Disease, wrong: list[Disease], rng: random.Random) -> tuple[str, str, list[str]]:
    """An ICD-10-CM code by its disease."""
    return f"What is the ICD-10-CM code of {d.name}?", d.code, [w.code for w in wrong]


def which_specialty(d: Disease, wrong: list[Disease], rng: random.Random) -> tuple[str, str, list[str]]:
    """A specialty by its disease."""
    known = sorted({x.specialty for x in load_knowledge()} - {d.specialty})
    return f"Which specialty treats {d.name}?", d.specialty, rng.sample(known, 3)


def which_lab(d: Disease, wrong: list[Disease], rng: random.Random) -> tuple[str, str, list[str]]:
    """A laboratory test by its disease."""
    names = sorted({x.lab.name for x in load_knowledge()} - {d.lab.name})
    return f"Which laboratory test is used in {d.name}?", d.lab.name, rng.sample(names, 3)


QUESTIONS = (which_drug, which_disease, which_symptom, which_code, which_specialty, which_lab)


def plant_error(statements: Sequence[Statement], rng: random.Random) -> tuple[list[str], int, str, str]:
    """Make one of the sentences medically wrong: (sentences, index, kind, the right sentence).

    Treatment and medication errors give a drug of another disease; a diagnosis error names another disease than the
    one that is treated. Only someone who knows which drug treats what can see them.
    """
    sentences = [s.text for s in statements]
    candidates = [
        n for n, s in enumerate(statements) if s.kind in {"treatment", "medication", "diagnosis"} and s.values
    ]
    index = rng.choice(candidates)
    statement = statements[index]
    if statement.kind == "diagnosis":
        named = find_disease(statement.values[0])
        wrong = rng.choice([d for d in load_knowledge() if d.name != named.name])
        text = statement.text.replace(named.name, wrong.name).replace(named.abbreviation, wrong.abbreviation)
        kind = "diagnosis"
    else:
        drug = statement.values[0]
        right = treated_by(drug)
        other = rng.choice([d for d in load_knowledge() if d.name != right.name]).drugs[0].name
        text = statement.text.replace(drug, other).replace(drug.capitalize(), other.capitalize())
        kind = "pharmacotherapy" if statement.kind == "medication" else "treatment"
    right_text, sentences[index] = sentences[index], text
    return sentences, index, kind, right_text


def numbered(sentences: Sequence[str]) -> str:
    """Sentences as MEDEC numbers them: `0 text`, one a line."""
    return "\n".join(f"{n} {sentence}" for n, sentence in enumerate(sentences))


def _summarization(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    m = patient.new_medication
    text = (
        f"{patient.main.name[0].upper()}{patient.main.name[1:]}, treated with {m.drug} {m.dose} {m.unit} {m.frequency}."
    )
    return Exchange(note.text, text, {"summary": text})


def _question_answering(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    asked, answer = question(patient, note.statements, rng)
    return Exchange(f"{note.text}\nQUESTION: {asked}", answer, {"answer": answer})


def _multiple_choice(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    asked, options, index = choices(find_disease(rng.choice(patient.diseases)), rng)
    listed = "\n".join(f"- {option}" for option in options)
    return Exchange(f"{note.text}\n\n{asked}\n{listed}", options[index], {"answer": options[index]})


ENTITIES = {
    "drugs": "drug",
    "symptoms that are present": "symptom",
    "symptoms that are denied": "denied symptom",
}
"""What named entity recognition asks for, and the label of one."""


def _entities(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    kind = rng.choice(list(ENTITIES))
    places = (
        [m.span() for m in _drug_names(world_in_use()).finditer(note.text)]
        if kind == "drugs"
        else _symptoms(note, kind)
    )
    once: dict[str, tuple[int, int]] = {}
    for start, end in places:
        once.setdefault(note.text[start:end].lower(), (start, end))
    found = [
        {"text": note.text[start:end], "label": ENTITIES[kind], "start": start, "end": end}
        for start, end in once.values()
    ]
    text = "; ".join(str(entity["text"]) for entity in found) or "none"
    return Exchange(note.text, text, {"entities": found}, kind)


def _symptoms(note: Note, kind: str) -> list[tuple[int, int]]:
    """Where statements name a symptom that the patient has, or denies; others may name it of people in general."""
    wanted = {"denial": 0} if kind.endswith("denied") else {"presentation": 2, "symptom": 0}
    places = []
    for statement, (start, end) in zip(note.statements, note.spans, strict=True):
        if statement.kind in wanted:
            symptom = statement.values[wanted[statement.kind]]
            at = note.text.lower().index(symptom.lower(), start, end)
            places.append((at, at + len(symptom)))
    return places


@cache
def _drug_names(world: str) -> re.Pattern[str]:
    # Two of the allergens are drugs: a document that names the allergy names the drug.
    names = {drug.name for disease in load_knowledge(world) for drug in disease.drugs} | {"penicillin", "sulfa"}
    longest = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"(?i:\b(?:{'|'.join(map(re.escape, longest))})\b)")


def _relations(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    pairs = [(as_written(s.text, s.values[0]), s.values[4]) for s in note.of("medication", "treatment") if s.values]
    text = "; ".join(f"{drug} for {disease}" for drug, disease in pairs)
    return Exchange(note.text, text, {"relations": [{"drug": drug, "disease": disease} for drug, disease in pairs]})


def _classification(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    """Without the sentences that name the specialty: to copy it is no classification."""
    specialty = patient.main.specialty
    shown = note.where(lambda s: specialty not in s.text)
    return Exchange(shown.text, specialty, {"specialty": specialty})


def _entailment(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    label = rng.choice(LABELS)
    first, second = hypothesis(note.statements, patient, label, rng)
    return Exchange(f"SENTENCE_1: {first}\nSENTENCE_2: {second}", label, {"label": label})


def _abbreviation(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    disease = patient.main
    text = re.sub(rf"(?i:\b{re.escape(disease.name)}\b)", disease.abbreviation, note.text)
    return Exchange(f"{text}\nABBREVIATION: {disease.abbreviation}", disease.name, {"expansion": disease.name})


def _error(note: Note, patient: Patient, rng: random.Random) -> Exchange:
    if rng.random() < 0.5:
        sentences, index, _, _ = plant_error(note.statements, rng)
    else:
        sentences, index = [s.text for s in note.statements], -1
    return Exchange(numbered(sentences), str(index), {"sentence": index})


TASKS: dict[str, Callable[[Note, Patient, random.Random], Exchange]] = {
    "summarization": _summarization,
    "question_answering": _question_answering,
    "multiple_choice_question_answering": _multiple_choice,
    "named_entity_recognition": _entities,
    "relation_extraction": _relations,
    "classification": _classification,
    "textual_entailment": _entailment,
    "abbreviation_expansion": _abbreviation,
    "error_detection_and_correction": _error,
    "reasoning_and_diagnosis": rewriting.reason,
    "text_simplification": rewriting.simplify,
    "text_expansion": rewriting.expand,
    "aspect_oriented_keyword_extraction": rewriting.keywords,
    "note_scoring": rewriting.score,
}

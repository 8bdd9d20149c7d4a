"""A visit as single sentences, each with the facts that it states. Documents are made of these and of topics.yml."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from mediflow.clinic.knowledge import find_disease
from mediflow.clinic.patients import Patient


@dataclass(frozen=True)
class Statement:
    """One sentence and what it says: `kind` and the values named in it.

    `keywords` stand in the text and belong to the `aspect`; `asked` are questions that it answers, with the answers;
    `holds` and `fails` are sentences that follow from it or contradict it.
    """

    kind: str
    text: str
    values: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    aspect: str = ""
    asked: tuple[tuple[str, str], ...] = ()
    holds: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()


def number(value: float) -> str:
    """A figure as a clinician writes it: no trailing zero."""
    return f"{value:g}"


def dose(drug: str, amount: str, unit: str, frequency: str) -> str:
    """`metformin 500 mg daily`."""
    return f"{drug} {amount} {unit} {frequency}"


def _presentation(p: Patient, rng: random.Random) -> list[Statement]:
    who = f"{p.age}-year-old {p.sex}"
    first = p.symptoms[0]
    text = rng.choice(
        (
            f"A {who} presents with {first} for {p.days} days.",
            f"This {who} comes to the clinic because of {first} for {p.days} days.",
            f"A {who} was seen for {p.days} days of {first}.",
        )
    )
    return [Statement("presentation", text, (str(p.age), p.sex, first, str(p.days)))]


def _symptoms(p: Patient, rng: random.Random) -> list[Statement]:
    templates = ("The patient reports {}.", "There is {} as well.", "The patient also has {}.")
    return [Statement("symptom", rng.choice(templates).format(s), (s,)) for s in p.symptoms[1:]]


def _denials(p: Patient, rng: random.Random) -> list[Statement]:
    templates = ("The patient denies {}.", "There is no {}.", "No {} was noted.")
    return [Statement("denial", rng.choice(templates).format(s), (s,)) for s in p.denied]


def _history(p: Patient, rng: random.Random) -> list[Statement]:
    if len(p.diseases) == 1:
        return [Statement("history", "The past medical history is unremarkable.")]
    named = [_named(p, name, rng) for name in p.diseases[1:]]
    text = rng.choice(("Past medical history: {}.", "The patient has a history of {}.", "Known conditions: {}."))
    return [Statement("history", text.format(" and ".join(named)), tuple(p.diseases[1:]))]


def _named(p: Patient, disease: str, rng: random.Random) -> str:
    return find_disease(disease).abbreviation if rng.random() < 0.3 else disease


def _medications(p: Patient, rng: random.Random) -> list[Statement]:
    if not p.medications:
        return [Statement("medication", "The patient takes no regular medication.")]
    templates = ("The patient takes {} for {}.", "Home medication: {} for {}.", "The patient is on {} for {}.")
    return [
        Statement(
            "medication",
            rng.choice(templates).format(dose(m.drug, m.dose, m.unit, m.frequency), m.disease),
            (m.drug, m.dose, m.unit, m.frequency, m.disease),
        )
        for m in p.medications
    ]


def _vitals(p: Patient, rng: random.Random) -> list[Statement]:
    return [
        Statement("vital", f"Temperature is {p.temperature} C.", ("temperature", str(p.temperature))),
        Statement("vital", f"Pulse is {p.pulse} per minute.", ("pulse", str(p.pulse))),
        Statement(
            "vital",
            f"Blood pressure is {p.systolic}/{p.diastolic} mmHg.",
            ("blood pressure", f"{p.systolic}/{p.diastolic}"),
        ),
    ]


def _labs(p: Patient, rng: random.Random) -> list[Statement]:
    lab = p.main.lab
    normal = f"{number(lab.low)} to {number(lab.high)}"
    templates = ("{} was {} {} (normal {}).", "{} is {} {}, normal range {}.", "Laboratory: {} {} {} (reference {}).")
    text = rng.choice(templates).format(lab.name, number(p.lab_value), lab.unit, normal)
    return [
        Statement(
            "lab",
            text[0].upper() + text[1:] if text[1].islower() else text,
            (lab.name, number(p.lab_value), lab.unit, lab.value),
        )
    ]


def _imaging(p: Patient, rng: random.Random) -> list[Statement]:
    region = p.main.region or "chest"
    found = []
    if p.main.finding:
        templates = (
            "Imaging of the {region} shows a {size} {finding} on the {side}.",
            "There is a {size} {finding} on the {side} side of the {region}.",
        )
        text = rng.choice(templates).format(region=region, size=p.size, finding=p.main.finding, side=p.side)
        found.append(Statement("imaging", text, (region, p.size, p.main.finding, p.side)))
    else:
        found.append(Statement("imaging_normal", f"Imaging of the {region} is unremarkable.", (region,)))
    absent = rng.choice(("No {} is seen.", "There is no evidence of {}.")).format(p.absent_finding)
    return [*found, Statement("imaging_absent", absent, (p.absent_finding,))]


def _diagnosis(p: Patient, rng: random.Random) -> list[Statement]:
    templates = ("The diagnosis is {}.", "These findings are consistent with {}.", "Assessment: {}.")
    return [Statement("diagnosis", rng.choice(templates).format(_named(p, p.main.name, rng)), (p.main.name,))]


def _treatment(p: Patient, rng: random.Random) -> list[Statement]:
    m = p.new_medication
    how = dose(m.drug, m.dose, m.unit, m.frequency)
    templates = (
        "The patient was started on {} for {}.",
        "{} was prescribed for {}.",
        "Treatment with {} was begun for {}.",
    )
    text = rng.choice(templates).format(how, m.disease)
    return [Statement("treatment", text[0].upper() + text[1:], (m.drug, m.dose, m.unit, m.frequency, m.disease))]


def _follow_up(p: Patient, rng: random.Random) -> list[Statement]:
    weeks = f"{p.follow_up_weeks} weeks" if p.follow_up_weeks > 1 else "1 week"
    templates = ("Follow-up in {weeks} with {who}.", "The patient will be seen by {who} in {weeks}.")
    text = rng.choice(templates).format(weeks=weeks, who=p.main.specialty)
    return [Statement("follow_up", text, (weeks, p.main.specialty))]


def _social(p: Patient, rng: random.Random) -> list[Statement]:
    work = rng.choice(("The patient is {}.", "Employment: {}.")).format(p.work)
    living = rng.choice(("The patient lives {}.", "Living situation: {}.")).format(p.living)
    said = {"never": "never used {}", "current": "currently uses {}", "past": "used {} in the past"}
    return [
        Statement("work", work, (p.work,)),
        Statement("living", living, (p.living,)),
        *(
            Statement("substance", f"The patient {said[status].format(name)}.", (name, status))
            for name, status in p.substances
        ),
    ]


def _allergy(p: Patient, rng: random.Random) -> list[Statement]:
    return [Statement("allergy", f"The patient is allergic to {p.allergy}.", (p.allergy,))]


VISIT: dict[str, Callable[[Patient, random.Random], list[Statement]]] = {
    "presentation": _presentation,
    "symptoms": _symptoms,
    "denials": _denials,
    "history": _history,
    "medications": _medications,
    "vitals": _vitals,
    "labs": _labs,
    "imaging": _imaging,
    "diagnosis": _diagnosis,
    "treatment": _treatment,
    "follow_up": _follow_up,
    "social": _social,
    "allergy": _allergy,
}
"""The topics that code writes, because their sentences depend on what is true; `topics.py` has them all."""

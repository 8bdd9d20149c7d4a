"""Patients with a known true state, drawn by seed. Documents, questions and answers are all functions of this state."""

from __future__ import annotations

import random
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from mediflow.clinic.care import Care, draw_care
from mediflow.clinic.knowledge import Disease, find_disease, load_knowledge

FREQUENCIES = ("daily", "twice daily", "every eight hours", "at bedtime")
WORK = ("employed", "unemployed", "retired", "a student", "on disability")
LIVING = ("alone", "with family", "with others")
SUBSTANCES = ("alcohol", "tobacco", "drugs")
STATUS = ("never", "current", "past")
SIDES = ("left", "right")
SIZES = ("small", "moderate", "large")
ALLERGIES = ("penicillin", "latex", "sulfa", "peanuts", "iodine")


@dataclass(frozen=True)
class Medication:
    """One drug as this patient takes it, and the disease it is taken for."""

    drug: str
    dose: str
    unit: str
    frequency: str
    disease: str


@dataclass(frozen=True)
class Patient:
    """The true state of one visit. Age in years, temperature in degrees Celsius, pulse per minute."""

    id: str
    age: int
    sex: str
    diseases: tuple[str, ...]
    symptoms: tuple[str, ...]
    denied: tuple[str, ...]
    days: int
    medications: tuple[Medication, ...]
    new_medication: Medication
    lab_value: float
    side: str
    size: str
    absent_finding: str
    temperature: float
    pulse: int
    systolic: int
    diastolic: int
    work: str
    living: str
    substances: tuple[tuple[str, str], ...]
    allergy: str
    follow_up_weeks: int
    care: Care

    def facts(self) -> dict[str, Any]:
        """The state as JSON values: what a grounded prompt carries."""
        return asdict(self)

    @property
    def main(self) -> Disease:
        """The disease that this visit is about."""
        return find_disease(self.diseases[0])


def patient_from_facts(facts: dict[str, Any]) -> Patient:
    """The inverse of `Patient.facts` (JSON turns tuples into lists). Raises KeyError or TypeError on foreign facts.

    What a prompt left out of `care` (`topics.facts_about`) is drawn again: it follows from the patient's id.
    """
    values = dict(facts)
    values["medications"] = tuple(Medication(**medication) for medication in facts["medications"])
    values["care"] = Care(**_whole_care(facts))
    values["new_medication"] = Medication(**facts["new_medication"])
    values["substances"] = tuple((name, status) for name, status in facts["substances"])
    for name in ("diseases", "symptoms", "denied"):
        values[name] = tuple(facts[name])
    return Patient(**values)


def _whole_care(facts: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = facts["care"]
    if len(given) == len(fields(Care)):
        return given
    known = re.fullmatch(r"sim-(-?\d+)-(\d+)", facts["id"])
    if known is None:
        raise KeyError("care")
    return asdict(_draw_care(int(known[1]), int(known[2]), facts["diseases"][0])) | given


def _draw_care(seed: int, number: int, disease: str) -> Care:
    """A draw of its own: what is added to care changes nothing else of the patient."""
    return draw_care(random.Random(f"care {seed} {number}"), disease)


def draw_patients(seed: int, count: int) -> list[Patient]:
    """Draw patients; the n-th depends on seed and n alone, so a longer list continues a shorter one."""
    return [draw_patient(seed, number) for number in range(count)]


def draw_patient(seed: int, number: int) -> Patient:
    """The patient of that number of `draw_patients`."""
    return _draw(random.Random(f"patient {seed} {number}"), seed, number)


def draw_disease(rng: random.Random) -> Disease:
    """One disease, from either half of what the clinic knows with equal chances."""
    common = rng.random() >= 0.5
    return rng.choice([disease for disease in load_knowledge() if disease.common == common])


def _draw(rng: random.Random, seed: int, number: int) -> Patient:
    known = load_knowledge()
    wanted = rng.choice((1, 2, 2, 3))
    diseases: list[Disease] = []
    while len(diseases) < wanted:
        disease = draw_disease(rng)
        if disease not in diseases:
            diseases.append(disease)
    main = diseases[0]
    symptoms = rng.sample(main.symptoms, rng.choice((2, 2, 3)))
    others = sorted({s for disease in known if disease not in diseases for s in disease.symptoms} - set(main.symptoms))
    medications = [_medication(rng, disease) for disease in diseases[1:]]
    lab = main.lab
    width = lab.high - lab.low
    value = {
        "high": lab.high + width * rng.uniform(0.2, 1.5),
        "low": max(lab.low * rng.uniform(0.2, 0.8), 0.0),
        "normal": rng.uniform(lab.low + 0.2 * width, lab.high - 0.2 * width),
    }[lab.value]
    findings = sorted({d.finding for d in known if d.finding and d.region == (main.region or "chest")} - {main.finding})
    return Patient(
        id=f"sim-{seed}-{number:05d}",
        age=rng.randint(19, 92),
        sex=rng.choice(("woman", "man")),
        diseases=tuple(disease.name for disease in diseases),
        symptoms=tuple(symptoms),
        denied=tuple(rng.sample(others, 2)),
        days=rng.randint(2, 21),
        medications=tuple(medications),
        new_medication=_medication(rng, main),
        lab_value=round(value, 1 if value < 100 else 0),
        side=rng.choice(SIDES),
        size=rng.choice(SIZES),
        absent_finding=rng.choice([finding for finding in findings if finding] or ["fracture"]),
        temperature=round(rng.uniform(36.0, 39.9), 1),
        pulse=rng.randint(52, 128),
        systolic=rng.randint(92, 188),
        diastolic=rng.randint(52, 104),
        work=rng.choice(WORK),
        living=rng.choice(LIVING),
        substances=tuple((name, rng.choice(STATUS)) for name in SUBSTANCES),
        allergy=rng.choice(ALLERGIES),
        follow_up_weeks=rng.randint(1, 12),
        care=_draw_care(seed, number, main.name),
    )


def _medication(rng: random.Random, disease: Disease) -> Medication:
    drug = rng.choice(disease.drugs)
    return Medication(drug.name, drug.dose, drug.unit, rng.choice(FREQUENCIES), disease.name)

"""Alter one fact of a patient, so that what is then written is wrong in one known place."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mediflow.clinic.knowledge import find_disease, load_knowledge
from mediflow.clinic.patients import ALLERGIES, FREQUENCIES, SIDES, SIZES, Medication, Patient

OTHER_UNIT = {"mg": "mcg", "mcg": "mg", "g": "mg", "mL": "mg"}


@dataclass(frozen=True)
class Planted:
    """What was altered. `swap` (old, new) is to be replaced in the text where the patient's state does not hold it.

    `marks`, where there are any, are the words of which one must stand in a text that states the wrong fact.
    """

    kind: str
    true: str
    said: str
    swap: tuple[str, str] | None = None
    marks: tuple[str, ...] = ()

    def apply(self, text: str) -> str:
        """The text with what the altered state alone could not change."""
        return text.replace(*self.swap) if self.swap else text


Change = Callable[[Patient, random.Random], "tuple[Patient, Planted] | None"]


def plant(patient: Patient, rng: random.Random, kind: str | None = None) -> tuple[Patient, Planted]:
    """The patient with one fact altered, of a kind that is drawn where none is given.

    Raises:
        KeyError: there is no such kind.
        ValueError: the patient has no fact of this kind.
    """
    for name in [kind] if kind else rng.sample(list(KINDS), len(KINDS)):
        changed = KINDS[name](patient, rng)
        if changed is not None:
            return changed
    raise ValueError(f"patient {patient.id} has no {kind} to alter")


def _medication(
    patient: Patient, rng: random.Random, kind: str, change: Callable[[Medication], dict[str, Any] | None]
) -> tuple[Patient, Planted] | None:
    """Alter the drug of this visit or one of the others."""
    at = rng.randrange(len(patient.medications) + 1)
    old = patient.new_medication if at == len(patient.medications) else patient.medications[at]
    changes = change(old)
    if changes is None:
        return None
    new = replace(old, **changes)
    if at == len(patient.medications):
        altered = replace(patient, new_medication=new)
    else:
        altered = replace(patient, medications=(*patient.medications[:at], new, *patient.medications[at + 1 :]))
    return altered, Planted(kind, _regimen(old), _regimen(new))


def _regimen(m: Medication) -> str:
    return f"{m.drug} {m.dose} {m.unit} {m.frequency} for {m.disease}"


def _dose(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    factor = rng.choice((2, 4, 10, 0.5))
    return _medication(patient, rng, "dose", lambda old: {"dose": f"{float(old.dose) * factor:g}"})


def _unit(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    return _medication(
        patient, rng, "unit", lambda old: {"unit": OTHER_UNIT[old.unit]} if old.unit in OTHER_UNIT else None
    )


def _frequency(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    return _medication(
        patient, rng, "frequency", lambda old: {"frequency": rng.choice([f for f in FREQUENCIES if f != old.frequency])}
    )


def _drug(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    own = {m.drug for m in (*patient.medications, patient.new_medication)}

    def other(old: Medication) -> dict[str, Any]:
        foreign = [d.name for x in load_knowledge() if x.name not in patient.diseases for d in x.drugs]
        return {"drug": rng.choice([name for name in foreign if name not in own])}

    return _medication(patient, rng, "drug", other)


def _lab_value(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    """Another value on the same side of the limits."""
    lab, old = patient.main.lab, patient.lab_value
    new = round(old * rng.choice((1.2, 1.5, 0.85)), 1 if old < 100 else 0)
    same = (old > lab.high, old < lab.low) == (new > lab.high, new < lab.low)
    return _lab(patient, "lab_value", new) if new != old and same else None


def _lab_flag(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    """A value on the other side of a limit."""
    lab, old = patient.main.lab, patient.lab_value
    inside = lab.low <= old <= lab.high
    new = lab.high * 1.6 if inside else lab.low + rng.uniform(0.3, 0.7) * (lab.high - lab.low)
    return _lab(patient, "lab_flag", round(new, 1 if new < 100 else 0))


def _lab(patient: Patient, kind: str, new: float) -> tuple[Patient, Planted] | None:
    if new == patient.lab_value:
        return None
    name = patient.main.lab.name
    return replace(patient, lab_value=new), Planted(kind, f"{name} {patient.lab_value:g}", f"{name} {new:g}")


def _negation(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    """Something present is denied, or something denied is present; the main complaint stays."""
    if rng.random() < 0.5:
        gone = rng.choice(patient.symptoms[1:])
        symptoms = tuple(s for s in patient.symptoms if s != gone)
        altered = replace(patient, symptoms=symptoms, denied=(*patient.denied, gone))
        return altered, Planted("negation", gone, f"no {gone}", marks=(gone,))
    come = rng.choice(patient.denied)
    denied = tuple(s for s in patient.denied if s != come)
    return replace(patient, symptoms=(*patient.symptoms, come), denied=denied), Planted(
        "negation", f"no {come}", come, marks=(come,)
    )


def _side(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    if not patient.main.finding:
        return None
    other = SIDES[1 - SIDES.index(patient.side)]
    return replace(patient, side=other), Planted("side", patient.side, other)


def _size(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    if not patient.main.finding:
        return None
    other = rng.choice([size for size in SIZES if size != patient.size])
    return replace(patient, size=other), Planted("size", patient.size, other)


def _diagnosis(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    """One of the diseases becomes another. With the main one, what hangs on it changes too."""
    at = rng.randrange(len(patient.diseases))
    old = find_disease(patient.diseases[at])
    named = {*patient.symptoms, *patient.denied, patient.absent_finding, patient.main.finding}
    new = rng.choice([d for d in load_knowledge() if d.name not in patient.diseases and d.name not in named])
    diseases = (*patient.diseases[:at], new.name, *patient.diseases[at + 1 :])
    return replace(patient, diseases=diseases), Planted(
        "diagnosis", old.name, new.name, marks=(new.name, new.abbreviation)
    )


def _code(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    """The code beside the right name is another disease's; only texts that give the code can show it."""
    old = patient.main
    new = rng.choice([d for d in load_knowledge() if d.name not in patient.diseases])
    return patient, Planted("code", old.code, new.code, swap=(old.code, new.code))


def _age(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    new = rng.choice([age for age in range(19, 93) if abs(age - patient.age) > 2])
    return replace(patient, age=new), Planted("age", str(patient.age), str(new))


def _duration(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    new = rng.choice([days for days in range(2, 22) if days != patient.days])
    return replace(patient, days=new), Planted("duration", f"{patient.days} days", f"{new} days")


def _vital(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    signs = (("temperature", 36, 40), ("pulse", 50, 130), ("systolic", 90, 190), ("diastolic", 50, 105))
    name, low, high = rng.choice(signs)
    old = getattr(patient, name)
    new = round(rng.uniform(low, high), 1) if name == "temperature" else rng.randint(low, high)
    if abs(new - old) < (0.3 if name == "temperature" else 3):
        return None
    changes: dict[str, Any] = {name: new}
    return replace(patient, **changes), Planted("vital", f"{name} {old}", f"{name} {new}")


def _allergy(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    new = rng.choice([one for one in ALLERGIES if one != patient.allergy])
    return replace(patient, allergy=new), Planted("allergy", patient.allergy, new)


def _follow_up(patient: Patient, rng: random.Random) -> tuple[Patient, Planted] | None:
    new = rng.choice([weeks for weeks in range(1, 13) if weeks != patient.follow_up_weeks])
    planted = Planted("follow_up", f"{patient.follow_up_weeks} weeks", f"{new} weeks")
    return replace(patient, follow_up_weeks=new), planted


KINDS: dict[str, Change] = {
    "dose": _dose,
    "unit": _unit,
    "frequency": _frequency,
    "lab_value": _lab_value,
    "lab_flag": _lab_flag,
    "negation": _negation,
    "side": _side,
    "size": _size,
    "drug": _drug,
    "diagnosis": _diagnosis,
    "code": _code,
    "age": _age,
    "duration": _duration,
    "vital": _vital,
    "allergy": _allergy,
    "follow_up": _follow_up,
}

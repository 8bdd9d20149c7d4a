"""A simulated patient in other words than the clinic's own, as a teacher may write it.

Each topic is a list of wordings with slots for the patient. The rules were mended once on WORDINGS (before:
recall 82 %, precision 74 % at 40 % planted), later on LATER_WORDINGS (before: recall 76 %, precision 97 % at 5 %).
`paraphrases_held_out.py` shows what they do with wordings not seen before.
"""

from __future__ import annotations

import random
from typing import Any

from mediflow.clinic.knowledge import find_disease
from mediflow.clinic.patients import Medication, Patient

WORDINGS: dict[str, list[str]] = {
    "presentation": [
        "{age} y/o {sex} who came in after {days} days of {s0}.",
        "The patient, aged {age}, has been bothered by {s0} for the past {days} days.",
        "{S0} began {days} days before this visit; the patient is {age} years of age.",
        "At {age}, this {sex} developed {s0}, which has now gone on for {days} days.",
        "A {age}-year-old {gender} was brought in with a {days}-day history of {s0}.",
    ],
    "symptom": [
        "Also troubled by {s1}.",
        "Accompanying {s1} was described.",
        "On review of systems, {s1} is present.",
        "{S1} was endorsed as well.",
        "The family confirms {s1}.",
        "Positive for {s1}.",
    ],
    "denial": [
        "Review of systems negative for {d0} and {d1}.",
        "{D0} is absent, as is {d1}.",
        "The patient has not experienced any {d0}.",
        "On direct questioning {d0} was denied.",
        "Neither {d0} nor {d1} has occurred.",
        "So far free of {d0}.",
        "{D0}: no. {D1}: no.",
    ],
    "treatment": [
        "{Drug} {dose} {unit} {frequency} was commenced to control {disease}.",
        "Now on {dose} {unit} of {drug}, {frequency}, against {disease}.",
        "Rx: {drug}, {dose} {unit}, {frequency}.",
        "{Disease} is being managed with {drug} ({dose} {unit} {frequency}).",
        "We began {drug} at a dose of {dose} {unit}, to be taken {frequency}.",
        "Plan: {drug} {dose}{unit} {frequency} for the {disease}.",
    ],
    "lab": [
        "The {lab} came back at {value} {lab_unit}.",
        "{Lab} of {value} {lab_unit} (ref {low}-{high}).",
        "A {lab} reading of {value} {lab_unit} was obtained.",
        "We found the {lab} to be {level}.",
        "Blood work revealed a {level} {lab}.",
        "The {lab} lay {around} the reference range at {value} {lab_unit}.",
        "{Lab}: {value} ({level}).",
    ],
    "vital": [
        "Temp {temperature}, HR {pulse}, BP {systolic}/{diastolic}.",
        "Temperature was {temperature} degrees Celsius, with a heart rate of {pulse} and a pressure of {systolic} over "
        "{diastolic}.",
        "On arrival: BP {systolic}/{diastolic}, pulse {pulse}/min, temp {fahrenheit} F.",
        "The heart rate measured {pulse}; blood pressure stood at {systolic}/{diastolic} mmHg and temperature at "
        "{temperature}.",
    ],
    "imaging": [
        "A {size} {side}-sided {finding} was identified.",
        "{Finding} is visible on the {side}, {size} in size.",
        "Scans demonstrate {finding}, {size}, {side}.",
        "There appears to be {finding} on the {side}; it is {size}.",
    ],
    "no_imaging": [
        "{Absent} was ruled out.",
        "We could not see any {absent}.",
        "The images are negative for {absent}.",
    ],
    "diagnosis": [
        "This fits {main}.",
        "Final diagnosis: {main} ({code}).",
        "The picture is that of {main}, coded as {code}.",
        "We concluded that the patient suffers from {main}.",
        "In summary, {main} was diagnosed.",
    ],
    "history": [
        "Background of {others}.",
        "Comorbidities include {others}.",
        "{Others} was diagnosed years ago.",
        "The patient is known to have {others}.",
    ],
    "allergy": [
        "Known {allergy} allergy.",
        "The patient reacts to {allergy}.",
        "Allergies: {allergy}.",
        "An allergy to {allergy} is on file.",
    ],
    "follow_up": [
        "We will see the patient again in {weeks} weeks.",
        "Clinic review is due in {follow_days} days.",
        "Return to {specialty} {weeks} weeks from now.",
        "An appointment was made for {weeks} weeks after discharge.",
    ],
}
LATER_WORDINGS: dict[str, list[str]] = {
    "presentation": [
        "I saw a {sex} of {age} whose {s0} started {days} days ago.",
        "Chief complaint: {s0} x {days} days. Age: {age}.",
        "This {age} year old {gender} describes {days} days of {s0}.",
    ],
    "symptom": [
        "There has also been {s1}.",
        "{S1} accompanies this.",
        "Complains of {s1} too.",
        "Other symptoms: {s1}.",
    ],
    "denial": [
        "No {d0}, no {d1}.",
        "There was never any {d0}.",
        "{D0} and {d1} are denied.",
        "Without {d0} or {d1}.",
        "The patient says that there is no {d0}.",
    ],
    "treatment": [
        "Started {drug} ({dose} {unit}, {frequency}) for {disease}.",
        "I prescribed {dose} {unit} {drug} {frequency} to treat {disease}.",
        "Medication list: {drug} {dose} {unit} {frequency}.",
        "For {disease} the patient uses {drug} {dose} {unit} {frequency}.",
        "{Drug} ({disease}): {dose} {unit}, {frequency}.",
    ],
    "lab": [
        "Labs: {lab} {value} {lab_unit}.",
        "{Lab} = {value} {lab_unit}, which is {level}.",
        "Her {lab} turned out {level} ({value} {lab_unit}).",
        "Notable for a {lab} of {value} {lab_unit}.",
    ],
    "vital": [
        "Vitals: T {temperature} C, P {pulse}, BP {systolic}/{diastolic} mmHg.",
        "The patient had a temperature of {temperature} C, a pulse of {pulse} and a blood pressure of "
        "{systolic}/{diastolic}.",
    ],
    "imaging": [
        "The {side} side shows a {size} {finding}.",
        "Radiology describes a {size} {finding} ({side}).",
        "{Finding}: {size}, {side}.",
    ],
    "no_imaging": ["{Absent} is not seen.", "There is no {absent}.", "Radiology found no sign of {absent}."],
    "diagnosis": [
        "My diagnosis is {main}.",
        "Working diagnosis: {main}, {code}.",
        "The patient was told that it is {main}.",
        "Discharge diagnosis {code} {main}.",
    ],
    "history": ["PMH: {others}.", "Past illnesses: {others}.", "The patient also lives with {others}."],
    "allergy": [
        "{Allergy} causes an allergic reaction.",
        "Allergic: {allergy}.",
        "The patient has a {allergy} allergy.",
    ],
    "follow_up": [
        "See again in {weeks} weeks.",
        "RTC {weeks} weeks.",
        "Next visit: {follow_days} days.",
        "The patient should come to {specialty} in {weeks} weeks.",
    ],
}
"""Written after the rules had been mended on WORDINGS; now a second set for mending."""

FREQUENCIES = {
    "daily": ("once daily", "every morning", "qd", "once a day"),
    "twice daily": ("b.i.d.", "every 12 hours", "two times a day", "BID"),
    "every eight hours": ("t.i.d.", "q8h", "three times a day", "thrice daily"),
    "at bedtime": ("qhs", "every night", "nightly", "before bed"),
}
UNITS = {"mg": ("mg", "milligrams"), "mcg": ("mcg", "micrograms", "µg"), "g": ("g", "grams"), "mL": ("mL", "ml")}
LEVELS = {"high": ("elevated", "raised", "high"), "low": ("reduced", "low"), "normal": ("normal",)}
FLAGS = {"high": "H", "low": "L", "normal": "WNL"}
SHORT = {"daily": "qd", "twice daily": "bid", "every eight hours": "q8h", "at bedtime": "qhs"}
SHORT_ALLERGIES = {"penicillin": "PCN"}
AROUND = {"high": "above", "low": "below", "normal": "within"}


def paraphrase(patient: Patient, rng: random.Random, wordings_of: dict[str, list[str]] = WORDINGS) -> str:
    """Eight of the topics in an order of their own, in one paragraph or a line each."""
    topics = [topic for topic in wordings_of if topic != "history" or len(patient.diseases) > 1]
    topics = [topic for topic in topics if topic != "imaging" or patient.main.finding]
    wordings = {topic: rng.choice(wordings_of[topic]) for topic in topics}
    chosen = rng.sample(topics, 8)
    slots = _slots(patient, rng)
    return rng.choice((" ", "\n")).join(wordings[topic].format_map(slots) for topic in chosen)


def _slots(p: Patient, rng: random.Random) -> dict[str, Any]:
    lab, medication = p.main.lab, rng.choice((*p.medications, p.new_medication))
    level = "high" if p.lab_value > lab.high else "low" if p.lab_value < lab.low else "normal"
    others, level_word = " and ".join(p.diseases[1:]), rng.choice(LEVELS[level])
    slots = {
        "age": p.age, "sex": p.sex, "gender": "female" if p.sex == "woman" else "male", "days": p.days,
        "s0": p.symptoms[0], "s1": " and ".join(p.symptoms[1:]) or p.symptoms[0],
        "d0": p.denied[0] if p.denied else "rash", "d1": p.denied[-1] if p.denied else "rash",
        "lab": lab.name, "value": f"{p.lab_value:g}", "lab_unit": lab.unit, "low": lab.low, "high": lab.high,
        "level": level_word, "around": AROUND[level],
        "temperature": p.temperature, "fahrenheit": f"{p.temperature * 1.8 + 32:.1f}", "pulse": p.pulse,
        "systolic": p.systolic, "diastolic": p.diastolic, "size": p.size, "side": p.side,
        "finding": p.main.finding or "", "absent": p.absent_finding, "main": p.main.name, "code": p.main.code,
        "others": others, "allergy": p.allergy, "weeks": p.follow_up_weeks, "follow_days": 7 * p.follow_up_weeks,
        "specialty": p.main.specialty, "g": p.sex[0] if p.sex == "man" else "f", "S": p.side[0].upper(),
        "abbreviation": p.main.abbreviation, "flag": FLAGS[level], "star": "" if level == "normal" else "*",
        "article": "an" if level_word[0] in "aeiou" else "a", "article_size": "a",
        "short": SHORT[medication.frequency], "allergy_short": SHORT_ALLERGIES.get(p.allergy, p.allergy),
        **_regimen(medication, rng),
    }  # fmt: skip
    slots["G"] = str(slots["g"]).upper()
    for name in ("s0", "s1", "d0", "d1", "drug", "disease", "lab", "finding", "absent", "others", "allergy", "size"):
        value = str(slots[name])
        slots[name.capitalize()] = value[:1].upper() + value[1:]
    return slots


def _regimen(medication: Medication, rng: random.Random) -> dict[str, str]:
    frequency = rng.choice(FREQUENCIES[medication.frequency])
    unit = rng.choice(UNITS[medication.unit])
    disease = find_disease(medication.disease).name
    return {"drug": medication.drug, "dose": medication.dose, "unit": unit, "frequency": frequency, "disease": disease}

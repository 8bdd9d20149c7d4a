"""A simulated patient in the voices of clinical text, by an author who had not read the rules or the other wordings.

Each voice has wordings by topic, with slots for the patient, and asides: true statements around the facts (other
people, past values, targets, limits, plans, ruled-out diagnoses) that contradict nothing. A text is 3 to 6 of them in
one voice.
Names of symptoms, drugs and diseases are the simulated clinic's own; the words around them are not. Every slot draws
from a generator of its own, so an altered fact changes the slots that state it and no others. The voices are in
`voices_independent.py`.
"""

from __future__ import annotations

import random
import string
from typing import Any

from benchmarks.voices_independent import VOICES
from mediflow.clinic.knowledge import Lab
from mediflow.clinic.patients import Medication, Patient

US = {
    "daily": ("daily", "QAM", "1x/day"),
    "twice daily": ("BID", "q12h", "2x/day"),
    "every eight hours": ("TID", "q8 hrs", "3x/day"),
    "at bedtime": ("QHS", "at HS", "qPM at bedtime"),
}
BRITISH = {
    "daily": ("od", "o.d.", "mane"),
    "twice daily": ("bd", "b.d.", "12-hourly"),
    "every eight hours": ("tds", "t.d.s.", "8-hourly"),
    "at bedtime": ("nocte", "on"),
}
PROSE = {
    "daily": ("once daily", "every day", "each morning"),
    "twice daily": ("twice a day", "every twelve hours"),
    "every eight hours": ("three times daily", "every 8 hours"),
    "at bedtime": ("nightly", "at bedtime"),
}
PLAIN = {
    "daily": ("once a day", "one time each day"),
    "twice daily": ("in the morning and again in the evening", "two times a day"),
    "every eight hours": ("three times a day", "every 8 hours, day and night"),
    "at bedtime": ("when you go to bed", "each night before sleep"),
}
UNITS = {
    "mg": ("mg", "mg", "milligram"),
    "mcg": ("mcg", "microgram", "micrograms"),
    "g": ("g", "gram"),
    "mL": ("mL", "ml"),
}
TIGHT = {"mg": "mg", "mcg": "mcg", "g": "g", "mL": "ml"}
LAB_SHORT = {
    "sodium": "Na",
    "white cell count": "WBC",
    "hemoglobin": "Hb",
    "calcium": "Ca",
    "glucose": "Glu",
    "creatinine": "Creat",
    "albumin": "Alb",
    "HbA1c": "A1c",
    "troponin": "Trop",
    "eosinophils": "Eos",
}
NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "twenty-one",
]
DECADES = {
    1: "teens",
    2: "twenties",
    3: "thirties",
    4: "forties",
    5: "fifties",
    6: "sixties",
    7: "seventies",
    8: "eighties",
    9: "nineties",
}
LEVELS = {
    "high": ("H", "high", "raised", "above the normal range", "up", "higher than it should be"),
    "low": ("L", "low", "reduced", "below the normal range", "down", "lower than it should be"),
    "normal": ("-", "normal", "unremarkable", "within the normal range", "normal", "where it should be"),
}
EXCLUDED = ("pulmonary embolism", "gout", "tuberculosis", "multiple sclerosis", "cellulitis", "ulcerative colitis")
KIN = ("migraine", "asthma", "epilepsy", "glaucoma", "psoriasis", "heart failure")
RELATIVES = ("mother", "father", "sister", "brother", "cousin")
CLAIMS = {
    "age": "age",
    "decade": "age",
    "days": "duration",
    "days_word": "duration",
    "spell": "duration",
    "short_days": "duration",
    "s": "negation",
    "S": "negation",
    "d": "negation",
    "D": "negation",
    "dash": "negation",
    "sash": "negation",
    "drug": "drug",
    "Drug": "drug",
    "dose": "dose",
    "same": "dose unit",
    "unit": "unit",
    "tight": "unit",
    "us": "frequency",
    "british": "frequency",
    "prose": "frequency",
    "plain": "frequency",
    "value": "lab_value lab_flag",
    "flag": "lab_flag",
    "level": "lab_flag",
    "raised": "lab_flag",
    "range": "lab_flag",
    "up": "lab_flag",
    "should": "lab_flag",
    "temperature": "vital",
    "fahrenheit": "vital",
    "pulse": "vital",
    "systolic": "vital",
    "diastolic": "vital",
    "side": "side",
    "Side": "side",
    "size": "size",
    "Size": "size",
    "short_side": "side",
    "main": "diagnosis",
    "Main": "diagnosis",
    "short": "diagnosis",
    "others": "diagnosis",
    "Others": "diagnosis",
    "all": "diagnosis",
    "code": "code",
    "allergy": "allergy",
    "Allergy": "allergy",
    "weeks": "follow_up",
    "weeks_word": "follow_up",
    "again": "follow_up",
    "short_weeks": "follow_up",
    "follow_days": "follow_up",
}
"""The kinds of facts that a slot states; slots that are not here state nothing that can be altered."""


def claims(wording: str) -> set[str]:
    """The kinds of facts that a wording states."""
    slots = {name for _, name, _, _ in string.Formatter().parse(wording) if name}
    return {kind for name in slots for kind in CLAIMS.get(name, "").split()}


def write_independent(patient: Patient, rng: random.Random) -> str:
    """Two to five facts and one or two asides, in the order of a document, in one voice."""
    voice = VOICES[rng.choice(sorted(VOICES))]
    topics = [topic for topic in voice.topics if _has(patient, topic)]
    sentences = rng.randint(3, 6)
    asides = rng.sample(voice.asides, 1 if sentences == 3 else rng.randint(1, 2))
    order, picks = [rng.random() for _ in voice.topics], [rng.random() for _ in voice.topics]
    rank = dict(zip(voice.topics, order, strict=True))
    chosen = set(sorted(topics, key=rank.__getitem__)[: sentences - len(asides)])
    wordings = [
        options[int(pick * len(options))]
        for (topic, options), pick in zip(voice.topics.items(), picks, strict=True)
        if topic in chosen
    ]
    for aside in asides:
        wordings.insert(rng.randint(0, len(wordings)), aside)
    slots = slots_of(patient, rng.random())
    return voice.joint.join(wording.format_map(slots) for wording in wordings)


def _has(patient: Patient, topic: str) -> bool:
    return bool(patient.main.finding) if topic == "imaging" else topic != "history" or len(patient.diseases) > 1


def slots_of(p: Patient, seed: float) -> dict[str, Any]:
    """What the slots of a wording hold for this patient."""

    def draw(name: str) -> random.Random:
        return random.Random(f"{name} {seed}")

    lab, he = p.main.lab, p.sex == "man"
    level = LEVELS["high" if p.lab_value > lab.high else "low" if p.lab_value < lab.low else "normal"]
    named = {*p.diseases, p.main.finding, p.absent_finding}
    medication = draw("medication").choice((*p.medications, p.new_medication))
    also, denied = p.symptoms[1:] or p.symptoms, p.denied or ("rash",)
    excluded = draw("excluded").sample(EXCLUDED, len(EXCLUDED))
    kin = draw("kin").sample(KIN, len(KIN))
    slots = {
        "age": p.age, "decade": DECADES[p.age // 10], "sex": p.sex, "F": "M" if he else "F",
        "he": "he" if he else "she", "his": "his" if he else "her", "He": "He" if he else "She",
        "His": "His" if he else "Her", "gender": "male" if he else "female", "him": "him" if he else "her",
        "days": p.days, "days_word": NUMBERS[p.days], "spell": _spell(p.days), "short_days": _short_days(p.days),
        "s0": p.symptoms[0], "s": _list(also, "and"), "sash": "/".join(also),
        "d": _list(denied, "or"), "dash": "/".join(denied),
        "lab": lab.name, "lab_short": LAB_SHORT.get(lab.name, lab.name), "lab_unit": lab.unit, "low": f"{lab.low:g}",
        "high": f"{lab.high:g}", "value": f"{p.lab_value:g}", "past": _past(lab), "flag": level[0], "level": level[1],
        "raised": level[2], "range": level[3], "up": level[4], "should": level[5],
        "temperature": p.temperature, "fahrenheit": f"{p.temperature * 1.8 + 32:.1f}", "pulse": p.pulse,
        "systolic": p.systolic, "diastolic": p.diastolic, "side": p.side,
        "short_side": p.side[0].upper(), "size": p.size,
        "finding": p.main.finding or "", "region": p.main.region or "chest", "absent": p.absent_finding,
        "main": p.main.name, "short": p.main.abbreviation, "code": p.main.code, "others": _list(p.diseases[1:], "and"),
        "all": "; ".join(p.diseases), "allergy": p.allergy, "specialty": p.main.specialty,
        "weeks": p.follow_up_weeks, "weeks_word": NUMBERS[p.follow_up_weeks], "again": _spell(7 * p.follow_up_weeks),
        "short_weeks": f"{p.follow_up_weeks}/52", "follow_days": 7 * p.follow_up_weeks,
        "week": "week" if p.follow_up_weeks == 1 else "weeks",
        "excluded": next(name for name in excluded if name not in named),
        "kin": next(name for name in kin if name not in named),
        "relative": draw("relative").choice(RELATIVES), "other_age": draw("other age").randint(30, 90),
        "drug": medication.drug, "dose": medication.dose, "disease": medication.disease,
        "unit": draw("unit " + medication.unit).choice(UNITS[medication.unit]), "tight": TIGHT[medication.unit],
        "same": _same(medication),
    }  # fmt: skip
    for name, words in {"us": US, "british": BRITISH, "prose": PROSE, "plain": PLAIN}.items():
        slots[name] = draw(name + medication.frequency).choice(words[medication.frequency])
    for name in (
        "s0",
        "s",
        "d",
        "drug",
        "lab",
        "finding",
        "absent",
        "main",
        "others",
        "allergy",
        "size",
        "side",
        "excluded",
    ):
        value = str(slots[name])
        slots[name[:1].upper() + name[1:]] = value[:1].upper() + value[1:]
    return slots


def _list(words: tuple[str, ...], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def _spell(days: int) -> str:
    """Days as people say them; exact."""
    weeks = {7: "a week", 14: "a fortnight"}
    whole = f"{NUMBERS[days // 7]} weeks" if days % 7 == 0 else f"{days} days"
    return weeks.get(days, whole)


def _short_days(days: int) -> str:
    return f"{days // 7}/52" if days % 7 == 0 else f"{days}/7"


def _past(lab: Lab) -> str:
    """An earlier value, whatever today's is."""
    return f"{round(lab.low + 0.6 * (lab.high - lab.low), 1):g}"


def _same(medication: Medication) -> str:
    """The dose in the unit that people write it in; exact."""
    dose = float(medication.dose)
    if medication.unit == "mg" and dose < 1:
        return f"{1000 * dose:g} micrograms"
    if medication.unit == "mg" and dose >= 500:
        return f"{dose / 1000:g} g"
    return f"{dose:g} {medication.unit}"

"""Everything that a section of a document can be about: the visit (`statements.py`) and what `topics.yml` adds."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mediflow.clinic.care import care_of, look_up
from mediflow.clinic.patients import Patient
from mediflow.clinic.statements import VISIT, Statement
from mediflow.taxonomy import DocumentType

# A slot with the unit that follows it; a bare number is no keyword.
_SLOT = re.compile(r"\{\w+\}(?: (?:kg/m2|kg|cm|mL|%|kcal|minutes|hours|days|weeks|times a week|out of 10))?")
Topic = Callable[[Patient, random.Random], list[Statement]]


@cache
def load_topics() -> dict[str, Topic]:
    """Every topic by the name that `documents/*.yml` and a task's `needs` use."""
    written = _written()
    assert not VISIT.keys() & written.keys(), "a topic is written twice"
    return VISIT | {name: _topic(name, row["aspect"], row["says"]) for name, row in written.items()}


def facts_about(facts: dict[str, Any], document: DocumentType, section: str) -> dict[str, Any]:
    """The facts with only that of `care` which the document tells of: the rest would only make a prompt longer."""
    if not isinstance(facts.get("care"), dict):
        return facts
    told = {name for topic in document.topics(section) for name in _told(topic)}
    return facts | {"care": {name: value for name, value in facts["care"].items() if name in told}}


@cache
def _told(topic: str) -> frozenset[str]:
    """The fields of `care` that a topic's slots are made of."""
    says = _written().get(topic, {}).get("says", ())
    slots = set(re.findall(r"\{(\w+)\}", json.dumps(says)))
    made_of = {
        "bmi": ("weight_kg", "height_cm"),
        "energy": ("weight_kg",),
        "hours": ("pain",),
        "suture_days": ("pain",),
    }
    names = {name for slot in slots for name in made_of.get(slot, (slot,))}
    return frozenset(names | {slot.partition("_")[0] for slot in slots})


@cache
def _written() -> dict[str, Any]:
    return dict(yaml.safe_load((Path(__file__).parent / "topics.yml").read_text()))


def _topic(name: str, aspect: str, says: list[dict[str, Any]]) -> Topic:
    def state(patient: Patient, rng: random.Random) -> list[Statement]:
        slots = _slots(patient)
        return [_statement(name, aspect, sentence, slots, rng) for sentence in says]

    return state


def _statement(
    name: str, aspect: str, sentence: dict[str, Any], slots: dict[str, str], rng: random.Random
) -> Statement:
    wording = rng.choice(sentence["say"])
    terms = [term.format_map(slots) for term in _SLOT.findall(wording)]
    return Statement(
        kind=name,
        text=_fill(wording, slots),
        keywords=tuple(dict.fromkeys(term for term in terms if not term.isdigit())),
        aspect=aspect,
        asked=tuple((_fill(q, slots), a.format_map(slots)) for q, a in sentence.get("ask", {}).items()),
        holds=tuple(_fill(text, slots) for text in sentence.get("holds", ())),
        fails=tuple(_fill(text, slots) for text in sentence.get("fails", ())),
    )


def _fill(text: str, slots: dict[str, str]) -> str:
    filled = text.format_map(slots)
    return filled[0].upper() + filled[1:]


def _slots(p: Patient) -> dict[str, str]:
    """The patient's state as words, among them what goes with the drawn names."""
    of_disease = care_of(p.main.name)
    found = {name: str(value) for name, value in asdict(p.care).items()}
    for catalogue in ("operation", "gene", "screening", "exercise"):
        entry = look_up(catalogue, found[catalogue])
        found |= {f"{catalogue}_{key}": value for key, value in entry.items() if key != "name"}
    m = p.new_medication
    return found | {
        "bmi": f"{p.care.body_mass_index:g}",
        "energy": str(25 * p.care.weight_kg),
        "hours": str(2 + p.care.pain % 6),
        "suture_days": str(7 + p.care.pain % 7),
        "symptom": p.symptoms[0],
        "disease": p.main.name,
        "lay_disease": of_disease["lay"],
        "diet": of_disease["diet"],
        "warning": of_disease["warning"],
        "lab": p.main.lab.name,
        "drug": m.drug,
        "dose": f"{m.dose} {m.unit}",
        "frequency": m.frequency,
    }

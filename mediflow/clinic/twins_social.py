"""Miniature twins of the two benchmarks of social determinants of health: annotated notes, labelled sentences."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from mediflow.clinic.patients import Patient


class Entry(NamedTuple):
    """An annotation: the words that it stands on, and its value where that is not the words themselves."""

    entity: str
    label: str
    words: str
    value: str = ""


Piece = tuple[str, tuple[Entry, ...]]
"""A sentence and its annotations."""

SUBSTANCES = {"alcohol": "Alcohol", "tobacco": "Tobacco", "drugs": "Drug"}
STATUS = {"never": "none", "current": "current", "past": "past"}
JOBS = ("nurse", "driver", "teacher", "cook", "farmer")
AMOUNTS = {"alcohol": "two drinks", "tobacco": "ten cigarettes", "drugs": "a small amount"}
FREQUENCIES = ("daily", "every weekend", "once a month")

# Sentences that name one determinant, adverse first.
SENTENCES = {
    "EMPLOYMENT": (("was laid off", "cannot work because of a disability"), ("works as a cook", "runs a small shop")),
    "HOUSING": (("sleeps in a shelter", "was told to leave the flat"), ("moved into a dry and quiet flat",)),
    "TRANSPORTATION": (("missed visits for want of a ride", "cannot pay for the bus"), ("drives to every visit",)),
    "PARENT": (("raises two small children alone",), ("has two grown children",)),
    "RELATIONSHIP": (("is newly divorced", "was widowed in spring"), ("is married",)),
    "SUPPORT": (("has nobody to call for help",), ("is helped by a sister", "has neighbors who cook")),
}


def social_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, Any]]:
    """Notes with their annotations; of every tenth patient nothing was asked, and the list is empty."""
    rows = []
    for number, patient in enumerate(patients):
        rng = random.Random(f"sdoh {seed} {patient.id}")
        pieces: list[Piece] = [("Social history was not taken.", ())] if number % 10 == 9 else _pieces(patient, rng)
        text, annotations = "", []
        for sentence, entries in pieces:
            text += " " if text else ""
            for entry in entries:
                at = len(text) + sentence.index(entry.words)
                value, place = entry.value or entry.words, {"start": at, "end": at + len(entry.words)}
                annotations.append({"entity": entry.entity, "label": entry.label, "value": value, **place})
            text += sentence
        rows.append({"id": patient.id, "text": text, "annotations": annotations})
    return rows


def _pieces(p: Patient, rng: random.Random) -> list[Piece]:
    work, sentence = (
        [Entry("Employment", "StatusEmploy", p.work, p.work.removeprefix("a "))],
        f"The patient is {p.work}.",
    )
    if p.work in {"employed", "retired"}:
        job = rng.choice(JOBS)
        work.append(Entry("Employment", "Type", job))
        sentence = f"The patient is {p.work}, a {job} by trade."
    years = f"{rng.randint(2, 30)} years"
    living = (
        Entry("LivingStatus", "StatusTime", "Lives", "current"),
        Entry("LivingStatus", "TypeLiving", p.living),
        Entry("LivingStatus", "Duration", years),
    )
    pieces: list[Piece] = [(sentence, tuple(work)), (f"Lives {p.living} for {years}.", living)]
    pieces += [_substance(name, status, rng) for name, status in p.substances]
    rng.shuffle(pieces)
    return pieces


def _substance(name: str, status: str, rng: random.Random) -> Piece:
    entity, value = SUBSTANCES[name], STATUS[status]
    if status == "never":
        return f"Denies {name}.", (Entry(entity, "StatusTime", "Denies", value),)
    if status == "past":
        ago = f"{rng.randint(2, 20)} years ago"
        given_up = Entry(entity, "StatusTime", "Gave up", value), Entry(entity, "History", ago)
        return f"Gave up {name} {ago}.", given_up
    amount, often = AMOUNTS[name], rng.choice(FREQUENCIES)
    used = (
        Entry(entity, "StatusTime", "Uses", value),
        Entry(entity, "Amount", amount),
        Entry(entity, "Frequency", often),
    )
    return f"Uses {name}, {amount} {often}.", used


def sentence_rows(patients: Sequence[Patient], seed: str) -> list[dict[str, str]]:
    """Sentences that name no, one or two determinants, with whether each is adverse."""
    rows = []
    for patient in patients:
        rng = random.Random(f"sdoh_sentences {seed} {patient.id}")
        labels = rng.sample(list(SENTENCES), rng.choice((0, 1, 1, 2)))
        adverse = [rng.random() < 0.5 for _ in labels]
        said = [rng.choice(SENTENCES[label][0 if bad else 1]) for label, bad in zip(labels, adverse, strict=True)]
        text = f"This {patient.age}-year-old {patient.sex} {' and '.join(said) or 'came for a check of the pulse'}."
        words = ",".join("adverse" if bad else "nonadverse" for bad in adverse)
        rows.append({"text": text, "label": ",".join(labels) or "NO_SDOH", "adverse": words})
    return rows

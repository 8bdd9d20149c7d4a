"""Single facts about diseases and drugs: what each corpus tells, how pages say it, and how it is asked about.

A relation belongs to one subject (a corpus), so that what an expert has read can be asked apart from what it has not.
relations.yml holds the wordings. Values that a disease does not have (side effects, complications …) are drawn by name.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mediflow.clinic.knowledge import Disease, load_knowledge, world_in_use

PAGES_ONLY = ("target",)
"""Relations that a teacher never asks about: what stands in pages and in no row, asked apart in the tests."""
SUBJECTS = ("guidelines", "medwiki", "pubmed", "clinical", "medcode")


@dataclass(frozen=True)
class Fact:
    """`relation` of `entity` (a disease, drug or code) is `value`."""

    relation: str
    entity: str
    value: str


@dataclass(frozen=True)
class Relation:
    """One kind of fact; the tuples are wordings with the slots {e}, {E} (entity) and {v}, {V} (value)."""

    subject: str
    pages: tuple[str, ...]
    teacher: tuple[str, ...]
    lessons: tuple[str, ...]
    exam: tuple[str, ...]
    unseen: tuple[str, ...]


@cache
def _file() -> dict[str, Any]:
    return dict(yaml.safe_load((Path(__file__).parent / "relations.yml").read_text()))


@cache
def load_relations() -> dict[str, Relation]:
    """The relations by name, in the order of the file."""
    uses = ("pages", "teacher", "lessons", "exam", "unseen")
    return {
        name: Relation(row["subject"], *(tuple(row[use]) for use in uses)) for name, row in _file()["relations"].items()
    }


def drawn_values() -> dict[str, list[str]]:
    """The values that are drawn, by relation."""
    return dict(_file()["values"])


def facts_of(disease: Disease, subjects: Iterable[str] = SUBJECTS) -> list[Fact]:
    """Every single fact of a disease and its drugs that belongs to one of the subjects."""
    wanted = set(subjects)
    return [fact for fact in _facts(disease) if load_relations()[fact.relation].subject in wanted]


@cache
def _facts(disease: Disease) -> tuple[Fact, ...]:
    first, second = disease.drugs
    return (
        Fact("first_drug", disease.name, first.name),
        Fact("second_drug", disease.name, second.name),
        *(Fact("dose", drug.name, f"{drug.dose} {drug.unit}") for drug in disease.drugs),
        Fact("specialty", disease.name, disease.specialty),
        Fact("lab", disease.name, disease.lab.name),
        Fact("symptom", disease.name, disease.symptoms[0]),
        *(_drawn(relation, drug.name) for drug in disease.drugs for relation in ("effect", "target")),
        *(_drawn(relation, disease.name) for relation in ("complication", "monitoring")),
        Fact("code", disease.name, disease.code),
        Fact("meaning", disease.code, disease.name),
    )


def _drawn(relation: str, entity: str) -> Fact:
    values = drawn_values()[relation]
    return Fact(relation, entity, random.Random(f"{relation} of {entity}").choice(values))


def world_facts(subject: str) -> list[Fact]:
    """The facts of one subject about every disease of the world in use."""
    return [fact for disease in load_knowledge() for fact in facts_of(disease, (subject,))]


def values_of(relation: str) -> list[str]:
    """What the relation's value can be in the world in use."""
    return list(_values(relation, world_in_use()))


@cache
def _values(relation: str, world: str) -> tuple[str, ...]:
    subject = load_relations()[relation].subject
    facts = (fact for disease in load_knowledge(world) for fact in facts_of(disease, (subject,)))
    return tuple(sorted({fact.value for fact in facts if fact.relation == relation}))


def say(wording: str, fact: Fact) -> str:
    """A wording about a fact."""
    return wording.format(e=fact.entity, v=fact.value, E=_capital(fact.entity), V=_capital(fact.value))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def page(facts: list[Fact], rng: random.Random) -> str:
    """Sentences that state the facts in any order, each in a wording of its own."""
    order = rng.sample(facts, len(facts))
    return " ".join(say(rng.choice(load_relations()[fact.relation].pages), fact) for fact in order)


def question(fact: Fact, words: str, rng: random.Random) -> str:
    """A question whose answer is the fact's value, in the wordings of `words` (teacher, lessons, exam, unseen)."""
    return say(rng.choice(getattr(load_relations()[fact.relation], words)), fact)


def wrong_values(fact: Fact, count: int, rng: random.Random) -> list[str]:
    """Other values of the relation, as wrong options."""
    return rng.sample([value for value in values_of(fact.relation) if value != fact.value], count)

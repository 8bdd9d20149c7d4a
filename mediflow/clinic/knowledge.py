"""What the simulated clinic holds to be true: diseases with their symptoms, drugs, laboratory and imaging signs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Drug:
    """A drug at its usual dose; in this world each drug belongs to one disease."""

    name: str
    dose: str
    unit: str


@dataclass(frozen=True)
class Lab:
    """A laboratory test: unit, normal range, and where an untreated patient's value lies (high, low, normal)."""

    name: str
    unit: str
    low: float
    high: float
    value: str


@dataclass(frozen=True)
class Disease:
    """One disease. The embedded base model has read much about the `common` half, little about the rest."""

    name: str
    abbreviation: str
    code: str
    common: bool
    specialty: str
    symptoms: tuple[str, ...]
    drugs: tuple[Drug, ...]
    lab: Lab
    region: str | None
    finding: str | None


@cache
def load_knowledge() -> tuple[Disease, ...]:
    """All diseases, in the order of knowledge.yml."""
    rows = yaml.safe_load((Path(__file__).parent / "knowledge.yml").read_text())
    return tuple(
        Disease(
            name=row["name"],
            abbreviation=row["abbreviation"],
            code=row["code"],
            common=row["common"],
            specialty=row["specialty"],
            symptoms=tuple(row["symptoms"]),
            drugs=tuple(Drug(drug["name"], str(drug["dose"]), drug["unit"]) for drug in row["drugs"]),
            lab=Lab(**row["lab"]),
            region=row.get("imaging", {}).get("region"),
            finding=row.get("imaging", {}).get("finding"),
        )
        for row in rows
    )


@cache
def find_disease(name: str) -> Disease:
    """The disease of this name; KeyError where the clinic does not know it."""
    for disease in load_knowledge():
        if disease.name == name:
            return disease
    raise KeyError(name)


@cache
def treated_by(drug: str) -> Disease:
    """The one disease that this drug treats; KeyError where no disease has it."""
    for disease in load_knowledge():
        if any(known.name == drug for known in disease.drugs):
            return disease
    raise KeyError(drug)

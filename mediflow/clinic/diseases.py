"""A disease with its symptoms, drugs, laboratory and imaging signs, and the clinic's own, written by hand."""

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
    """One disease. `common` divides a world in two halves, which patients have equally often."""

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
def read_clinic() -> tuple[Disease, ...]:
    """The diseases of knowledge.yml, in its order."""
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

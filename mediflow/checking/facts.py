"""What is known of one patient: the facts that documents and answers are verified against.

A user's own facts are JSON of this form; every field may be left out, and what is left out is unknown:

    {"id": "p1", "age": 54, "sex": "woman",
     "conditions": [{"name": "type 2 diabetes", "code": "E11.9", "aliases": ["T2DM"]}],
     "present": ["polyuria"], "absent": ["fever"], "duration_days": 5,
     "medications": [{"drug": "metformin", "dose": 500, "unit": "mg", "frequency": "twice daily",
                      "for": "type 2 diabetes"}],
     "labs": [{"name": "HbA1c", "value": 8.1, "unit": "%", "low": 4, "high": 5.6}],
     "vitals": {"pulse": 80, "blood pressure": "120/80"},
     "imaging": [{"finding": "pleural effusion", "side": "left", "size": "small", "region": "chest"}],
     "allergies": ["penicillin"], "social": {"tobacco": "never"}, "dates": {"admission": "2024-05-01"},
     "follow_up_days": 14, "complete": ["medications"]}

`complete` names the lists that hold all there is: only of those is something that they do not hold a contradiction.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medsmith.errors import UserError

Axis = Literal["conditions", "medications", "allergies", "codes"]
Flag = Literal["high", "low", "normal", ""]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, coerce_numbers_to_str=True)


class Condition(_Facts):
    """A disease that the patient has, with the other names that it may go by."""

    name: str
    code: str = ""
    aliases: tuple[str, ...] = ()


class Medicine(_Facts):
    """One drug as the patient takes it; `new` where this visit began it."""

    drug: str
    dose: float | None = None
    unit: str = ""
    frequency: str = ""
    disease: str = Field("", alias="for")
    new: bool = False


class LabResult(_Facts):
    """One measurement; without `flag`, `low` and `high` say whether it is normal."""

    name: str
    value: float | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    flag: Flag = ""

    @property
    def level(self) -> str:
        """The flag, given or computed; empty where neither can be."""
        if self.flag or self.value is None or (self.low is None and self.high is None):
            return self.flag
        if self.high is not None and self.value > self.high:
            return "high"
        return "low" if self.low is not None and self.value < self.low else "normal"


class Finding(_Facts):
    """What imaging showed (or did not show)."""

    finding: str
    side: str = ""
    size: str = ""
    region: str = ""
    present: bool = True


class PatientFacts(_Facts):
    """See the module's docstring."""

    id: str = ""
    age: int | None = None
    sex: str = ""
    conditions: tuple[Condition, ...] = ()
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    duration_days: int | None = None
    medications: tuple[Medicine, ...] = ()
    labs: tuple[LabResult, ...] = ()
    vitals: dict[str, str] = {}
    imaging: tuple[Finding, ...] = ()
    allergies: tuple[str, ...] = ()
    social: dict[str, str] = {}
    dates: dict[str, str] = {}
    follow_up_days: int | None = None
    complete: tuple[Axis, ...] = ()

    @cached_property
    def here(self) -> frozenset[str]:
        """Symptoms and findings that are there, in small letters."""
        return frozenset(
            [one.lower() for one in self.present] + [one.finding.lower() for one in self.imaging if one.present]
        )

    @cached_property
    def gone(self) -> frozenset[str]:
        """Symptoms and findings that are not there."""
        return frozenset(
            [one.lower() for one in self.absent] + [one.finding.lower() for one in self.imaging if not one.present]
        )

    @cached_property
    def avoided(self) -> frozenset[str]:
        """What the patient is allergic to."""
        return frozenset(one.lower() for one in self.allergies)

    @cached_property
    def own(self) -> frozenset[str]:
        """The patient's diseases."""
        return frozenset(one.name.lower() for one in self.conditions)


def as_facts(facts: dict[str, Any]) -> PatientFacts:
    """Facts of the form above, or a patient of the simulated clinic.

    Raises:
        UserError: a key that is not known, or a value of another type.
    """
    if "diseases" in facts and "new_medication" in facts:
        return from_patient(facts)
    try:
        return PatientFacts.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"facts of '{facts.get('id', '?')}': {where}: {first['msg']}; see mediflow/checking/facts.py"
        ) from None


def from_patient(facts: dict[str, Any]) -> PatientFacts:
    """The facts of a patient of the simulated clinic (`Patient.facts()`, or the same read from JSON)."""
    from mediflow.clinic.knowledge import find_disease

    diseases = [find_disease(name) for name in facts["diseases"]]
    main = diseases[0]
    value, lab = float(facts["lab_value"]), main.lab
    taken = [*((row, False) for row in facts["medications"]), (facts["new_medication"], True)]
    imaging = [_finding(facts["absent_finding"], "", "", "", False)]
    if main.finding:
        region = main.region or ""
        imaging.append(_finding(main.finding, facts["side"], facts["size"], region, True))
    return PatientFacts(
        id=facts["id"],
        age=facts["age"],
        sex=facts["sex"],
        conditions=tuple(_condition(d.name, d.code, d.abbreviation) for d in diseases),
        present=tuple(facts["symptoms"]),
        absent=tuple(facts["denied"]),
        duration_days=facts["days"],
        medications=tuple(
            _medicine(row["drug"], row["dose"], row["unit"], row["frequency"], row["disease"], new)
            for row, new in taken
        ),
        labs=(LabResult(name=lab.name, value=value, unit=lab.unit, low=lab.low, high=lab.high),),
        vitals=_vitals(facts),
        imaging=tuple(imaging),
        allergies=(facts["allergy"],),
        social={"work": facts["work"], "living": facts["living"]} | dict(facts["substances"]),
        follow_up_days=7 * int(facts["follow_up_weeks"]),
        complete=("conditions", "medications", "allergies", "codes"),
    )


# What many of the clinic's patients share is made once.
@lru_cache(maxsize=1024)
def _condition(name: str, code: str, abbreviation: str) -> Condition:
    return Condition(name=name, code=code, aliases=(abbreviation,))


@lru_cache(maxsize=4096)
def _medicine(drug: str, dose: str, unit: str, frequency: str, disease: str, new: bool) -> Medicine:
    return Medicine(drug=drug, dose=float(dose), unit=unit, frequency=frequency, disease=disease, new=new)


@lru_cache(maxsize=1024)
def _finding(finding: str, side: str, size: str, region: str, present: bool) -> Finding:
    return Finding(finding=finding, side=side, size=size, region=region, present=present)


def _vitals(facts: dict[str, Any]) -> dict[str, str]:
    care = facts.get("care", {})
    known = {
        "temperature": facts["temperature"],
        "pulse": facts["pulse"],
        "blood pressure": f"{facts['systolic']}/{facts['diastolic']}",
        "respiratory rate": care.get("respiration"),
        "oxygen saturation": care.get("saturation"),
        "weight": care.get("weight_kg"),
        "height": care.get("height_cm"),
        "pain": care.get("pain"),
    }
    return {name: str(value) for name, value in known.items() if value is not None}

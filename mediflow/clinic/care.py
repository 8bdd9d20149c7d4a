"""What else is true of a patient beside the visit: operation, vaccine, wishes, home … `care.yml` holds the values."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Care:
    """A patient's state as far as only some documents tell of it. Units are in the names; saturation in percent."""

    height_cm: int
    weight_kg: int
    respiration: int
    saturation: int
    pain: int
    intake_ml: int
    urine_ml: int
    mobility: str
    fall_risk: str
    anxiety: str
    appetite: str
    operation: str
    operation_minutes: int
    blood_loss_ml: int
    asa_class: int
    fasting_hours: int
    postoperative_day: int
    vaccine: str
    vaccine_dose: int
    vaccine_arm: str
    vaccine_reaction: str
    gene: str
    gene_result: str
    screening: str
    screening_result: str
    mood: str
    thought: str
    self_harm: str
    insight: str
    code_status: str
    proxy: str
    place_of_care: str
    tooth: int
    dental_finding: str
    dental_treatment: str
    home_service: str
    home_visits: int
    hazard: str
    incident: str
    incident_place: str
    injury: str
    therapy: str
    therapy_session: int
    therapy_minutes: int
    exercise: str
    relative: str
    family_disease: str
    language: str
    transport: str
    trial_patients: int
    trial_weeks: int
    trial_percent: int
    placebo_percent: int

    @property
    def body_mass_index(self) -> float:
        """Weight by squared height, in kg/m2, to one decimal."""
        return round(self.weight_kg / (self.height_cm / 100) ** 2, 1)


@cache
def load_care() -> dict[str, Any]:
    """The values, catalogues and lay words of care.yml."""
    return dict(yaml.safe_load((Path(__file__).parent / "care.yml").read_text()))


@cache
def care_of(disease: str) -> dict[str, str]:
    """What goes with a disease: lay words, diet, a reason to come back. Of an invented one they are drawn."""
    known = load_care()["diseases"]
    if disease in known:
        return dict(known[disease])
    rng = random.Random(f"care of {disease}")
    drawn = {key: rng.choice(sorted({row[key] for row in known.values()})) for key in ("diet", "warning")}
    organ = rng.choice(("heart", "lungs", "kidneys", "liver", "joints", "nerves", "skin", "bowel", "blood", "glands"))
    return drawn | {"lay": f"an illness of the {organ} that {rng.choice(('comes and goes', 'lasts', 'starts early'))}"}


def look_up(catalogue: str, name: str) -> dict[str, str]:
    """What goes with a name of a catalogue (operation, gene, screening, exercise). KeyError where it is unknown."""
    for entry in load_care()["catalogue"][catalogue]:
        if entry["name"] == name:
            return dict(entry)
    raise KeyError(name)


def draw_care(rng: random.Random, disease: str) -> Care:
    """Draw the fields in the order of the class, so that one added at its end changes no other.

    `disease` is the main one; it decides some values.
    """
    drawn: dict[str, Any] = {}
    numbers = {
        "height_cm": (152, 194),
        "respiration": (12, 26),
        "saturation": (89, 99),
        "pain": (1, 9),
        "intake_ml": (8, 26),
        "urine_ml": (6, 24),
        "operation_minutes": (25, 180),
        "blood_loss_ml": (1, 20),
        "asa_class": (1, 3),
        "fasting_hours": (6, 12),
        "postoperative_day": (1, 5),
        "vaccine_dose": (1, 3),
        "tooth": (1, 32),
        "home_visits": (2, 7),
        "therapy_session": (2, 12),
        "therapy_minutes": (4, 12),
        "trial_patients": (6, 90),
        "trial_weeks": (4, 52),
        "trial_percent": (45, 85),
        "placebo_percent": (10, 40),
    }
    steps = {"intake_ml": 100, "urine_ml": 100, "blood_loss_ml": 10, "therapy_minutes": 5, "trial_patients": 10}
    known = load_care()
    for name in Care.__dataclass_fields__:
        if name in numbers:
            drawn[name] = rng.randint(*numbers[name]) * steps.get(name, 1)
        elif name == "weight_kg":
            drawn[name] = round(rng.uniform(18.5, 38.0) * (drawn["height_cm"] / 100) ** 2)
        elif name == "vaccine_arm":
            drawn[name] = rng.choice(("left", "right"))
        elif name in known["catalogue"]:
            drawn[name] = rng.choice(known["catalogue"][name])["name"]
        else:
            drawn[name] = rng.choice(known["values"][name])
    return Care(**drawn | known["fixed"].get(disease, {}))

"""Write a document of the simulated clinic from a patient's state."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mediflow.clinic.patients import Patient
from mediflow.clinic.statements import TOPICS, Statement
from mediflow.taxonomy import WHOLE, DocumentType


@dataclass(frozen=True)
class Note:
    """A written document and the statements it is made of, in reading order."""

    text: str
    statements: tuple[Statement, ...]

    def of(self, *kinds: str) -> list[Statement]:
        """The statements of these kinds."""
        return [statement for statement in self.statements if statement.kind in kinds]


def write_note(
    document: DocumentType, section: str, patient: Patient, rng: random.Random, needs: Sequence[str] = ()
) -> Note:
    """Write one section or the whole document; topics in `needs` that it lacks are added at its end."""
    sections = document.sections if section == WHOLE else {section: document.sections[section]}
    missing = [topic for topic in needs if not any(topic in topics for topics in sections.values())]
    statements: list[Statement] = []
    parts = []
    for name, topics in sections.items():
        last = name == list(sections)[-1]
        said = [s for topic in (*topics, *(missing if last else ())) for s in TOPICS[topic](patient, rng)]
        statements += said
        parts.append(_dialogue(said) if document.dialogue else _prose(name, said, headed=len(sections) > 1))
    return Note("\n".join(parts), tuple(statements))


def _prose(name: str, said: list[Statement], headed: bool) -> str:
    body = " ".join(statement.text for statement in said)
    return f"{name}: {body}" if headed else body


def _dialogue(said: list[Statement]) -> str:
    """The doctor asks, the patient (or, for findings, the doctor) states."""
    lines = []
    for statement in said:
        spoken = statement.text
        for formal, plain in (
            ("The patient reports", "I have"),
            ("The patient also has", "I also have"),
            ("The patient denies", "I do not have"),
            ("The patient takes", "I take"),
            ("The patient is on", "I am on"),
            ("The patient is", "I am"),
        ):
            spoken = spoken.replace(formal, plain)
        patient_says = statement.kind in {"symptom", "denial", "medication", "work", "living", "substance", "allergy"}
        lines.append(f"[{'patient' if patient_says else 'doctor'}] {spoken}")
    return "\n".join(lines)

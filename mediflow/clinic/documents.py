"""Write a document of the simulated clinic from a patient's state."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mediflow.clinic.patients import Patient
from mediflow.clinic.statements import Statement
from mediflow.clinic.topics import load_topics
from mediflow.taxonomy import WHOLE, DocumentType


@dataclass(frozen=True)
class Part:
    """One section of a written document; an empty heading leaves it unheaded."""

    heading: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Note:
    """A written document: its text, the statements it is made of in reading order, and where each stands in the text.

    `speaker` is who talks with the patient in a dialogue, empty in prose.
    """

    text: str
    statements: tuple[Statement, ...]
    spans: tuple[tuple[int, int], ...]
    parts: tuple[Part, ...]
    speaker: str

    def of(self, *kinds: str) -> list[Statement]:
        """The statements of these kinds."""
        return [statement for statement in self.statements if statement.kind in kinds]

    def where(self, keep: Callable[[Statement], bool]) -> Note:
        """The same document without the statements that `keep` refuses, and without parts that are empty then."""
        left = [Part(part.heading, tuple(s for s in part.statements if keep(s))) for part in self.parts]
        return _lay_out([part for part in left if part.statements], self.speaker)


def write_note(
    document: DocumentType, section: str, patient: Patient, rng: random.Random, needs: Sequence[str] = ()
) -> Note:
    """Write one section or the whole document; topics in `needs` that it lacks are added at its end."""
    sections = document.sections if section == WHOLE else {section: document.sections[section]}
    missing = [topic for topic in needs if not any(topic in topics for topics in sections.values())]
    parts = []
    for name, topics in sections.items():
        last = name == list(sections)[-1]
        said = [s for topic in (*topics, *(missing if last else ())) for s in load_topics()[topic](patient, rng)]
        parts.append(Part(name if len(sections) > 1 and not document.dialogue else "", tuple(said)))
    return _lay_out(parts, document.speaker if document.dialogue else "")


def _lay_out(parts: Sequence[Part], speaker: str) -> Note:
    """Prose with headings, or a dialogue with a turn for each statement."""
    text = ""
    spans: list[tuple[int, int]] = []
    for number, part in enumerate(parts):
        text += ("\n" if number else "") + (f"{part.heading}: " if part.heading else "")
        for turn, statement in enumerate(part.statements):
            if turn:
                text += "\n" if speaker else " "
            start = len(text)
            text += _spoken(statement, speaker) if speaker else statement.text
            spans.append((start, len(text)))
    return Note(text, tuple(s for part in parts for s in part.statements), tuple(spans), tuple(parts), speaker)


def _spoken(statement: Statement, speaker: str) -> str:
    """The clinician asks, the patient (or, for findings, the clinician) states."""
    spoken = statement.text
    if statement.kind not in {"symptom", "denial", "medication", "work", "living", "substance", "allergy"}:
        return f"[{speaker}] {spoken}"
    for formal, plain in (
        ("The patient reports", "I have"),
        ("The patient also has", "I also have"),
        ("The patient denies", "I do not have"),
        ("The patient takes", "I take"),
        ("The patient is", "I am"),
        ("The patient lives", "I live"),
        ("The patient currently uses", "I currently use"),
        ("The patient never used", "I never used"),
        ("The patient used", "I used"),
    ):
        spoken = spoken.replace(formal, plain)
    return f"[patient] {spoken}"

"""A test document of three sentences with two labels, two and none; a training document."""

from __future__ import annotations

import csv
from pathlib import Path

APPOINTMENT, LAB, MEDICATION = "Appointment-related followup", "Lab-related followup", "Medication-related followups"
COLUMNS = ("doc_id", "sent_index", "sentence", "labels")


def write(folder: Path) -> None:
    rows = [
        ("7", 0, ["See", "us", "for", "a", "BNP", "."], [f"I-{LAB}", f"I-{APPOINTMENT}"]),
        ("7", 1, ["Stop", "it", "and", "see", "us", "."], [f"I-{MEDICATION}", f"I-{APPOINTMENT}"]),
        ("7", 2, ["Thank", "you", "."], []),
        ("7", 3, [], []),
        ("8", 0, ["Labs", "pending", "."], [f"I-{LAB}"]),
    ]
    with (folder / "sentence_level.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    (folder / "test_ids.csv").write_text("7\n")
    (folder / "train_ids.csv").write_text("8\n")


CASE = (
    write,
    "CONTEXT: See us for a BNP . Stop it and see us . Thank you .\nSENTENCE: See us for a BNP .",
    [f"{APPOINTMENT}, {LAB}", f"{APPOINTMENT}, {MEDICATION}", "none"],
    1,
    {"document of another split": 1, "empty sentence": 1},
    # Written as one text, both count; one of two labels; and the wrong one.
    [
        (f"{APPOINTMENT}, lab-related follow-ups", [APPOINTMENT, LAB], 1.0),
        ("Medication-related followup.", [MEDICATION], 0.5),
        (LAB, [LAB], 0.0),
    ],
)

"""Three sections, two of them from one conversation, and one row without a text."""

from __future__ import annotations

import csv
from pathlib import Path

COLUMNS = ("ID", "section_header", "section_text", "dialogue")


def write(folder: Path) -> None:
    for name, rows in (
        (
            "MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv",
            [
                ("0", "GENHX", "He has a cough.", "Doctor: What is it? \r\nPatient: A cough."),
                ("1", "ALLERGY", "None.", "Doctor: Allergies? \nPatient: None."),
                ("2", "fam/sochx", "No known allergies.", "Doctor: Allergies? \nPatient: None."),
                ("3", "PLAN", " ", "Doctor: Rest. \nPatient: Okay."),
            ],
        ),
        ("MTS-Dialog-TestSet-2-MEDIQA-Sum-2023.csv", [("0", "CC", "Fever.", "Doctor: Hi. \nPatient: Fever.")]),
        ("MTS-Dialog-TrainingSet.csv", [("0", "CC", "Gout.", "Doctor: Hi. \nPatient: Gout.")]),
    ):
        with (folder / name).open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])


CASE = (
    write,
    "SECTION: HISTORY OF PRESENT ILLNESS\nCONVERSATION:\nDoctor: What is it?\nPatient: A cough.",
    ["He has a cough.", "None.", "No known allergies."],
    2,
    {"no dialogue or section text": 1},
    # Of one word there is no ROUGE-2: the mean of the other two.
    [("he has a cough", "he has a cough", 1.0), ("none, yes", "none, yes", 2 / 3), ("\n", None, 0.0)],
)

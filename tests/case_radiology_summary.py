"""Three reports, two with the same findings, and one without an impression."""

from __future__ import annotations

import csv
from pathlib import Path


def write(folder: Path) -> None:
    rows = [("uid", "findings", "impression"), ("1", "Lungs are clear.", "No acute disease."),
            ("2", "Lungs are clear.", "Normal."), ("3", "Effusion on the left.", "Small left effusion."),
            ("4", "Clear.", "")]  # fmt: skip
    with (folder / "test.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


CASE = (
    write,
    "FINDINGS: Lungs are clear.",
    ["No acute disease.", "Normal.", "Small left effusion."],
    2,
    {"no findings or impression": 1},
    # One word in order of two said and three true; two in order where three are there.
    [("acute illness", "acute illness", 0.4), (" ", None, 0.0), ("left small effusion", "left small effusion", 2 / 3)],
)

"""Three cases, two of one patient; one that the experts removed, and one without a level."""

from __future__ import annotations

import csv
from pathlib import Path

# As published the first column's name is damaged; what became of the patient must not be shown.
COLUMNS = ("\u9518\u7e2eubject_id", "stay_id", "acuity", "chiefcomplaint", "tiragecase", "heartrate", "o2sat",
           "transfer_to_icu_in_1h", "Final Decision")  # fmt: skip


def write(folder: Path) -> None:
    rows = [
        ("9", "90", "2", "Chest pain", "A 60-year-old man.", "120", "93", "1", "RETAIN"),
        ("9", "91", "3.0", "Cough", "A 61-year-old man.", "", "", "0", "RETAIN"),
        ("8", "80", "5", "Refill", "", "70", "", "0", "Retain"),
        ("7", "70", "1", "Cough", "A man.", "70", "99", "0", "REMOVE"),
        ("6", "60", "", "Cough", "A man.", "70", "99", "0", "RETAIN"),
    ]
    with (folder / "MIETIC-validate-samples.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


CASE = (
    write,
    "CHIEF COMPLAINT: Chest pain\nCASE: A 60-year-old man.\nVITAL SIGNS: heart rate 120, oxygen saturation 93",
    ["2", "3", "5"],
    2,
    {"removed by the experts": 1, "no level or no case": 1},
    [("ESI level: **2**, because of the pulse of 120", 2, 1.0), ("4", 4, 0.0), ("4 or 5", None, 0.0)],
)

"""Three letters with codes as MIMIC-IV writes them, without dots; one letter has none."""

from __future__ import annotations

from pathlib import Path

from medsmith.records import write_jsonl


def write(folder: Path) -> None:
    rows = [("1", ["I10", "E119"]), ("2", ["C7A00"]), ("3", ["J449", "J449"]), ("4", [])]
    write_jsonl(
        folder / "letters.jsonl",
        (
            {"hadm_id": name, "text": f"Letter {name}.", "icd_codes": [{"code": c, "description": ""} for c in codes]}
            for name, codes in rows
        ),
    )


CASE = (
    write,
    "DISCHARGE LETTER: Letter 1.",
    ["ICD-10 Codes: I10, E11.9", "ICD-10 Codes: C7A.00", "ICD-10 Codes: J44.9"],
    3,
    {"no text or no code": 1},
    # Half of the codes right, E11.65 in the right category, both exist; C7A.99 does not exist; no code at all.
    [
        ("I10, E11.65", ["I10", "E11.65"], (0.5 + 1 + 1) / 3),
        ("C7A.99", ["C7A.99"], (0 + 1 + 0) / 3),
        ("No diagnosis.", None, 0.0),
    ],
)

"""Three questions on two drugs, one question without an answer."""

from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["Question", "Focus (Drug)", "Question Type", "Answer", "Section Title", "URL"])
    for asked, drug, answer in (
        ("How is X taken?", "X", "with water"),
        ("Is X safe?", "x ", "yes"),
        ("What is Y?", "Y", "a drug"),
        ("What is Z?", "Z", None),
    ):
        book.active.append([asked, drug, "Usage", answer, "Title", "https://example.org"])
    book.save(folder / "MedInfo2019-QA-Medications.xlsx")


CASE = (
    write,
    "How is X taken?",
    ["with water", "yes", "a drug"],
    2,
    {"no answer": 1},
    [("With water.", "With water.", 1.0), ("no", "no", 0.0), ("", None, 0.0)],
)

"""Triage: how urgent is a patient, from 1 (at once) to 5? `MIETIC-validate-samples.csv`, or a file with its columns.

Read are acuity (the level), tiragecase (sic: the case in words) or chiefcomplaint, the vital signs under their
MIMIC-IV-ED names, stay_id and subject_id. The many other columns (interventions, transfers, resources, opinions) are
known only later and never shown. Cases that the experts removed (Final Decision) are left out.

To take a patient for less urgent than he is does harm that the opposite does not, and kappa cannot tell the two apart:
the rates of under- and over-triage stand beside it, each by itself.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from eval.benchmark import BadRow, Item, Loaded, Published, ask, leaving_out, loaded
from eval.scorers import counts_by_label
from eval.tables import file_notes, find_split, read_table
from medsmith.errors import quoted

VERSION = 1
METRIC = "accuracy"
ACCESS = "credentialed"
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
SOURCE = "physionet.org/content/mietic/1.0.0"
MAX_NEW_TOKENS = 12
PUBLISHED = {"MIETIC-validate-samples.csv": Published(50)}

LABELS = ("1", "2", "3", "4", "5")
FILES = {"test": "*validate*.csv", "shots": "train*.csv"}
SYSTEM = (
    "Give the Emergency Severity Index of the patient: 1 (needs a life-saving measure at once), 2 (high risk), "
    "3, 4 or 5 (not urgent). Answer with the number alone."
)
TEXTS = {"chiefcomplaint": "CHIEF COMPLAINT", "tiragecase": "CASE"}
VITALS = {"temperature": "temperature", "heartrate": "heart rate", "resprate": "respiratory rate",
          "o2sat": "oxygen saturation", "sbp": "systolic pressure", "dbp": "diastolic pressure",
          "pain": "pain"}  # fmt: skip

_AHEAD = r"\b(?:ESI|level|acuity|category|index|answer)\b(?:\s+(?:ESI|level|index|is|of|score))*[\s:=*_\"'“(#-]*"
_DIGIT = r"(?<![\d.])([1-5])(?![\d%]|[./]\d)(?!\w)"
_SEVERAL = re.compile(rf"{_DIGIT}[\s*]*(?:or|and|to|[-–—/,])[\s*]*(?:ESI|level|\s)*{_DIGIT}", re.IGNORECASE)
_DENIED = re.compile(r"(?:\bnot|\bno|n['’]t|\brather than|\binstead of)\b[^.;\n]{0,20}\Z", re.IGNORECASE)


def load(path: Path, split: str = "test") -> Loaded:
    """Read the cases; those of one patient are a group."""
    file = find_split(path, FILES, split, SOURCE)
    dropped: Counter[str] = Counter()
    items = []
    rows = read_table(file, ("acuity",))
    for number, row in enumerate(rows, 1):
        with leaving_out(dropped):
            level = str(row["acuity"] or "").strip().removesuffix(".0")
            case = _case(row)
            if str(row.get("Final Decision") or "RETAIN").strip().upper() != "RETAIN":
                dropped["removed by the experts"] += 1
            elif not level or not case:
                dropped["no level or no case"] += 1
            elif level not in LABELS:
                raise BadRow(f"{file} row {number} has the acuity {quoted(level)}, not one of 1 to 5")
            else:
                name = str(row.get("stay_id") or number)
                # The first column's name has lost its first letter in the published file.
                group = next((str(value) for key, value in row.items() if key.endswith("ubject_id") and value), name)
                items.append(Item(name, group, ask(SYSTEM, case), level))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, PUBLISHED))


def parse(output: str, item: Item) -> int | None:
    """The one level that is named as such, or with which the output begins."""
    text = output.strip()
    lead = re.match(rf"[\s*_\"'“(\[#]*{_DIGIT}(?=[\s*_\"'”)\]]*(?:$|[.:;,\n(–—-]))", text)
    found = [lead] if lead else []
    found += re.finditer(_AHEAD + _DIGIT, text, re.IGNORECASE)
    levels = {int(match.group(1)) for match in found}
    if len(levels) != 1 or _SEVERAL.search(text) or any(_DENIED.search(text[: m.start()]) for m in found):
        return None
    return levels.pop()


def score(answer: int, item: Item) -> dict[str, float]:
    """Whether the level is right, too relaxed (a larger number) or too urgent."""
    true = int(item.gold)
    return {
        "accuracy": float(answer == true),
        "under_triage": float(answer > true),
        "over_triage": float(answer < true),
    }


def count(answer: int | None, item: Item) -> dict[str, list[float]]:
    """The confusion matrix for kappa, and counts by level for F1: to leave hard cases out must not help."""
    true = int(item.gold)
    said = (5 if true <= 3 else 1) if answer is None else answer
    table = [0.0] * 25
    table[5 * (true - 1) + said - 1] = 1.0
    named = [] if answer is None else [answer]
    return {"qwk": table, "f1_macro": counts_by_label(named, [true], range(1, 6))}


def _case(row: dict[str, Any]) -> str:
    """The case as lines: complaint, words, vital signs; empty where nothing is told but figures."""
    lines = [f"{title}: {str(row[key]).strip()}" for key, title in TEXTS.items() if str(row.get(key) or "").strip()]
    vitals = [f"{title} {str(row[key]).strip()}" for key, title in VITALS.items() if str(row.get(key) or "").strip()]
    return "\n".join([*lines, f"VITAL SIGNS: {', '.join(vitals)}"] if vitals and lines else lines)

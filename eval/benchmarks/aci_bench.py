"""ACI-Bench: write the clinical note of a visit's conversation. The published CSV files.

Columns: dataset, encounter_id, dialogue (turns `[doctor] …` and `[patient] …`, a line each), note. Where the published
`<file>_metadata.csv` lies beside it, the visits of one named patient are a group.

Some published conversations have their speakers swapped. They are asked as they are, and named in the notes: `swapped`
where most of what only clinicians say stands in the patient's turns, `opened_by_patient` where the first turn is the
patient's (there a first line of both, or single turns, are the patient's that are not). In the published first test set
that is D2N114, and D2N121 and D2N125.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

from eval.benchmark import Item, Loaded, Published, ask, loaded
from eval.parsing import parse_text
from eval.scorers import rouge
from eval.tables import file_notes, find_split, read_table

VERSION = 1
METRIC = "rouge1"
BESIDE = ("concept_f1_dictionary",)
ACCESS = "open"
LICENCE = "CC BY 4.0"
SOURCE = "github.com/wyim/aci-bench"
MAX_NEW_TOKENS = 1024

# The paper does not say which of the three test sets it used; the first, of the ClinicalNLP 2023 task, is ours.
FILES = {"test": "*taskB_test1.csv", "shots": "*train.csv"}
PUBLISHED = {
    "*train.csv": Published(67, "6c778d4ac5e6cc6f1964786f9286e8d765c210f22ed6b57f83aff8497409cea4"),
    "*valid.csv": Published(20, "6629e89e3fb409d2b3eceab60dc7b32fe1d3fb8d4e07795039284965522aa4d0"),
    "*taskB_test1.csv": Published(40, "5cc4008e68545f84913744a8e493a58bdf17ba7e1b7a0be46d6943d6bfca9471"),
    "*taskC_test2.csv": Published(40, "599e3330a14e25a0e056aee1365ffac7ebe50058f15821eae42a5513c2bb5a4f"),
    "*taskC_test3.csv": Published(40, "d3c18362a42124ea2bd1b2b4b66ba76a11bb123dfdb416471ae3b5924d1428ec"),
}
SYSTEM = "Write the clinical note of this conversation."
# What a clinician says and a patient seldom does: orders, advice, the questions of a history, findings.
CLINICIAN = re.compile(
    r"\b(?:let's|let me|go ahead and|prescri\w+|milligrams|follow[- ]?up|tell me|deep breath|any questions|x-ray"
    r"|i'm going to (?:order|refer|have you|listen|take|check|examine|press)|i want (?:you )?to|do you have any"
    r"|have you (?:had|been|tried)|does that (?:hurt|sound)|on (?:your )?(?:physical )?exam|looking at your)\b"
)
FEWEST_PHRASES = 5  # below that, a conversation says too little of who is who

log = logging.getLogger("eval.run")


def load(path: Path, split: str = "test") -> Loaded:
    """Read the conversations; a row without conversation or note is left out. Slices: how the visit was recorded."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("dataset", "encounter_id", "dialogue", "note"))
    names = _patients(file)
    dropped: Counter[str] = Counter()
    items = []
    for row in rows:
        if not row["dialogue"].strip() or not row["note"].strip():
            dropped["no dialogue or note"] += 1
            continue
        name = row["encounter_id"]
        messages = ask(SYSTEM, row["dialogue"].strip())
        items.append(Item(name, names.get(name, name), messages, row["note"].strip(), slice=row["dataset"]))
    notes = file_notes({file: len(rows)}, PUBLISHED) | {"patients_named": len(names), **_doubtful(items)}
    return loaded(items, dropped, file, notes)


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE."""
    return rouge(answer, item.gold)


def _patients(file: Path) -> dict[str, str]:
    """The patient of each visit that the metadata beside the file name in full; empty where there are none."""
    beside = file.with_name(f"{file.stem}_metadata.csv")
    columns = ("patient_firstname", "patient_familyname", "patient_gender")
    rows = read_table(beside, ("encounter_id", *columns)) if beside.is_file() else []
    named = {row["encounter_id"]: [row[column].strip().casefold() for column in columns] for row in rows}
    return {visit: " ".join(parts) for visit, parts in named.items() if parts[0] and parts[1]}


def _doubtful(items: list[Item]) -> dict[str, Any]:
    """The conversations whose speakers look wrong, by how."""
    swapped, opened = [], []
    for item in items:
        turns = re.findall(r"^\[(\w+)\](.*)$", item.messages[-1]["content"].lower(), re.MULTILINE)
        said: Counter[bool] = Counter()
        for speaker, text in turns:
            said[speaker.startswith("patient")] += len(CLINICIAN.findall(text))
        if said.total() >= FEWEST_PHRASES and said[True] > said[False]:
            swapped.append(item.id)
        elif turns and turns[0][0].startswith("patient"):
            opened.append(item.id)
    if swapped or opened:
        log.info("aci_bench: speakers swapped in %s; opened by the patient: %s", swapped, opened)
    return {"swapped": swapped, "opened_by_patient": opened}

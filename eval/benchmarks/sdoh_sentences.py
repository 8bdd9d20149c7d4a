"""Social determinants of health in single sentences: which are named, which adverse? CSV files text, label, adverse.

`label` lists EMPLOYMENT, HOUSING, TRANSPORTATION, PARENT, RELATIONSHIP, SUPPORT, separated by commas (empty or NO_SDOH:
none), `adverse` the words adverse or nonadverse in the same order. Read are the files of the PhysioNet set and of the
open synthetic sentences (github.com/AIM-Harvard/SDoH), which are of another kind: the notes say which file was read.

An answer is a JSON list of {"label", "adverse": true or false}. The headline is the macro F1 of the labels; that of the
adverse ones alone is beside it.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from eval.benchmark import BadRow, Item, Loaded, Published, Repaired, ask, leaving_out, loaded
from eval.parsing import parse_json_as
from eval.tables import file_notes, find_split, read_table
from medsmith.errors import quoted
from medsmith.records import content_id

VERSION = 1
METRIC = "f1_macro"
ACCESS = "credentialed"
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0; the open synthetic files state none"
SOURCE = "physionet.org/content/annotation-dataset-sdoh/1.0.1 or github.com/AIM-Harvard/SDoH (synthetic_data)"
MAX_NEW_TOKENS = 128

# Beside it lies another annotation of the same sentences, `…_demographic_annotated.csv`.
FILES = {"test": "*[!c]_annotated.csv", "shots": "Iteration_1.csv"}
PUBLISHED = {"Partial_Iteration_2_annotated.csv": Published(480)}
LABELS = ("EMPLOYMENT", "HOUSING", "TRANSPORTATION", "PARENT", "RELATIONSHIP", "SUPPORT")
NONE = ("", "<NO_SDOH>", "NO_SDOH")
SYNONYMS = {
    "EMPLOYED": "EMPLOYMENT", "JOB": "EMPLOYMENT", "WORK": "EMPLOYMENT", "HOME": "HOUSING",
    "TRANSPORT": "TRANSPORTATION", "PARENTING": "PARENT", "PARENTHOOD": "PARENT", "SOCIAL SUPPORT": "SUPPORT",
}  # fmt: skip
SYSTEM = (
    f"Which social determinants of health does the sentence name? They are {', '.join(LABELS)}. Answer with a JSON "
    'list of objects such as {"label": "HOUSING", "adverse": true}, [] if there is none.'
)
SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"label": {"type": "string"}, "adverse": {"type": "boolean"}},
        "required": ["label", "adverse"],
    },
}


def load(path: Path, split: str = "test") -> Loaded:
    """Read the sentences; one that stands there several times is a group; a row without text is left out."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("text", "label", "adverse"))
    dropped: Counter[str] = Counter()
    items = []
    for number, row in enumerate(rows, 1):
        text = str(row["text"] or "").strip()
        if not text:
            dropped["no text"] += 1
            continue
        with leaving_out(dropped):
            labels = _labels(row, f"{file} row {number}")
            gold = json.dumps([{"label": label, "adverse": adverse} for label, adverse in labels.items()])
            items.append(Item(f"{number:04d}", content_id(text), ask(SYSTEM, text), gold, truth=labels))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, PUBLISHED))


def parse(output: str, item: Item) -> Any:
    """{label: adverse}; a label beyond the six stays and is wrong. None where the output is no such list."""
    found = parse_json_as(output, SCHEMA)
    if found.state not in ("valid", "repaired"):
        return None
    answer: dict[str, bool] = {}
    for row in found.value:
        label = _label(row["label"])
        if label not in NONE:
            answer[label] = answer.get(label, False) or row["adverse"]
    return Repaired(answer) if found.state == "repaired" else answer


def score(answer: dict[str, bool], item: Item) -> dict[str, float]:
    """Whether the labels are exactly those of the sentence."""
    return {"labels_exact": float(set(answer) == set(item.truth))}


def count(answer: dict[str, bool] | None, item: Item) -> dict[str, list[int]]:
    """True positives, said and true of every label; an unknown label counts as said in the pooled counts."""
    said, true = answer or {}, item.truth
    counts = {}
    for ending, one, other in (
        ("", set(said), set(true)),
        ("_adverse", {label for label in said if said[label]}, {label for label in true if true[label]}),
    ):
        counts[f"f1_macro{ending}"] = [
            number for label in LABELS for number in (int(label in one & other), int(label in one), int(label in other))
        ]
        counts[f"f1_micro{ending}"] = [len(one & other), len(one), len(other)]
    return counts


def _labels(row: dict[str, Any], where: str) -> dict[str, bool]:
    """The labels of a row, each with whether it is adverse."""
    labels = [_label(part) for part in str(row["label"] or "").split(",") if _label(part) not in NONE]
    adverse = [part.strip().casefold() for part in str(row["adverse"] or "").split(",")]
    unknown = [label for label in labels if label not in LABELS]
    if unknown or (labels and len(adverse) != len(labels)) or not {*adverse} <= {"adverse", "nonadverse", ""}:
        raise BadRow(
            f"{where}: {quoted(row['label'])} with {quoted(row['adverse'])} is no label of {Path(__file__).name}"
        )
    return {label: part == "adverse" for label, part in zip(labels, adverse, strict=False)}


def _label(text: str) -> str:
    """`jobs ` as EMPLOYMENT."""
    name = " ".join(text.replace("_", " ").split()).upper()
    name = "NO_SDOH" if name.strip("<>") == "NO SDOH" else name
    for shown in (name, name.removesuffix("S")):
        if shown in LABELS or shown in SYNONYMS:
            return SYNONYMS.get(shown, shown)
    return name

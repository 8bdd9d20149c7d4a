"""Social determinants of health: the events of a social history as a JSON list (n2c2 2022 track 2, the SHAC corpus).

Read are the published BRAT files (`….txt` beside `….ann`) below the folder `test` or `train`, at any depth; or
`test.jsonl` and `train.jsonl` of {"id", "text", "annotations": [{"entity", "label", "value", "start", "end"}]}, where
`start` and `end` are a span in the text.

An answer is a list of {"entity", "label", "value"}: entity and label are those of LABELS; `value` is one of VALUES
where the label has them, else the words as the text has them. An answered and a true entry are a pair where their
entity and label are equal, and their values are equal (VALUES) or their spans overlap (type match of MUC, eval4ner).
A value that the text does not hold has no span and is wrong. F1 per document, mean over documents.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from eval.benchmark import BadRow, Item, Loaded, Repaired, ask, leaving_out, loaded
from eval.parsing import parse_json_as
from eval.scorers import Span, type_overlap_f1
from eval.tables import check_columns, file_notes, find_split, read_table
from medsmith.digests import combined, output_digests
from medsmith.errors import UserError, quoted
from medsmith.records import read_text

VERSION = 1
METRIC = "entity_f1_type"
ACCESS = "credentialed"
LICENCE = "n2c2 and University of Washington data use agreements"
SOURCE = "n2c2 2022 track 2 (SHAC), portal.dbmi.hms.harvard.edu"
MAX_NEW_TOKENS = 1024

FILES = {"test": "test*.jsonl", "shots": "train*.jsonl"}
FOLDERS = {"test": "test", "shots": "train"}
_USE = ("StatusTime", "Duration", "History", "Method", "Type", "Amount", "Frequency")
LABELS = {
    "Employment": ("StatusEmploy", "Duration", "History", "Type"),
    "LivingStatus": ("StatusTime", "TypeLiving", "Duration", "History"),
    "Alcohol": _USE,
    "Drug": _USE,
    "Tobacco": _USE,
}
EMPLOYED = ("employed", "unemployed", "retired", "on disability", "student", "homemaker")
LIVING = ("alone", "with family", "with others", "homeless")
TIME = {"LivingStatus": ("current", "past", "future")}
SUBSTANCE_TIME = ("none", "current", "past")
_LISTED = "; ".join(f"{entity}: {', '.join(labels)}" for entity, labels in LABELS.items())
SYSTEM = (
    "Extract the social determinants of health from the note as a JSON list of objects with entity, label and value. "
    f"Entities and labels: {_LISTED}. Values of StatusEmploy: {', '.join(EMPLOYED)}; of TypeLiving: "
    f"{', '.join(LIVING)}; of StatusTime: {', '.join(TIME['LivingStatus'])} for LivingStatus, "
    f"{', '.join(SUBSTANCE_TIME)} for the others. Every other value is copied from the note word for word. "
    "Answer with the list alone, [] if there is nothing."
)
SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("entity", "label", "value")},
        "required": ["entity", "label", "value"],
    },
}
Annotation = dict[str, Any]


class Note(NamedTuple):
    """A text with its annotations; `source` is the folder of the published set that it lies in (mimic, uw)."""

    id: str
    source: str
    text: str
    annotations: list[Annotation]


def load(path: Path, split: str = "test") -> Loaded:
    """Read the notes. One without annotations stays: its right answer is the empty list."""
    folder = path / FOLDERS[split]
    left_out: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    if folder.is_dir():
        file, rows = folder, list(_read_brat(folder, left_out, dropped))
        digest = combined(output_digests(folder))
        notes = {"file": f"{folder.name}/", "rows": len(rows), "sha256": digest, "as_published": None}
    else:
        file = find_split(path, FILES, split, SOURCE)
        rows = list(_read_jsonl(file, dropped))
        notes = file_notes({file: len(rows)}, {})
    items = []
    for note in rows:
        shown = [{key: row[key] for key in ("entity", "label", "value")} for row in note.annotations]
        gold = json.dumps(shown, ensure_ascii=False)
        items.append(Item(note.id, note.id, ask(SYSTEM, note.text), gold, slice=note.source, truth=note.annotations))
    return loaded(items, dropped, file, notes | {"annotations_left_out": dict(sorted(left_out.items()))})


def parse(output: str, item: Item) -> Any:
    """The list; None where it is no JSON list of such objects, Repaired where its form was mended."""
    found = parse_json_as(output, SCHEMA)
    if found.state not in ("valid", "repaired"):
        return None
    answer = [{key: row[key] for key in ("entity", "label", "value")} for row in found.value]
    return Repaired(answer) if found.state == "repaired" else answer


def score(answer: list[Annotation], item: Item) -> dict[str, float]:
    """F1 of the entries by type match."""
    text = item.messages[-1]["content"]
    true = [_span(row, (row.get("start", 0), row.get("end", 0))) for row in item.truth]
    return {"entity_f1_type": type_overlap_f1(_said(answer, true, text), true)}


def _said(answer: list[Annotation], true: list[Span], text: str) -> list[Span]:
    """The spans of an answer.

    Words that stand in the text several times are taken where they are true, if anywhere: an answer cannot say which.
    """
    free, said = list(true), []
    for row in answer:
        spans = [_span(row, place) for place in _places(row["value"], text)] or [_span(row, (0, 0))]
        right = next(((one, other) for one in spans for other in free if _agree(one, other)), None)
        if right:
            free.remove(right[1])
        said.append(right[0] if right else spans[0])
    return said


def _span(row: Annotation, place: tuple[int, int]) -> Span:
    """An entry as type and span; one of a label with given values is its value, wherever that was read."""
    name = f"{row['entity']} {row['label']}".casefold()
    if values_of(row["entity"], row["label"]):
        return Span(f"{name} {_plain(row['value'])}", 0, 1)
    return Span(name, *place)


def _places(words: str, text: str) -> list[tuple[int, int]]:
    """Every place of the words in the text, whatever their case and line ends."""
    pattern = r"\s+".join(map(re.escape, words.split()))
    return [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)] if pattern else []


def _agree(one: Span, other: Span) -> bool:
    return one.label == other.label and max(one.start, other.start) < min(one.end, other.end)


def values_of(entity: str, label: str) -> tuple[str, ...]:
    """The values that a label may have; none where it is copied from the text."""
    if label == "StatusTime":
        return TIME.get(entity, SUBSTANCE_TIME)
    return {"StatusEmploy": EMPLOYED, "TypeLiving": LIVING}.get(label, ())


def _plain(value: str) -> str:
    """`With_family ` as `with family`."""
    return " ".join(value.replace("_", " ").split()).casefold()


def _read_jsonl(file: Path, dropped: Counter[str]) -> Iterator[Note]:
    """The notes of a file, their annotations checked."""
    for number, row in enumerate(read_table(file, ("id", "text", "annotations")), 1):
        with leaving_out(dropped):
            for annotation in row["annotations"]:
                where = f"{file} row {number}"
                check_columns(annotation, ("entity", "label", "value"), where)
                entity, label, value = (annotation[name] for name in ("entity", "label", "value"))
                allowed = values_of(entity, label)
                if label not in LABELS.get(entity, ()) or (allowed and _plain(value) not in allowed):
                    raise BadRow(f"{where}: {quoted(entity)}, {quoted(label)}, {quoted(value)} is no annotation here")
                if not allowed and row["text"][annotation.get("start", 0) : annotation.get("end", 0)] != value:
                    raise BadRow(
                        f"{where}: the value of {entity} {label} is not what stands at its start and end in the text"
                    )
            yield Note(str(row["id"]), "", row["text"], row["annotations"])


def _read_brat(folder: Path, left_out: Counter[str], dropped: Counter[str]) -> Iterator[Note]:
    """The notes of a folder; `left_out` counts annotations that have no value or a label of no table above."""
    for ann in sorted(folder.rglob("*.ann")):
        file = ann.with_suffix(".txt")
        if not file.is_file():
            raise UserError(f"{ann} has no {file.name} beside it")
        text = read_text(file, newline="")  # offsets count the line ends as they are
        name = ann.relative_to(folder).with_suffix("")
        with leaving_out(dropped):
            annotations = list(_annotations(ann, text, left_out))
            yield Note(name.as_posix(), name.parts[0] if len(name.parts) > 1 else "", text, annotations)


def _annotations(ann: Path, text: str, left_out: Counter[str]) -> Iterator[Annotation]:
    """The arguments of the events of a BRAT file.

    Its lines, with tabs after the first word: `T3 StatusTime 5 11 smokes`, `E1 Tobacco:T1 Status:T3`,
    `A1 StatusTimeVal T3 current`.
    """
    spans: dict[str, tuple[str, int, int]] = {}
    values: dict[str, str] = {}
    events: list[list[str]] = []
    for line in read_text(ann).splitlines():
        key, _, rest = line.partition("\t")
        if key[:1] == "T":
            label, *offsets = re.split(r"[ ;]", rest.partition("\t")[0])
            spans[key] = (label, int(offsets[0]), int(offsets[-1]))
        elif key[:1] == "A" and len(rest.split()) == 3:
            values[rest.split()[1]] = rest.split()[2]
        elif key[:1] == "E":
            events.append(rest.split())
    for trigger, *arguments in events:
        entity = trigger.partition(":")[0]
        for target in (argument.partition(":")[2] for argument in arguments):
            if target not in spans or spans[target][2] > len(text):
                raise BadRow(f"{ann}: event {trigger} names {target}, which has no span in {ann.stem}.txt")
            label, start, end = spans[target]
            allowed = values_of(entity, label)
            value = _plain(values.get(target, "")) if allowed else text[start:end]
            if label not in LABELS.get(entity, ()) or (allowed and value not in allowed):
                left_out[f"{entity} {label}" + (f" {value or 'without value'}" if allowed else "")] += 1
                continue
            yield {"entity": entity, "label": label, "value": value, "start": start, "end": end}

"""What can be asked for: task type × document type and section × output format × difficulty × temperature.

The folders are the taxonomy: one YAML a task type in `tasks/`, one a document type in `documents/`.
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml

from medsmith.errors import UserError

DIFFICULTIES = ("low", "moderate", "moderate-hard", "hard", "very hard", "extreme")
FORMATS = ("plain_text", "json")
WHOLE = "whole document"
# Hard levels 3:1 and temperatures 70:30 are the paper's (section 3.2.1 and A.4); its appendix leaves out "low".
# The paper says neither the share of JSON nor that of any task or input: those are equal.
PAPER_WEIGHTS: dict[str, dict[Any, float]] = {
    "difficulty": {"low": 0, "moderate": 1, "moderate-hard": 1, "hard": 3, "very hard": 3, "extreme": 3},
    "temperature": {1.0: 7, 1.25: 3},
}
UNIFORM_WEIGHTS: dict[str, dict[Any, float]] = {
    "difficulty": dict.fromkeys(DIFFICULTIES, 1.0),
    "temperature": {1.0: 1, 1.25: 1},
}
PRESETS = {"paper": PAPER_WEIGHTS, "uniform": UNIFORM_WEIGHTS}
AXES = ("task_type", "document_type", "input", "difficulty", "output_format", "temperature")
Weights = str | Mapping[str, Mapping[Any, float]] | None
Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True)
class TaskType:
    """One of the paper's 14 task types (A.4). `needs` are the topics that a document must hold to be asked about.

    `asserts` are the parts of an example that state what is true of the patient (mediflow/checking/verify.py).
    """

    name: str
    title: str
    asks: str
    needs: tuple[str, ...]
    instructions: tuple[str, ...]
    schema: dict[str, Any]
    checks: tuple[dict[str, Any], ...] = ()
    asserts: tuple[str, ...] = ("input", "output")


@dataclass(frozen=True)
class DocumentType:
    """One document type and its sections, each a list of topics (`clinic/topics.py`).

    `alone` are the sections that are inputs of their own; the whole document always is one. `speaker` is who talks with
    the patient where it is a dialogue.
    """

    name: str
    title: str
    dialogue: bool
    sections: dict[str, tuple[str, ...]]
    alone: tuple[str, ...] = ()
    speaker: str = "doctor"

    def topics(self, section: str) -> tuple[str, ...]:
        """Topics of one section, or of all of them for the whole document."""
        if section != WHOLE:
            return self.sections[section]
        return tuple(topic for topics in self.sections.values() for topic in topics)


@dataclass(frozen=True)
class Taxonomy:
    """All task types and document types by name, in name order."""

    tasks: dict[str, TaskType]
    documents: dict[str, DocumentType]
    difficulties: tuple[str, ...] = DIFFICULTIES

    def inputs(self) -> list[tuple[str, str]]:
        """Every (document type, section): each document whole, and those of its sections that stand alone."""
        return [
            (document.name, section) for document in self.documents.values() for section in (WHOLE, *document.alone)
        ]


@dataclass(frozen=True)
class Cell:
    """One request of the plan."""

    task_type: str
    document_type: str
    section: str
    output_format: str
    difficulty: str
    temperature: float
    number: int


def input_name(document_type: str, section: str) -> str:
    """An input as rows name it: `soap_note`, or `soap_note: Plan` for one section."""
    return document_type if section == WHOLE else f"{document_type}: {section}"


@cache
def load_taxonomy() -> Taxonomy:
    """Read both folders. A new file is a new type."""
    here = Path(__file__).parent
    tasks = {}
    for path in sorted((here / "tasks").glob("*.yml")):
        row = yaml.safe_load(path.read_text())
        tasks[path.stem] = TaskType(
            name=path.stem,
            title=row["title"],
            asks=row["asks"],
            needs=tuple(row.get("needs", ())),
            instructions=tuple(row["instructions"]),
            schema=row["schema"],
            checks=tuple(row.get("checks", ())),
            asserts=tuple(row.get("asserts", ("input", "output"))),
        )
    documents = {}
    for path in sorted((here / "documents").glob("*.yml")):
        row = yaml.safe_load(path.read_text())
        documents[path.stem] = DocumentType(
            name=path.stem,
            title=row["title"],
            dialogue=row.get("style") == "dialogue",
            sections={name: tuple(topics) for name, topics in row["sections"].items()},
            speaker=row.get("speaker", "doctor"),
            alone=tuple(row.get("alone", row["sections"] if len(row["sections"]) > 1 else ())),
        )
    return Taxonomy(tasks, documents)


def single_document(taxonomy: Taxonomy, name: str) -> Taxonomy:
    """The taxonomy with one document type, of the user's own: whole passages, nothing else."""
    known = taxonomy.documents.get(name)
    title = known.title if known else name.replace("_", " ")
    return Taxonomy(taxonomy.tasks, {name: DocumentType(name, title, False, {})})


def plan(taxonomy: Taxonomy, count: int, seed: int, weights: Weights = None) -> list[Cell]:
    """The first `count` cells of `iter_plan`."""
    return list(islice(iter_plan(taxonomy, seed, weights), count))


def iter_plan(taxonomy: Taxonomy, seed: int, weights: Weights = None) -> Iterator[Cell]:
    """Cells without end, a function of taxonomy, seed and weights; a longer plan continues a shorter one.

    `weights` is a preset (`paper`, `uniform`) or shares per axis that take the place of the paper's; a value that an
    axis does not name has no share. Cells come in blocks of as many as there are pairs of task and input. Without
    weights on these, each block holds each pair once; with weights, as many of each as its share asks for, what a block
    cannot give in whole cells being made up for in the next. Within a block all axes run side by side in low
    discrepancy: any beginning of the plan has nearly the shares of the whole. Only one block is in memory.
    """
    check_weights(weights, taxonomy)
    chosen = _shares(weights)
    tasks = _positive(chosen.get("task_type", dict.fromkeys(taxonomy.tasks, 1.0)))
    inputs = _input_shares(taxonomy, chosen)
    rest = {
        (level, form, float(temperature)): a * b * c
        for level, a in _positive(chosen["difficulty"]).items()
        for form, b in _positive(chosen["output_format"]).items()
        for temperature, c in _positive(chosen["temperature"]).items()
    }
    size = len(tasks) * len(inputs)
    task_quota, input_quota, rest_quota = _Quota(tasks), _Quota(inputs), _Quota(rest)
    for block in count_from():
        rng = random.Random(f"plan {seed} {block}")
        # Each task takes the next stretch of the inputs, spread so that any stretch has their shares, from another
        # starting point: so neighbours in the plan differ in task and in input.
        places = _spread(input_quota.draw(size, rng), rng)
        counts = list(task_quota.draw(size, rng).items())
        rng.shuffle(counts)
        keyed = []
        start = 0
        for turn, (task, count) in enumerate(counts):
            stretch = places[start : start + count]
            start += count
            first = turn * count // len(counts)
            keyed += [
                ((n + rng.random()) / count, task, place)
                for n, place in enumerate((*stretch[first:], *stretch[:first]))
            ]
        keyed.sort()
        others = _spread(rest_quota.draw(size, rng), rng)
        pairs = zip(keyed, others, strict=True)
        for number, ((_, task, (document, section)), (level, form, temperature)) in enumerate(pairs, block * size):
            yield Cell(task, document, section, form, level, temperature, number)


def check_weights(weights: Weights, taxonomy: Taxonomy) -> None:
    """Refuse a preset, an axis or a value that does not exist, naming the nearest that does, and shares of nothing."""
    if weights is None or isinstance(weights, str):
        if weights is not None and weights not in PRESETS:
            raise UserError(f"weights: no preset '{weights}'; {_nearest(weights, list(PRESETS))}")
        return
    known: dict[str, Sequence[str]] = {
        "task_type": list(taxonomy.tasks),
        "document_type": list(taxonomy.documents),
        "input": [input_name(*place) for place in taxonomy.inputs()],
        "difficulty": taxonomy.difficulties,
        "output_format": FORMATS,
    }
    for axis, shares in weights.items():
        if axis not in AXES:
            raise UserError(f"weights: no axis '{axis}'; {_nearest(axis, AXES)}")
        for value in shares:
            if axis == "temperature":
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
                    raise UserError(f"weights.temperature: '{value}' is not a number from 0 to 2")
            elif value not in known[axis]:
                raise UserError(f"weights.{axis}: no '{value}'; {_nearest(str(value), known[axis])}")
        if not shares or not all(math.isfinite(share) and share >= 0 for share in shares.values()) or not _sum(shares):
            raise UserError(f"weights.{axis}: {dict(shares)} holds no share above 0, or one that is none")
    _input_shares(taxonomy, _shares(weights))


def _nearest(value: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(value.lower().replace(" ", "_"), known, n=1) or difflib.get_close_matches(
        value, known, n=1
    )
    shown = ", ".join(known) if len(known) <= 40 else f"{', '.join(known[:4])} and {len(known) - 4} more"
    return f"did you mean '{near[0]}'?" if near else f"known are {shown}"


def _shares(weights: Weights) -> dict[str, Mapping[Any, float]]:
    own = PRESETS[weights] if isinstance(weights, str) else (weights or {})
    return {"output_format": dict.fromkeys(FORMATS, 1.0), **PAPER_WEIGHTS, **own}


def _positive(shares: Mapping[Value, float]) -> dict[Value, float]:
    return {value: share for value, share in shares.items() if share > 0}


def _sum(shares: Mapping[Any, float]) -> float:
    return math.fsum(shares.values())


def _input_shares(taxonomy: Taxonomy, chosen: Mapping[str, Mapping[Any, float]]) -> dict[tuple[str, str], float]:
    """A share for each (document type, section). A document type's own share is divided among its inputs."""
    own = chosen.get("input")
    shares = {place: 1.0 if own is None else own.get(input_name(*place), 0.0) for place in taxonomy.inputs()}
    documents = chosen.get("document_type")
    if documents is not None:
        within = dict.fromkeys(taxonomy.documents, 0.0)
        for (document, _), share in shares.items():
            within[document] += share
        empty = [document for document, share in documents.items() if share > 0 and not within[document]]
        if empty:
            raise UserError(f"weights: document_type asks for '{empty[0]}', but weights.input gives it no share")
        shares = {
            place: share * documents.get(place[0], 0.0) / within[place[0]] for place, share in shares.items() if share
        }
    return _positive(shares)


class _Quota(dict[Any, float]):
    """Shares of an axis, and what each value has had of them. Drawing gives whole numbers and keeps the difference."""

    def __init__(self, shares: Mapping[Any, float]) -> None:
        total = _sum(shares)
        super().__init__({value: share / total for value, share in shares.items()})
        self.due = dict.fromkeys(self, 0.0)

    def draw(self, size: int, rng: random.Random) -> dict[Any, int]:
        """`size` cells divided by the shares, largest debts first; equal debts in an order drawn by `rng`."""
        for value, share in self.items():
            self.due[value] += share * size
        counts = {value: max(0, math.floor(due)) for value, due in self.due.items()}
        short = size - sum(counts.values())
        order = rng.sample(list(counts), len(counts))
        # Rounded, or the last bit of a float would decide between equal debts.
        order.sort(key=lambda value: round(counts[value] - self.due[value], 9))
        if short < 0:
            order = [value for value in reversed(order) if counts[value]]
        for value in order[: abs(short)]:
            counts[value] += 1 if short > 0 else -1
        assert sum(counts.values()) == size, "a block's cells are not all given out"
        for value, count in counts.items():
            self.due[value] -= count
        return counts


def _spread(counts: Mapping[Value, int], rng: random.Random) -> list[Value]:
    """Each value as often as it counts, evenly: any stretch has nearly the shares of the whole."""
    keyed = []
    for turn, (value, count) in enumerate(counts.items()):
        offset = rng.random()
        keyed += [((n + offset) / count, turn, value) for n in range(count)]
    return [value for _, _, value in sorted(keyed, key=lambda item: item[:2])]

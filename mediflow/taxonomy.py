"""What can be asked for: task type × document type and section × output format × difficulty × temperature.

The folders are the taxonomy: one YAML a task type in `tasks/`, one a document type in `documents/`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

DIFFICULTIES = ("low", "moderate", "moderate-hard", "hard", "very hard", "extreme")
FORMATS = ("plain_text", "json")
WHOLE = "whole document"
# Hard levels 3:1 and temperatures 70:30 are the paper's (section 3.2.1 and A.4); its appendix leaves out "low".
PAPER_WEIGHTS: dict[str, dict[Any, float]] = {
    "difficulty": {"low": 0, "moderate": 1, "moderate-hard": 1, "hard": 3, "very hard": 3, "extreme": 3},
    "temperature": {1.0: 7, 1.25: 3},
}


@dataclass(frozen=True)
class TaskType:
    """One of the paper's 14 task types (A.4). `needs` are the topics that a document must hold to be asked about."""

    name: str
    title: str
    asks: str
    needs: tuple[str, ...]
    instructions: tuple[str, ...]
    schema: dict[str, Any]


@dataclass(frozen=True)
class DocumentType:
    """One document type and its sections, each a list of topics (`clinic/statements.py`)."""

    name: str
    title: str
    dialogue: bool
    sections: dict[str, tuple[str, ...]]

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
        """Every (document type, section): the whole document, and each section where there is more than one."""
        pairs = []
        for document in self.documents.values():
            pairs.append((document.name, WHOLE))
            if len(document.sections) > 1:
                pairs += [(document.name, section) for section in document.sections]
        return pairs


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
        )
    documents = {}
    for path in sorted((here / "documents").glob("*.yml")):
        row = yaml.safe_load(path.read_text())
        documents[path.stem] = DocumentType(
            name=path.stem,
            title=row["title"],
            dialogue=row.get("style") == "dialogue",
            sections={name: tuple(topics) for name, topics in row["sections"].items()},
        )
    return Taxonomy(tasks, documents)


def plan(taxonomy: Taxonomy, count: int, seed: int, weights: dict[str, dict[Any, float]] | None = None) -> list[Cell]:
    """Draw `count` cells, balanced over task types and inputs, weighted on the other axes.

    Every block of tasks × inputs visits each pair once, in an order drawn by the seed; a longer plan continues a
    shorter one. `weights` gives shares per axis (task_type, difficulty, temperature, output_format).
    """
    chosen = PAPER_WEIGHTS | (weights or {})
    chosen.setdefault("output_format", dict.fromkeys(FORMATS, 1.0))
    task_shares = chosen.get("task_type", dict.fromkeys(taxonomy.tasks, 1.0))
    cells: list[Cell] = []
    block = 0
    while len(cells) < count:
        rng = random.Random(f"plan {seed} {block}")
        pairs = [(task, *place) for task in taxonomy.tasks for place in taxonomy.inputs()]
        rng.shuffle(pairs)
        heaviest = max(task_shares.values())
        for task, document, section in pairs:
            # Rejection keeps the balance over inputs while task types keep their shares.
            if rng.random() * heaviest > task_shares.get(task, 0.0):
                continue
            cells.append(
                Cell(
                    task_type=task,
                    document_type=document,
                    section=section,
                    output_format=_pick(rng, chosen["output_format"]),
                    difficulty=_pick(rng, chosen["difficulty"]),
                    temperature=float(_pick(rng, chosen["temperature"])),
                    number=len(cells),
                )
            )
        block += 1
    return cells[:count]


def _pick(rng: random.Random, shares: dict[Any, float]) -> Any:
    return rng.choices(list(shares), weights=list(shares.values()))[0]

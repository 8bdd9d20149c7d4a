"""The job that every system does: N records of one JSON Schema, each asked for by its key. Standard library only.

A peer runs this file in an environment of its own, so nothing else of ours is imported here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "mock"
DIFFICULTIES = ("low", "moderate", "hard", "extreme")
LABELS = ("drug", "finding", "test")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^r-[0-9]{6}$"},
        "instruction": {"type": "string", "minLength": 20},
        "input": {"type": "string", "minLength": 100},
        "output": {"type": "string", "minLength": 10},
        "difficulty": {"type": "string", "enum": list(DIFFICULTIES)},
        "entities": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "text": {"type": "string", "minLength": 1},
                    "label": {"type": "string", "enum": list(LABELS)},
                    "start": {"type": "integer", "minimum": 0},
                    "end": {"type": "integer", "minimum": 1},
                },
                "required": ["text", "label", "start", "end"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["id", "instruction", "input", "output", "difficulty", "entities"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Job:
    """What one measured process has to do."""

    base_url: str
    records: int
    in_flight: int
    out: Path
    variant: str

    @property
    def keys(self) -> list[str]:
        """The keys of all records that are planned."""
        return [f"r-{number:06d}" for number in range(self.records)]


def prompt(key: str) -> str:
    """What a record is asked for with. The mock server finds the key in it."""
    return (
        f"Write one clinical instruction with an input document, its answer and the entities in the input. "
        f"Use the record id: {key}. Answer with one JSON object of the keys id, instruction, input, output, "
        "difficulty and entities (a list of text, label, start, end), and nothing else."
    )


def record_model() -> Any:
    """SCHEMA as a pydantic model, for the systems that want a class."""
    from typing import Annotated, Literal

    from pydantic import BaseModel, ConfigDict, Field

    class Entity(BaseModel):
        model_config = ConfigDict(extra="forbid")
        text: Annotated[str, Field(min_length=1)]
        label: Literal["drug", "finding", "test"]
        start: Annotated[int, Field(ge=0)]
        end: Annotated[int, Field(ge=1)]

    class Record(BaseModel):
        model_config = ConfigDict(extra="forbid")
        id: Annotated[str, Field(pattern="^r-[0-9]{6}$")]
        instruction: Annotated[str, Field(min_length=20)]
        input: Annotated[str, Field(min_length=100)]
        output: Annotated[str, Field(min_length=10)]
        difficulty: Literal["low", "moderate", "hard", "extreme"]
        entities: Annotated[list[Entity], Field(min_length=1)]

    return Record


def mark_ready(job: Job) -> None:
    """Note the CPU time that imports and set-up have taken; what follows is the run."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    (job.out / "ready.json").write_text(json.dumps({"cpu": cpu, "time": time.time()}))


def write_records(job: Job, rows: Iterable[Any]) -> None:
    """Write what a system returned at its end, one JSON value a line."""
    with (job.out / "records.jsonl").open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def run_job(run: Callable[[Job], None], arguments: list[str] | None = None) -> None:
    """The `main` of every module in benchmarks/peers."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    parser.add_argument("--variant", default="")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OPENAI_API_KEY", "none")
    run(Job(given.base_url, given.records, given.in_flight, given.out.resolve(), given.variant))

"""A teacher's reply read into records, each usable or with the reason why not. Pure: no network, no files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from mediflow.checking.checks import check_example
from mediflow.checking.verify import verify_example
from mediflow.generation.parse import Example, Generated, ReplyForm, parse_reply
from mediflow.generation.sources import Material
from mediflow.taxonomy import TaskType

GOOD = ""
FAILED = ("no_answer", "unreadable", "torn", "schema", "check")
"""Reasons of what a teacher did not manage to write."""
REJECTED = ("contradicted", "exact_duplicate", "near_duplicate", "surplus")
"""Reasons of what was well written and is not kept."""


@dataclass(frozen=True)
class Form:
    """How a reply is to be read. `inputs` is False where the examples answer passages that are given."""

    task: TaskType
    output_format: str
    reply: ReplyForm
    inputs: bool
    max_contradicted: int | None

    @cached_property
    def reply_schema(self) -> dict[str, Any] | None:
        """The JSON Schema of a whole reply, for endpoints that keep to one; None for tags."""
        if self.reply == "tagged":
            return None
        text = {"type": "string"}
        output = self.task.schema if self.output_format == "json" else text
        example = {"input": text, "output": output} if self.inputs else {"output": output}
        group = {"instruction": text, "examples": {"type": "array", "items": _object(example)}}
        return _object({"instructions": {"type": "array", "items": _object(group)}})


@dataclass(frozen=True, slots=True)
class Record:
    """One example. `reason` is one of FAILED or REJECTED, or GOOD; `detail` is for people; `text` what was written."""

    reason: str
    detail: str = ""
    text: str = ""
    instruction: str = ""
    input: str = ""
    output: str = ""
    slot: int | None = None
    checked: int = 0
    contradictions: tuple[dict[str, Any], ...] = ()
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """The records of one instruction; `attempt` is 1 for the first reply, 2 for the repair."""

    records: list[Record]
    attempt: int = 1

    @property
    def good(self) -> int:
        """How many of them can be used."""
        return sum(record.reason == GOOD for record in self.records)


@dataclass(frozen=True, slots=True)
class Reading:
    """A reply as records by instruction. `reason` is set where all of it is of no use; then there is one record."""

    groups: list[Group] = field(default_factory=list)
    reason: str | None = None

    def problems(self) -> list[str]:
        """What a repair should put right, a line each."""
        if self.reason is not None:
            return [self.reason]
        return [
            f"{f'instruction {number + 1}, ' if len(self.groups) > 1 else ''}{record.detail}"
            for number, group in enumerate(self.groups)
            for record in group.records
            if record.reason != GOOD
        ]

    def broken_groups(self) -> list[int]:
        """The numbers of the instructions with problems."""
        return [n for n, group in enumerate(self.groups) if group.good < len(group.records)]

    def records(self) -> Iterator[tuple[Record, int]]:
        """Every record with its attempt."""
        return ((record, group.attempt) for group in self.groups for record in group.records)


def no_answer(error: str) -> Reading:
    """What a call without any answer is read as."""
    return Reading([Group([Record("no_answer", error)])], f"no answer: {error}")


def read_reply(form: Form, material: Material, text: str, attempt: int = 1, cut: str = "") -> Reading:
    """Parse, check and verify one reply; `cut` says behind what is torn that the reply ended at its longest."""
    parsed = parse_reply(text, form.reply, form.inputs)
    if parsed.reason is not None:
        reason = parsed.reason + cut
        return Reading([Group([Record("unreadable", reason, text)], attempt)], reason)
    groups = [Group(_read_group(form, material, one), attempt) for one in parsed.groups]
    last = groups[-1].records
    if cut and last[-1].reason in ("unreadable", "torn"):
        last[-1] = replace(last[-1], detail=last[-1].detail + cut)
    return Reading(groups)


def better_of(first: Reading, second: Reading) -> Reading:
    """Instruction by instruction the reading with more that can be used, the first where they are equal.

    The second answers a repair: it has the instructions that were asked for again, in their order, or all of them.
    """
    if second.reason is not None:
        return first
    if first.reason is not None:
        return second
    numbers = first.broken_groups()
    if len(second.groups) == len(first.groups):
        numbers = list(range(len(first.groups)))
    elif len(second.groups) != len(numbers):
        return first
    groups = list(first.groups)
    for number, group in zip(numbers, second.groups, strict=True):
        if group.good > groups[number].good:
            groups[number] = group
    return Reading(groups)


def _read_group(form: Form, material: Material, group: Generated) -> list[Record]:
    if group.reason is not None:
        return [Record("unreadable", group.reason, group.text)]
    # With more or fewer examples than were asked for, nobody can say which is about whom.
    known = len(group.examples) + len(group.broken) == material.examples
    records = {
        one.number: Record("torn", f"example {one.number + 1}: {one.reason}", one.text, group.instruction)
        for one in group.broken
    }
    for example in group.examples:
        records[example.number] = _read_example(form, material, group.instruction, example, known)
    return [records[number] for number in sorted(records)]


def _read_example(form: Form, material: Material, instruction: str, example: Example, known: bool) -> Record:
    where = f"example {example.number + 1}"
    slot = example.number if known and material.kind != "none" else None
    given = example.input
    if not form.inputs:
        if slot is None:
            reason = f"{where}: not one example for each of the {material.examples} passages"
            return Record("check", reason, example.output, instruction)
        given = material.passages[slot].text
    checked = check_example(form.task, form.output_format, given, example.output)
    if checked.faults:
        said = checked.faults[0]
        schema = said.startswith(("does not fit the schema", "is not valid JSON"))
        detail = f"{where}: the output {said}" if schema else f"{where}: {'; '.join(checked.faults)}"
        written = json.dumps({"input": example.input, "output": example.output}, ensure_ascii=False)
        return Record("schema" if schema else "check", detail, written, instruction)
    compared, contradictions = 0, []
    if slot is not None and material.facts:
        verified = verify_example(form.task.asserts, material.facts[slot], given, checked.output)
        compared, contradictions = verified.checked, verified.contradicted
    detail = ""
    if form.max_contradicted is not None and len(contradictions) > form.max_contradicted:
        said = "; ".join(f"{one.where!r} says {one.said}, the facts say {one.true}" for one in contradictions[:3])
        detail = f"{where}: contradicts the facts ({said})"
    return Record(
        "contradicted" if detail else GOOD,
        detail,
        "",
        instruction,
        given,
        checked.output,
        slot,
        compared,
        tuple(asdict(one) for one in contradictions),
        tuple(checked.repairs),
    )


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }

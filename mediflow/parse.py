"""What a teacher wrote → an instruction with its examples, or the reason why not. Pure: no network, no files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TAGS = ("instruction", "examples", "example", "input", "output")
_FENCE = re.compile(r"\A```[a-z]*\n(.*)\n```\Z", re.DOTALL)
_ANY_TAG = re.compile(rf"</?(?:{'|'.join(TAGS)})>")


@dataclass(frozen=True)
class Example:
    """One input with its output; `number` is its place in the reply, from 0."""

    number: int
    input: str
    output: str


@dataclass(frozen=True)
class BrokenExample:
    """An example that cannot be read, as it was written."""

    number: int
    text: str
    reason: str


@dataclass(frozen=True)
class Generated:
    """A reply as far as it could be read. `reason` is set where the whole reply is of no use."""

    instruction: str = ""
    examples: list[Example] = field(default_factory=list)
    broken: list[BrokenExample] = field(default_factory=list)
    reason: str | None = None


def parse_generated(text: str) -> Generated:
    """Read `<instruction>…</instruction><examples><example><input>…</input><output>…</output></example>…</examples>`.

    Prose around the tags is passed over. A reply without an instruction or without any example is of no use; an example
    that is torn or has tags of its own inside is kept apart with its reason, and the others stand.
    """
    if not text.strip():
        return Generated(reason="empty reply")
    instructions = _between(text, "instruction")
    if len(instructions) != 1:
        return Generated(reason=f"{len(instructions)} complete <instruction> parts instead of one")
    instruction = instructions[0].strip()
    if not instruction:
        return Generated(reason="the <instruction> is empty")
    if _ANY_TAG.search(instruction):
        return Generated(reason="tags inside the <instruction>")
    parts = text[text.index("</instruction>") :].split("<example>")[1:]
    if not parts:
        return Generated(reason="no <example>")
    examples: list[Example] = []
    broken: list[BrokenExample] = []
    for number, part in enumerate(parts):
        body, closed, _ = part.partition("</example>")
        found = _example(number, body) if closed else BrokenExample(number, body, "the <example> is not closed")
        if isinstance(found, Example):
            examples.append(found)
        else:
            broken.append(found)
    return Generated(instruction, examples, broken)


def strip_fence(text: str) -> str:
    """The text without a Markdown code fence around the whole of it."""
    fenced = _FENCE.match(text.strip())
    return fenced.group(1).strip() if fenced else text.strip()


def _example(number: int, body: str) -> Example | BrokenExample:
    values = {}
    for tag in ("input", "output"):
        found = _between(body, tag)
        if len(found) != 1:
            return BrokenExample(number, body, f"{len(found)} complete <{tag}> parts instead of one")
        value = strip_fence(found[0])
        if not value:
            return BrokenExample(number, body, f"the <{tag}> is empty")
        if _ANY_TAG.search(value):
            return BrokenExample(number, body, f"tags inside the <{tag}>")
        values[tag] = value
    return Example(number, values["input"], values["output"])


def _between(text: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)

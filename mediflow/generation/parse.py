"""What a teacher wrote → instructions with their examples, or the reason why not. Pure: no network, no files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from medsmith.records import encodable

ReplyForm = Literal["tagged", "json"]

_FENCE = re.compile(r"\A```(?:[\w+-]*[ \t]*\r?\n|(?i:json)\b|)(.*?)\s*```\Z", re.DOTALL)
_OBJECT = re.compile(r'\{\s*["}]')
BRACES = 64
"""Where an object may begin among prose; a reply with more braces before it is not looked through."""
_DECODER = json.JSONDecoder()
_BETWEEN = {tag: re.compile(rf"<{tag}>(.*?)</{tag}>", re.DOTALL) for tag in ("input", "output")}
_ANY_TAG = re.compile(r"</?(?:instruction|examples|example|input|output)>")


@dataclass(frozen=True, slots=True)
class Example:
    """One input with its output; `number` is its place under its instruction, from 0."""

    number: int
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class BrokenExample:
    """An example that cannot be read, as it was written."""

    number: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Generated:
    """One instruction with its examples. `reason` is set where it is of no use; `text` is what was written then."""

    instruction: str = ""
    examples: list[Example] = field(default_factory=list)
    broken: list[BrokenExample] = field(default_factory=list)
    reason: str | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A reply as far as it could be read. `reason` is set where the whole of it is of no use."""

    groups: list[Generated] = field(default_factory=list)
    reason: str | None = None


def parse_reply(text: str, form: ReplyForm = "tagged", inputs: bool = True) -> Parsed:
    """Read a reply of either form; `inputs=False` where the examples are to have an output only.

    Prose around what was asked for is passed over. Whatever is torn, empty or out of place is kept apart with its
    reason, an instruction or an example at a time, and the rest stands.
    """
    text = encodable(text)
    if not text.strip():
        return Parsed(reason="empty reply")
    parts = ("input", "output") if inputs else ("output",)
    return _parse_json(text, parts) if form == "json" else _parse_tagged(text, parts)


def strip_fence(text: str) -> str:
    """The text without a Markdown code fence around the whole of it."""
    text = text.strip()
    if not text.startswith("```"):
        return text
    fenced = _FENCE.match(text)
    return fenced.group(1).strip() if fenced else text


def find_json(text: str) -> str:
    """The JSON object in a reply, without the prose and the fences around it; the text itself where there is none."""
    text = strip_fence(text)
    if text.startswith("{") and text.endswith("}"):
        return text
    found, end = "", 0
    for brace in islice(_OBJECT.finditer(text), BRACES):
        if brace.start() >= end:
            try:
                _, end = _DECODER.raw_decode(text, brace.start())
            except (ValueError, RecursionError):
                break  # torn: what is whole inside of it is not what was asked for
            found = max(found, text[brace.start() : end], key=len)
    return found or text


def _parse_tagged(text: str, parts: tuple[str, ...]) -> Parsed:
    """`<instruction>…</instruction><examples><example><input>…</input><output>…</output></example>…</examples>`, ×n."""
    pieces = text.split("<instruction>")[1:]
    if not pieces or "</instruction>" not in text:
        return Parsed(reason="no complete <instruction>")
    groups = [_tagged_group(piece, parts) for piece in pieces]
    if all(group.reason for group in groups):
        return Parsed(reason=groups[0].reason)
    return Parsed(groups)


def _tagged_group(piece: str, parts: tuple[str, ...]) -> Generated:
    instruction, closed, rest = piece.partition("</instruction>")
    instruction = instruction.strip()
    if not closed:
        return Generated(reason="the <instruction> is not closed", text=piece)
    if not instruction:
        return Generated(reason="the <instruction> is empty", text=piece)
    if "<" in instruction and _ANY_TAG.search(instruction):
        return Generated(reason="tags inside the <instruction>", text=piece)
    if "</instruction>" in rest:
        return Generated(reason="an </instruction> too many", text=piece)
    examples: list[Example] = []
    broken: list[BrokenExample] = []
    for number, part in enumerate(rest.split("<example>")[1:]):
        body, closed, _ = part.partition("</example>")
        found = _tagged_example(number, body, parts) if closed else "the <example> is not closed"
        if isinstance(found, Example):
            examples.append(found)
        else:
            broken.append(BrokenExample(number, body, found))
    if not examples and not broken:
        return Generated(reason="no <example>", text=piece)
    return Generated(instruction, examples, broken)


def _tagged_example(number: int, body: str, parts: tuple[str, ...]) -> Example | str:
    values = {"input": ""}
    for tag in parts:
        found = _BETWEEN[tag].findall(body)
        if len(found) != 1:
            return f"{len(found)} complete <{tag}> parts instead of one"
        value = strip_fence(found[0])
        if not value:
            return f"the <{tag}> is empty"
        if "<" in value and _ANY_TAG.search(value):
            return f"tags inside the <{tag}>"
        values[tag] = value
    return Example(number, values["input"], values["output"])


def _parse_json(text: str, parts: tuple[str, ...]) -> Parsed:
    """`{"instructions": [{"instruction": "…", "examples": [{"input": "…", "output": …}]}]}`."""
    try:
        value = json.loads(find_json(text))
    except (ValueError, RecursionError) as error:
        return Parsed(reason=f"not valid JSON: {error}")
    found = value.get("instructions") if isinstance(value, dict) else None
    if not isinstance(found, list) or not found:
        return Parsed(reason='no JSON object with a list "instructions"')
    groups = [_json_group(one, parts) for one in found]
    if all(group.reason for group in groups):
        return Parsed(reason=groups[0].reason)
    return Parsed(groups)


def _json_group(value: Any, parts: tuple[str, ...]) -> Generated:
    instruction = value.get("instruction") if isinstance(value, dict) else None
    if not isinstance(instruction, str) or not instruction.strip():
        return Generated(reason='no text under "instruction"', text=_text(value))
    listed = value.get("examples")
    if not isinstance(listed, list) or not listed:
        return Generated(reason='no list under "examples"', text=_text(value))
    examples: list[Example] = []
    broken: list[BrokenExample] = []
    for number, one in enumerate(listed):
        found = _json_example(number, one, parts)
        if isinstance(found, Example):
            examples.append(found)
        else:
            broken.append(BrokenExample(number, _text(one), found))
    return Generated(instruction.strip(), examples, broken)


def _json_example(number: int, value: Any, parts: tuple[str, ...]) -> Example | str:
    if not isinstance(value, dict):
        return "the example is no JSON object"
    values = {"input": ""}
    for part in parts:
        text = value.get(part)
        # An output may be the object itself, or its text where an endpoint does not keep to the schema.
        text = _text(text) if part == "output" and isinstance(text, dict | list) else text
        if not isinstance(text, str):
            return f'no text under "{part}"'
        values[part] = text.strip()
        if not values[part]:
            return f'the "{part}" is empty'
    return Example(number, values["input"], values["output"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""Replies of a teacher, good and bad, read into rows or reasons; JSON against its schema."""

from __future__ import annotations

import pytest

from mediflow.parse import Example, parse_generated, strip_fence
from mediflow.validate import check_json

ONE = "<example><input>in</input><output>out</output></example>"


def reply(examples: str, instruction: str = "<instruction>Do it.</instruction>") -> str:
    return f"{instruction}\n<examples>{examples}</examples>"


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (reply(ONE), [("in", "out")]),
        (reply(ONE * 3), [("in", "out")] * 3),
        ("Sure! Here it is:\n```xml\n" + reply(ONE) + "\n```", [("in", "out")]),
        (reply("<example>\n <input>\n a\nb \n</input>\n<output> c </output>\n</example>"), [("a\nb", "c")]),
        (reply('<example><input>x</input><output>```json\n{"a": 1}\n```</output></example>'), [("x", '{"a": 1}')]),
        (reply("<example><input>BP < 90 & pulse > 100</input><output>a <b> c</output></example>"),
         [("BP < 90 & pulse > 100", "a <b> c")]),
        # The closing of the list is missing, every example is whole: nothing is lost.
        ("<instruction>Do it.</instruction><examples>" + ONE, [("in", "out")]),
    ],
)  # fmt: skip
def test_good_replies(text: str, pairs: list[tuple[str, str]]) -> None:
    """The instruction and every pair are read, without surrounding prose, fences or blanks."""
    generated = parse_generated(text)
    assert (generated.instruction, generated.reason, generated.broken) == ("Do it.", None, [])
    assert generated.examples == [Example(n, a, b) for n, (a, b) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty reply"),
        ("  \n", "empty reply"),
        ("I cannot help with that.", "0 complete <instruction> parts"),
        ("<instruction>Do it.\n<examples>" + ONE + "</examples>", "0 complete <instruction> parts"),
        (reply(ONE) + reply(ONE), "2 complete <instruction> parts"),
        (reply(ONE, "<instruction> </instruction>"), "the <instruction> is empty"),
        (reply(ONE, "<instruction>Use <input> well.</instruction>"), "tags inside the <instruction>"),
        (reply(""), "no <example>"),
        (ONE + "<instruction>Do it.</instruction>", "no <example>"),
    ],
)
def test_replies_of_no_use(text: str, reason: str) -> None:
    """Each has a reason and no example."""
    generated = parse_generated(text)
    assert generated.reason is not None
    assert generated.reason.startswith(reason)
    assert generated.examples == []


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("<example><input>in</input><output>ou", "the <example> is not closed"),
        ("<example><input>in</input></example>", "0 complete <output> parts"),
        ("<example><input>in</input><output>a</output><output>b</output></example>", "2 complete <output> parts"),
        ("<example><input></input><output>a</output></example>", "the <input> is empty"),
        ("<example><input>a</input><output>see <input> b</output></example>", "1 complete"),
        ("<example><input>a <output></input><output>b</output></example>", "tags inside the <input>"),
    ],
)
def test_a_broken_example_does_not_cost_the_others(bad: str, reason: str) -> None:
    """The example is kept apart as it was written; those before it stand."""
    generated = parse_generated(reply(ONE + bad))
    if reason == "1 complete":
        # A tag of ours inside an output.
        reason = "tags inside the <output>"
    assert [example.number for example in generated.examples] == [0]
    assert [(one.number, one.reason.startswith(reason)) for one in generated.broken] == [(1, True)]


SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1}},
    "required": ["score"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"score": 3}', None),
        ('```json\n{"score": 3}\n```', None),
        ('{"score": 3', "is not valid JSON"),
        ("", "is not valid JSON"),
        ('{"score": NaN}', "is not valid JSON: NaN"),
        ('{"score": "3"}', "does not fit the schema at score: '3' is not of type 'integer'"),
        ('{"score": 0}', "does not fit the schema at score"),
        ('{"score": 3, "x": 1}', "does not fit the schema at the answer"),
        ("[]", "does not fit the schema at the answer"),
    ],
)
def test_json_is_checked_against_its_schema(text: str, reason: str | None) -> None:
    """None where it fits, else a reason that says where it does not."""
    found = check_json(text, SCHEMA)
    assert (found is None) == (reason is None)
    assert (found or "").startswith(reason or "")


def test_only_a_fence_around_the_whole_goes() -> None:
    """A fence inside the text is part of it."""
    assert strip_fence("```\na\n```") == "a"
    assert strip_fence("a\n```\nb\n```") == "a\n```\nb\n```"

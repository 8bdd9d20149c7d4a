"""Replies of a teacher, good and bad, read into rows or reasons; JSON against its schema."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mediflow.checking.validate import check_json
from mediflow.generation.parse import Example, Generated, Parsed, parse_reply, strip_fence


def one_of(parsed: Parsed) -> Generated:
    """The only instruction of a reply that is of use."""
    assert parsed.reason is None
    [group] = parsed.groups
    return group


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
    generated = one_of(parse_reply(text))
    assert (generated.instruction, generated.reason, generated.broken) == ("Do it.", None, [])
    assert generated.examples == [Example(n, a, b) for n, (a, b) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty reply"),
        ("  \n", "empty reply"),
        ("I cannot help with that.", "no complete <instruction>"),
        ("<instruction>Do it.\n<examples>" + ONE + "</examples>", "no complete <instruction>"),
        (reply(ONE, "<instruction> </instruction>"), "the <instruction> is empty"),
        (reply(ONE, "<instruction>Use <input> well.</instruction>"), "tags inside the <instruction>"),
        (reply(""), "no <example>"),
        (ONE + "<instruction>Do it.</instruction>", "no <example>"),
    ],
)
def test_replies_of_no_use(text: str, reason: str) -> None:
    """Each has a reason and no example."""
    parsed = parse_reply(text)
    assert parsed.reason is not None
    assert parsed.reason.startswith(reason)
    assert parsed.groups == []


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
    generated = one_of(parse_reply(reply(ONE + bad)))
    if reason == "1 complete":
        # A tag of ours inside an output.
        reason = "tags inside the <output>"
    assert [example.number for example in generated.examples] == [0]
    assert [(one.number, one.reason.startswith(reason)) for one in generated.broken] == [(1, True)]


def test_each_instruction_has_its_own_examples() -> None:
    """Of three instructions the second is torn: it is kept apart as it was written, and costs the others nothing."""
    torn = "<instruction>Two.<examples>" + ONE
    parsed = parse_reply(reply(ONE) + torn + reply(ONE * 2, "<instruction>Three.</instruction>"))
    assert parsed.reason is None
    assert [group.instruction for group in parsed.groups] == ["Do it.", "", "Three."]
    assert [len(group.examples) for group in parsed.groups] == [1, 0, 2]
    assert parsed.groups[1].reason == "the <instruction> is not closed"
    assert parsed.groups[1].text == "Two.<examples>" + ONE


def test_examples_of_given_inputs_have_an_output_only() -> None:
    """Without inputs to read, the output is all of an example; one that is missing is still missing."""
    parsed = parse_reply(reply("<example><output>a</output></example><example>b</example>"), inputs=False)
    group = one_of(parsed)
    assert group.examples == [Example(0, "", "a")]
    assert [one.reason for one in group.broken] == ["0 complete <output> parts instead of one"]


def as_json(*examples: Any, instruction: Any = "Do it.") -> str:
    return json.dumps({"instructions": [{"instruction": instruction, "examples": list(examples)}]})


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (as_json({"input": "in", "output": "out"}), [("in", "out")]),
        (as_json({"input": "in", "output": {"a": "é"}}), [("in", '{"a": "é"}')]),
        # An endpoint that does not keep to the schema may write the object as a text.
        (as_json({"input": "in", "output": '{"a": 1}'}), [("in", '{"a": 1}')]),
        ("```json\n" + as_json({"input": " in ", "output": [1]}) + "\n```", [("in", "[1]")]),
    ],
)
def test_replies_in_json(text: str, pairs: list[tuple[str, str]]) -> None:
    """Outputs are texts, or values that are written as JSON."""
    group = one_of(parse_reply(text, "json"))
    assert [(one.input, one.output) for one in group.examples] == pairs


def test_what_is_broken_of_a_reply_in_json() -> None:
    """An example at a time where that is possible, an instruction at a time, or all of it."""
    group = one_of(
        parse_reply(as_json({"input": "a", "output": "b"}, {"input": "c"}, 3, {"input": "", "output": "d"}), "json")
    )
    assert [one.number for one in group.examples] == [0]
    assert [one.reason for one in group.broken] == [
        'no text under "output"',
        "the example is no JSON object",
        'the "input" is empty',
    ]
    assert parse_reply(as_json(), "json").reason == 'no list under "examples"'
    assert (
        parse_reply(as_json({"input": "a", "output": "b"}, instruction=None), "json").reason
        == 'no text under "instruction"'
    )
    assert parse_reply("[]", "json").reason == 'no JSON object with a list "instructions"'
    assert str(parse_reply('{"instructions": [', "json").reason).startswith("not valid JSON")


def test_half_a_character_is_no_text() -> None:
    """JSON can spell a lone surrogate, no file can hold it: it is replaced where it stands."""
    parsed = parse_reply(reply("<example><input>a\ud800b</input><output>c</output></example>"))
    assert one_of(parsed).examples == [Example(0, "a\ufffdb", "c")]


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


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "```json\n{}\n```",
        "```JSON\n{}```",
        "```json {}```",
        "Here {{it}} is:\n\n```json\n{}\n```\nI hope that {{helps}}.",
        "Sure! {} Done.",
    ],
)
def test_a_json_reply_is_found_in_prose_and_any_fence(around: str) -> None:
    """What stands around the object is passed over; of a torn one nothing is taken for the whole."""
    value = '{"instructions": [{"instruction": "Say {x}.", "examples": [{"input": "a", "output": "b"}]}]}'
    assert parse_reply(around.format(value), "json").groups == [Generated("Say {x}.", [Example(0, "a", "b")])]
    torn = parse_reply(around.format(value[:-3]), "json")
    assert torn.reason is not None and torn.reason.startswith("not valid JSON")

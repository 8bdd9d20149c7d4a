"""The fast front says valid only where the authority does, and every refusal is the authority's."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import jsonschema_rs
import pytest
from jsonschema import Draft202012Validator

from mediflow.checking.validate import check_json, check_value, is_plain, parse_json, read_json_text
from mediflow.clinic.answers import ask
from mediflow.clinic.documents import write_note
from mediflow.clinic.patients import draw_patient
from mediflow.taxonomy import WHOLE, load_taxonomy
from medsmith.errors import UserError

STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
BIG = 2**53 + 1
# Each schema with the texts that are judged by it.
CASES: list[tuple[dict[str, Any], list[str]]] = [
    (INTEGER, ["1", "1.0", "1.5", "-0", "-0.0", "1e2", "1E400", "true", "null", '"1"', str(BIG), "9" * 40, f"{BIG}.0"]),
    (NUMBER, ["1", "0.1", "NaN", "Infinity", "-Infinity", "true", "1e-400", "01", "+1", "1.", ".5"]),
    ({"maximum": 10, "exclusiveMinimum": 0}, ["10", "10.0", "10.000000000000001", "0", "-1", '"a"', str(BIG)]),
    ({"maximum": 2**53}, ["9007199254740993", "9007199254740992"]),
    ({"multipleOf": 0.1}, ["0.3", "0.7", "1.1", "1"]),
    ({"multipleOf": 3}, ["9", "9.0", "10"]),
    ({"enum": [1, "a", None, [1], {"b": 2}]},
     ["1", "1.0", "true", '"a"', "null", "[1]", "[1.0]", '{"b": 2.0}', '"b"']),
    ({"const": 1}, ["1", "1.0", "true", "2"]),
    ({"const": False}, ["false", "0", "0.0"]),
    ({"enum": [True, 0]}, ["1", "false", "true", "0"]),
    ({"uniqueItems": True},
     ["[1, 1.0]", "[1, true]", "[0, false]", "[[1], [1.0]]", '[{"a": 1}, {"a": true}]', "[1, 2]"]),
    ({"minLength": 2, "maxLength": 2},
     ['"ab"', '"é"', '"e\\u0301"', '"😀"', '"😀a"', '"\\ud83d\\ude00a"', '"\\ud800x"']),
    ({"pattern": "^a$"}, ['"a"', '"a\\n"', '"b"']),
    ({"pattern": "^[A-Z][0-9](\\.[0-9]+)?$"}, ['"A1"', '"A1.5"', '"A1.5\\n"', '"a1"', '"Á1"', '"A٣"']),
    ({"pattern": "^\\D$"}, ['"a"', '"٣"', '"3"']),
    ({"pattern": "\\w"}, ['"é"', '"-"']),
    ({"format": "date"}, ['"2024-01-01"', '"yesterday"']),
    ({"format": "email"}, ['"a@b.c"', '"nobody"']),
    ({"type": ["string", "null"]}, ['"a"', "null", "1"]),
    ({"required": ["a"], "type": "object"}, ["{}", '{"a": 1}', '{"a": 1, "a": 2}', "[]"]),
    ({"properties": {"a": INTEGER}}, ['{"a": "x", "a": 1}', '{"a": 1, "a": "x"}', "3"]),
    ({"properties": {"a": STRING}, "additionalProperties": False}, ['{"a": "x"}', '{"b": "x"}', '{"A": "x"}']),
    ({"additionalProperties": INTEGER}, ['{"a": 1}', '{"a": "x"}']),
    ({"patternProperties": {"^x": INTEGER}}, ['{"x1": 1}', '{"x1": "a"}', '{"y": "a"}']),
    ({"propertyNames": {"maxLength": 1}}, ['{"a": 1}', '{"ab": 1}']),
    ({"minProperties": 1, "maxProperties": 1}, ["{}", '{"a": 1}', '{"a": 1, "b": 2}']),
    ({"items": INTEGER, "minItems": 1, "maxItems": 2}, ["[]", "[1]", "[1, 2, 3]", '["a"]']),
    ({"prefixItems": [STRING], "items": False}, ['["a"]', '["a", 1]', "[]", "[1]"]),
    ({"contains": INTEGER, "minContains": 2, "maxContains": 3}, ["[1]", "[1, 2]", '[1, "a", 2.0]', "[1, 2, 3, 4]"]),
    ({"anyOf": [INTEGER, {"minLength": 2}]}, ["1", '"ab"', '"a"', "1.5"]),
    ({"oneOf": [INTEGER, {"minimum": 2}]}, ["1", "2", "2.5", '"a"']),
    ({"allOf": [INTEGER, {"minimum": 2}]}, ["2", "1"]),
    ({"not": STRING}, ['"a"', "1"]),
    ({"if": STRING, "then": {"minLength": 2}, "else": INTEGER}, ['"a"', '"ab"', "1", "1.5"]),
    ({"dependentRequired": {"a": ["b"]}}, ['{"a": 1}', '{"a": 1, "b": 2}', "{}"]),
    ({"dependentSchemas": {"a": {"required": ["b"]}}}, ['{"a": 1}', '{"a": 1, "b": 2}']),
    ({"$defs": {"one": INTEGER}, "items": {"$ref": "#/$defs/one"}}, ["[1]", '["a"]']),
    ({"$defs": {"t": {"items": {"$ref": "#/$defs/t"}, "type": "array"}}, "$ref": "#/$defs/t"}, ["[[[]]]", "[[1]]"]),
    ({"properties": {"a": {"$ref": "#"}}, "additionalProperties": False}, ['{"a": {"a": {}}}', '{"a": {"b": 1}}']),
    ({"allOf": [{"properties": {"a": True}}], "unevaluatedProperties": False}, ['{"a": 1}', '{"b": 1}', "{}"]),
    (
        {"anyOf": [{"properties": {"a": STRING}}, {"properties": {"b": STRING}}], "unevaluatedProperties": False},
        ['{"a": "x"}', '{"b": "x"}', '{"a": "x", "b": "y"}', '{"c": 1}'],
    ),
    ({"prefixItems": [True], "unevaluatedItems": False}, ["[1]", "[1, 2]"]),
    ({"contains": INTEGER, "unevaluatedItems": False}, ["[1]", '[1, "a"]']),
    ({"if": {"properties": {"a": {"const": 1}}}, "then": {"properties": {"b": True}}, "unevaluatedProperties": False},
     ['{"a": 1, "b": 2}', '{"a": 2, "b": 2}', '{"c": 1}']),
    ({}, ["null", "{", "", "[1,]", '"\t"', "\ufeff1", '{"a" 1}', "'a'", "[" * 3000 + "]" * 3000]),
]  # fmt: skip
PAIRS = [(schema, text) for schema, texts in CASES for text in texts]


def verdict_of_the_authority(schema: dict[str, Any], text: str) -> bool:
    """By the standard parser and jsonschema alone. What is no JSON number or no character is refused."""

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        value = json.loads(text, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        return bool(Draft202012Validator(schema).is_valid(value))
    except (ValueError, RecursionError):
        return False


@pytest.mark.parametrize(("schema", "text"), PAIRS, ids=[f"{n}" for n in range(len(PAIRS))])
def test_verdicts_are_those_of_the_authority(schema: dict[str, Any], text: str) -> None:
    """Whatever stands in front of it."""
    assert (check_json(text, schema) is None) == verdict_of_the_authority(schema, text)


def test_the_shared_set_is_large_and_shows_where_the_two_differ() -> None:
    """The front alone would differ from the authority on some of these; there it is not asked, or not believed."""
    assert len(PAIRS) >= 60
    trusted, differing = 0, []
    for schema, text in PAIRS:
        value, reason = parse_json(text)
        if reason is None:
            fast, slow = (
                jsonschema_rs.Draft202012Validator(schema).is_valid(value),
                verdict_of_the_authority(schema, text),
            )
            trusted += is_plain(schema) and fast
            if fast != slow:
                differing.append((schema, text, is_plain(schema), fast))
    assert trusted > 40
    assert any(not plain and fast for _, _, plain, fast in differing), "a case where the front is wrongly content"
    assert not [case for case in differing if case[2] and case[3] and len(case[1]) < 16]


def faults(value: dict[str, Any], schema: dict[str, Any]) -> list[Any]:
    """The value with one thing wrong in each."""
    wrong: list[Any] = [[value], None, "text", value | {"unheard_of": 1}]
    for key in value:
        less = copy.deepcopy(value)
        del less[key]
        wrong += [less, value | {key: None}, value | {key: {"deep": []}}]
    return wrong


@pytest.mark.parametrize("name", sorted(load_taxonomy().tasks))
def test_task_schemas_take_right_answers_and_refuse_planted_faults(name: str) -> None:
    """For each task, the front is trusted, and both say the same of right answers and of every fault."""
    taxonomy = load_taxonomy()
    task = taxonomy.tasks[name]
    assert is_plain(task.schema)
    for number in range(8):
        patient, rng = draw_patient(4, number), random.Random(number)
        note = write_note(taxonomy.documents["soap_note"], WHOLE, patient, rng, task.needs)
        value = ask(name, note, patient, rng).value
        assert check_json(json.dumps(value), task.schema) is None
        for wrong in faults(value, task.schema):
            assert check_json(json.dumps(wrong), task.schema) is not None, wrong
            assert not verdict_of_the_authority(task.schema, json.dumps(wrong))


def test_refusals_carry_the_words_of_the_authority() -> None:
    """The place and jsonschema's own message; a fence around the JSON is passed over."""
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": INTEGER}}}
    assert check_json('{"a": [1, "x"]}', schema) == "does not fit the schema at a/1: 'x' is not of type 'integer'"
    assert check_json("[]", schema) == "does not fit the schema at the answer: [] is not of type 'object'"
    assert read_json_text('```json\n{"a": [1]}\n```', schema) == ({"a": [1]}, None)
    assert read_json_text("{", schema).value is None


def test_long_numbers_keep_all_their_digits() -> None:
    """orjson would turn them into floats."""
    assert parse_json("18446744073709551617").value == 18446744073709551617
    assert check_value(2**64, {"const": 2**64}, exact=True) is None


def test_what_cannot_be_written_again_is_refused() -> None:
    """NaN, infinities, half characters, endless nesting: with a reason each."""
    assert "NaN" in (parse_json("NaN").reason or "")
    assert "too large" in (parse_json("[1e999]").reason or "")
    assert "surrogate" in (parse_json('{"a": "\\ud800"}').reason or "")
    assert "nested" in (parse_json("[" * 100_000 + "]" * 100_000).reason or "")


def test_a_schema_that_is_none_is_the_users_mistake() -> None:
    """Named with its place, in one line."""
    with pytest.raises(UserError, match="no JSON Schema .wrong at type.*'strng'"):
        check_value(1, {"type": "strng"})

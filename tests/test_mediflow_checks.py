"""What is wrong with an answer beyond its schema is found; what needs no second call is put right."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediflow.checking.checks import CHECKS, Checked, check_example, check_vocabulary
from mediflow.checking.codes import as_icd10cm, icd10cm_codes
from mediflow.taxonomy import TaskType, load_taxonomy
from medsmith.errors import UserError

TEXT = {"type": "string"}
ENTITY = {
    "type": "object",
    "properties": {"text": TEXT, "start": {"type": "integer"}, "end": {"type": "integer"}},
    "required": ["text", "start", "end"],
}
INPUT = "Fever and  chest pain. No cough. Fever came first, then “night sweats”."


def task(properties: dict[str, Any], *checks: dict[str, Any]) -> TaskType:
    """A task of one object schema with these checks."""
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return replace(load_taxonomy().tasks["summarization"], name="toy", schema=schema, checks=checks)


def entities(*rows: tuple[str, int, int]) -> str:
    return json.dumps({"entities": [{"text": text, "start": start, "end": end} for text, start, end in rows]})


NER = task({"entities": {"type": "array", "items": ENTITY}}, {"check": "spans", "at": "entities", "split": ";"})


def test_right_answers_come_back_as_they_were() -> None:
    """Not a character changes, no fault, no repair."""
    output = entities(("Fever", 0, 5), ("cough", 26, 31))
    assert check_example(NER, "json", INPUT, output) == Checked(output, [], [])
    assert check_example(NER, "plain_text", INPUT, "Fever; cough") == Checked("Fever; cough", [], [])
    assert check_example(NER, "plain_text", INPUT, "none.").faults == []


def test_offsets_move_to_the_nearest_place_and_spelling_is_the_inputs() -> None:
    """The second fever is nearer to 30 than the first; case, whitespace and quotes are the input's own."""
    output = entities(("Fever", 30, 35), ("Chest Pain", 0, 3), ('"night sweats"', 50, 60))
    checked = check_example(NER, "json", INPUT, output)
    found = [(row["text"], row["start"]) for row in json.loads(checked.output)["entities"]]
    assert found == [("Fever", 33), ("chest pain", 11), ("night sweats", 57)]
    assert checked.faults == [] and len(checked.repairs) == 5
    assert all(INPUT[r["start"] : r["end"]] == r["text"] for r in json.loads(checked.output)["entities"])


def test_what_does_not_stand_in_the_input_is_a_fault() -> None:
    """It is named; parts of words do not count as found."""
    assert check_example(NER, "json", INPUT, entities(("gout", 0, 4))).faults == ["'gout' does not stand in the input"]
    assert check_example(NER, "plain_text", INPUT, "fever; gout").faults == ["'gout' does not stand in the input"]
    assert check_example(NER, "plain_text", INPUT, "est pa; ou").faults != []


@given(seed=st.integers(0, 10**6), starts=st.lists(st.one_of(st.none(), st.integers(0, 400)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_entities_get_one_place_each(seed: int, starts: list[int | None]) -> None:
    """Whatever offsets are given, or none: gold that is accepted names no span twice."""
    rng = random.Random(seed)
    words = [rng.choice(["fever", "chills", "rest", "and", "then"]) for _ in range(40)]
    document = " ".join(words)
    given: list[dict[str, Any]] = [{"text": "fever", "label": "symptom"} for _ in starts]
    for one, start in zip(given, starts, strict=True):
        one |= {} if start is None else {"start": start, "end": start + 5}
    checked = check_example(NER, "json", document, json.dumps({"entities": given}))
    spans = [(one["start"], one["end"]) for one in json.loads(checked.output)["entities"] if "start" in one]
    if words.count("fever") >= len(starts):
        assert not checked.faults and len(set(spans)) == len(starts)
        assert all(document[start:end] == "fever" for start, end in spans)
    else:
        assert checked.faults
    # Another label is another entity, which may share a span.
    labels = [{"text": "fever", "label": label, "start": 0, "end": 5} for label in ("symptom", "sign")]
    assert not check_example(NER, "json", "fever", json.dumps({"entities": labels})).faults


def test_json_is_taken_out_of_prose_and_missing_offsets_are_found() -> None:
    """One object in the text; two are too many to guess."""
    checked = check_example(NER, "json", INPUT, 'Here it is:\n{"entities": [{"text": "cough"}]}\nI hope it helps.')
    assert json.loads(checked.output) == {"entities": [{"text": "cough", "start": 26, "end": 31}]}
    assert not checked.faults
    two = '{"entities": []} or {"entities": []}'
    assert check_example(NER, "json", INPUT, two).faults[0].startswith("is not valid JSON")
    assert check_example(NER, "json", INPUT, '{"entities": 3}').faults == [
        "does not fit the schema at entities: 3 is not of type 'array'"
    ]


def test_labels_are_recognised_in_prose_but_not_where_two_are_named() -> None:
    """In plain text and JSON, by case, number, letter or with words around; denial and choice are no answer."""
    label = task({"label": {"enum": ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"]}}, {"check": "differs"})
    assert check_example(label, "json", "x", '{"label": "neutral"}').output == '{"label": "NEUTRAL"}'
    assert check_example(label, "plain_text", "x", "The answer is: Entailment.").output == "ENTAILMENT"
    assert check_example(label, "plain_text", "x", "Neutral, because nothing is said.").output == "NEUTRAL"
    for unclear in ("NEUTRAL or CONTRADICTION", "not NEUTRAL", "maybe", ""):
        assert check_example(label, "plain_text", "x", unclear).faults, unclear
    number = task({"score": {"type": "integer"}}, {"check": "range", "at": "score", "low": 1, "high": 4})
    assert check_example(number, "json", "x", '{"score": "3"}') == Checked('{"score": 3}', [], ["wrote '3' as 3"])
    assert check_example(number, "json", "x", '{"score": 5}').faults == ["'5' is not from 1 to 4"]
    assert check_example(number, "plain_text", "x", "Score: 2").faults == []
    assert check_example(number, "plain_text", "x", "none").faults != []


OPTIONS = "- an old list\n\nText.\n\nWhich drug treats gout?\n- colchicine\n- Iron sucrose\n- aspirin"


@pytest.mark.parametrize(
    ("said", "meant"),
    [("colchicine", "colchicine"), ("b", "Iron sucrose"), ("(C)", "aspirin"), ("2", "Iron sucrose"),
     ("B. iron sucrose", "Iron sucrose"), ("The correct answer is Aspirin.", "aspirin"), ("ASPIRIN", "aspirin"),
     ("metformin", None), ("colchicine or aspirin", None), ("an old list", None), ("not aspirin", None), ("d", None)],
)  # fmt: skip
def test_options(said: str, meant: str | None) -> None:
    """The last list of the input holds the options."""
    choice = task({"answer": TEXT}, {"check": "option", "at": "answer"})
    plain = check_example(choice, "plain_text", OPTIONS, said)
    as_json = check_example(choice, "json", OPTIONS, json.dumps({"answer": said}))
    assert plain.output == (meant or said) and bool(plain.faults) == (meant is None)
    assert json.loads(as_json.output)["answer"] == (meant or said) and bool(as_json.faults) == (meant is None)


def test_codes_are_looked_up_and_written_with_their_dot() -> None:
    """E11.99 does not exist; a range is no code."""
    codes = task({"codes": {"type": "array", "items": TEXT}}, {"check": "icd10cm", "at": "codes"})
    checked = check_example(codes, "json", "x", '{"codes": ["e119", "I10", "S52.521A"]}')
    assert json.loads(checked.output)["codes"] == ["E11.9", "I10", "S52.521A"] and checked.faults == []
    assert check_example(codes, "json", "x", '{"codes": ["E11.99"]}').faults == ["'E11.99' is no ICD-10-CM code"]
    assert check_example(codes, "plain_text", "x", "Diabetes (E119), hypertension (I10)").output.count("E11.9") == 1
    assert check_example(codes, "plain_text", "x", "Diabetes").faults == ["no ICD-10-CM code in the answer"]
    assert as_icd10cm("A00-A09") is None and len(icd10cm_codes()) > 90_000


def test_sentence_numbers_and_lengths() -> None:
    """A number that the input numbers, or -1; words are counted."""
    error = task({"sentence": {"type": "integer"}}, {"check": "sentence_number", "at": "sentence"})
    numbered = "0 One.\n1 Two."
    assert check_example(error, "json", numbered, '{"sentence": 1}').faults == []
    assert check_example(error, "plain_text", numbered, "-1").faults == []
    assert check_example(error, "plain_text", numbered, "Sentence 1 is wrong.").output == "1"
    assert check_example(error, "json", numbered, '{"sentence": 2}').faults == ["the input numbers no sentence 2"]
    assert check_example(error, "plain_text", numbered, "0 or 1").faults != []
    short = task({"summary": TEXT}, {"check": "shorter", "at": "summary"}, {"check": "differs", "at": "summary"})
    assert check_example(short, "plain_text", "a b c", "a b").faults == []
    assert check_example(short, "json", "a b", '{"summary": "A  B"}').faults == [
        "2 words where the input has 2: not shorter", "the answer is the input again",
    ]  # fmt: skip
    long = task({"text": TEXT}, {"check": "longer"})
    assert check_example(long, "json", "a b", '{"text": "a b"}').faults == ["2 words where the input has 2: not longer"]


def test_strings_of_relations_in_plain_text() -> None:
    """Cut at several marks, one after the other."""
    check = {"check": "in_input", "at": "relations.drug", "split": [";", " for "]}
    item = {"type": "object", "properties": {"drug": TEXT, "disease": TEXT}}
    relations = task({"relations": {"type": "array", "items": item}}, check)
    note = "Metformin for type 2 diabetes, aspirin for stroke."
    assert check_example(relations, "plain_text", note, "metformin for type 2 diabetes; aspirin for stroke").output == (
        "Metformin for type 2 diabetes; aspirin for stroke"
    )
    assert check_example(relations, "plain_text", note, "aspirin for gout").faults == [
        "'gout' does not stand in the input"
    ]


@pytest.mark.parametrize(
    ("check", "message"),
    [({"check": "span", "at": "a"}, "no check 'span'; did you mean 'spans'"),
     ({"check": "in_input", "at": "b"}, "the schema has no 'b'"),
     ({"check": "in_input", "at": "a", "splits": ";"}, "takes no 'splits'; did you mean 'split'"),
     ({"check": "range", "low": 1}, "needs 'high'")],
)  # fmt: skip
def test_wrong_yaml_names_the_file_and_the_nearest_name(check: dict[str, Any], message: str) -> None:
    """One line."""
    with pytest.raises(UserError, match="mediflow/tasks/toy.yml") as caught:
        check_vocabulary(task({"a": TEXT}, check))
    assert message in str(caught.value)


def test_all_tasks_keep_to_the_vocabulary() -> None:
    """14 tasks, each with at least one check."""
    tasks = load_taxonomy().tasks.values()
    assert len(tasks) == 14
    for one in tasks:
        check_vocabulary(one)
        assert {check["check"] for check in one.checks} <= set(CHECKS) and one.checks

"""The benchmarks' own instruments: a mock server that answers and misbehaves as told, and a check that can fail."""

import http.client
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import jsonschema
import pytest

from benchmarks.measure import MockServer, check_records, mock_server
from benchmarks.mock_server import Behaviour, draw_fault, parse_behaviour
from benchmarks.record import SCHEMA, Job, prompt, record_model
from benchmarks.replies import Writer
from benchmarks.systems import find_systems
from mediflow.checking.checks import check_example
from mediflow.checking.verify import verify_example
from mediflow.clinic.patients import draw_patient
from mediflow.generation.parse import parse_reply
from mediflow.taxonomy import load_taxonomy

WRITER = Writer()
KEYS = Job("", 400, 1, Path(), "").keys


@pytest.fixture(scope="module")
def server() -> Iterator[MockServer]:
    with mock_server() as started:
        yield started


def ask(server: MockServer, content: str) -> tuple[int, str]:
    """Status and text of one chat completion; the text of a connection that was cut is empty."""
    body = json.dumps({"model": "mock", "messages": [{"role": "user", "content": content}]}).encode()
    request = urllib.request.Request(server.base_url + "/chat/completions", body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        assert (error.code == 429) == ("retry-after" in error.headers)
        return error.code, ""
    except http.client.IncompleteRead:
        return 0, ""


def record(key: str) -> dict[str, Any]:
    reply = json.loads(WRITER.reply(key, prompt(key).encode()))
    value: dict[str, Any] = json.loads(reply["choices"][0]["message"]["content"])
    return value


def test_records_are_valid_distinct_and_of_the_length_that_is_told() -> None:
    """400 records fit the schema, no input is there twice, and the mean length is 1,134 bytes, give or take 2 %."""
    records = [record(key) for key in KEYS]
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert [one["id"] for one in records if validator.is_valid(one)] == KEYS
    assert len({one["input"] for one in records}) == len(KEYS)
    assert mean(len(json.dumps(one, separators=(",", ":"))) for one in records) == pytest.approx(1134, rel=0.02)
    assert all(one["input"][e["start"] : e["end"]] == e["text"] for one in records for e in one["entities"])


def test_the_class_and_the_schema_ask_for_the_same() -> None:
    """What jsonschema refuses the pydantic class refuses too: peers that want a class have the same work."""
    model = record_model()
    good = record("r-000001")
    assert model.model_validate(good).model_dump() == good
    changes: list[dict[str, Any]] = [
        {"id": "x"},
        {"input": "short"},
        {"difficulty": "easy"},
        {"entities": []},
        {"more": 1},
    ]
    for wrong in changes:
        assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(good | wrong)
        with pytest.raises(ValueError, match="validation error"):
            model.model_validate(good | wrong)


def own_reply(task: str, output_format: str, facts: dict[str, Any] | None = None, attempt: int = 0) -> str:
    """What the mock says to a prompt of mediflow.generate."""
    request = {"task_type": task, "output_format": output_format} | ({"facts": [facts]} if facts else {})
    content = f"```request\n{json.dumps(request, separators=(',', ':'))}\n```"
    reply = json.loads(WRITER.reply(task, json.dumps({"messages": [{"content": content}]}).encode(), attempt))
    text: str = reply["choices"][0]["message"]["content"]
    return text


def test_replies_to_our_own_prompts_pass_every_tasks_checks() -> None:
    """For all task types, both formats, with a patient and without: schema and checks pass, no fact is contradicted."""
    patient = draw_patient(0, 0).facts()
    compared = 0
    for name, task in load_taxonomy().tasks.items():
        for output_format in ("json", "plain_text"):
            for facts in (None, patient):
                parsed = parse_reply(own_reply(name, output_format, facts), "json")
                assert parsed.reason is None, name
                example = parsed.groups[0].examples[0]
                checked = check_example(task, output_format, example.input, example.output)
                assert (checked.faults, checked.repairs) == ([], []), (name, output_format)
                if facts:
                    found = verify_example(task.asserts, facts, example.input, example.output)
                    assert found.contradicted == [], (name, output_format)
                    compared += found.checked
    assert compared >= 14, "the verifier found hardly anything to compare"


def test_a_prompt_that_comes_again_gets_another_answer() -> None:
    """The n-th answer to one prompt is always the same, and none is like another."""
    replies = [own_reply("summarization", "json", attempt=attempt) for attempt in range(3)]
    assert len(set(replies)) == 3
    assert own_reply("summarization", "json", attempt=1) == replies[1]


def test_faults_come_in_the_shares_asked_for_and_do_not_depend_on_order() -> None:
    """Of 20,000 requests each kind befalls its share, give or take half a percent; the same at every asking."""
    behaviour = Behaviour(broken=0.10, too_many=0.05, error=0.02, cut=0.01)
    points = [(f"r-{number:06d}", attempt) for number in range(10_000) for attempt in (0, 1)]
    drawn = {point: draw_fault(behaviour, *point) for point in points}
    counts = Counter(drawn.values())
    for kind, share in (("broken", 0.10), ("too_many", 0.05), ("error", 0.02), ("cut", 0.01), (None, 0.82)):
        assert counts[kind] / len(points) == pytest.approx(share, abs=0.005), kind
    assert all(draw_fault(behaviour, *point) == drawn[point] for point in reversed(points))
    with pytest.raises(ValueError, match="no setting 'broke'"):
        parse_behaviour([("broke", "0.1")])


def test_the_server_does_what_was_drawn_and_counts_it(server: MockServer) -> None:
    """Each of 60 records is answered as draw_fault says; statistics tell requests, repeats and faults."""
    behaviour = Behaviour(broken=0.3, too_many=0.2, error=0.1, cut=0.1)
    server.reset(**asdict(behaviour))
    said: Counter[str | None] = Counter()
    for key in KEYS[:60]:
        status, text = ask(server, prompt(key))
        kind = draw_fault(behaviour, key, 0)
        said[kind] += 1
        assert status == {"too_many": 429, "error": 500, "cut": 0}.get(str(kind), 200)
        if kind is None:
            assert json.loads(text) == record(key)
        if kind == "broken":
            with pytest.raises(ValueError, match="line 1"):
                json.loads(text)
    ask(server, prompt(KEYS[0]))
    stats = server.stats(keys=True)
    assert (stats["requests"], stats["distinct"], stats["repeats"], stats["in_flight"]) == (61, 60, 1, 0)
    assert stats["keys"][KEYS[0]] == 2
    again = draw_fault(behaviour, KEYS[0], 1)
    assert Counter(stats["faults"]) == Counter({k: n for k, n in said.items() if k}) + Counter([again] if again else [])


def test_a_stall_holds_everybody_up_once(server: MockServer) -> None:
    """The third request begins the stall, and all four are answered after it."""
    server.reset(stall_after=3, stall_seconds=0.2)
    for key in KEYS[:4]:
        assert ask(server, prompt(key))[0] == 200
    assert server.stats()["seconds"] >= 0.2
    assert server.stats()["answered"] == 4


def test_the_check_refuses_what_is_wrong_twice_or_not_planned(tmp_path: Path) -> None:
    """Of five lines one is good: the others are torn from the schema, a repeat, a stranger, and a text."""
    good = record("r-000001")
    lines = [good, good | {"difficulty": "easy"}, good, record("r-000009"), "not a record"]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    checked = check_records(path, ["r-000001", "r-000002"])
    assert (checked.valid, checked.bad, checked.missing) == (1, 4, 1)
    assert checked.reasons == {"not of the schema": 2, "twice or not planned": 2}


def test_systems_are_found_and_a_wrong_name_is_refused() -> None:
    """Every module of benchmarks/peers is there, the project first; it needs no environment of its own."""
    found = find_systems()
    assert found[0].ours
    assert {one.module for one in found} >= {"async_batch_llm", "curator", "data_designer", "distilabel", "openai"}
    assert [one.name for one in find_systems(["openai:aiohttp"])] == ["openai:aiohttp"]
    with pytest.raises(ValueError, match="no system 'opnai'"):
        find_systems(["opnai"])

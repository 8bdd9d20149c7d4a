"""Generation: prompts, repair, counts, and a run that is killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mediflow.clinic.patients import draw_patients
from mediflow.clinic.reply import reply
from mediflow.generate import Config, build_calls, generate, read_facts
from mediflow.prompt import read_request
from mediflow.taxonomy import DIFFICULTIES, WHOLE, load_taxonomy, plan
from mediflow.teacher import request_key
from medsmith import run
from medsmith.errors import UserError
from medsmith.llm import ChatError, ChatReply, ChatRequest, FakeChat
from medsmith.records import Instruction, parse_row, read_json, read_jsonl

GOOD = "<instruction>{0}</instruction><examples>{1}</examples>"


def settings(folder: Path, **values: Any) -> Config:
    given = {"teacher": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": 1}, "instructions": 1}
    return Config(**{"out": folder, **given, "examples": 2, **values})


def example(text: str, output: str = "out") -> str:
    return f"<example><input>{text}</input><output>{output}</output></example>"


def make(config: Config, chat: Any) -> dict[str, Any]:
    """Run with a chat model and return the counts."""
    with run.start(config, "mediflow.generate") as this:
        counts: dict[str, Any] = read_json(generate(config, this, chat) / "run.json")["counts"]
    return counts


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(folder / name))


class Clinic:
    """Answers as the simulated teacher does, without a server; what it is asked is kept."""

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        asked = read_request(list(request.messages))
        assert asked is not None
        return ChatReply([reply(asked, 0)] * request.n, {"prompt_tokens": 7, "completion_tokens": 3}, "simulated")


PLAIN = {"output_format": {"plain_text": 1.0}}
JSON = {"output_format": {"json": 1.0}, "task_type": {"textual_entailment": 1.0}}


def test_prompts_carry_their_cell_and_their_patients(tmp_path: Path) -> None:
    """Each call has its own patients, its request as data, the schema exactly where JSON is asked for."""
    config = settings(tmp_path, instructions=40)
    taxonomy = load_taxonomy()
    cells = plan(taxonomy, 40, 0)
    calls = build_calls(config, taxonomy, cells, read_facts(config, 80))
    patients = [json.loads(json.dumps(patient.facts())) for patient in draw_patients(0, 80)]
    assert [fact for call in calls for fact in call.facts] == patients
    for call in calls:
        system, user = call.request.messages
        request = read_request([user])
        assert request is not None
        assert (request["task_type"], request["section"]) == (call.cell.task_type, call.cell.section)
        assert request["facts"] == call.facts
        assert ("JSON Schema" in user["content"]) == (call.cell.output_format == "json")
        assert ("the whole document" in user["content"]) == (call.cell.section == WHOLE)
        assert call.request.temperature == call.cell.temperature
        assert system["role"] == "system"
    assert len({call.request.id for call in calls}) == 40


def test_a_run_with_the_simulated_clinic(tmp_path: Path) -> None:
    """Every example becomes a row of the published columns about one patient; nothing fails; usage is added up."""
    config = settings(tmp_path / "out", instructions=30)
    counts = make(config, Clinic())
    rows = rows_of(config.out, "instructions.jsonl")
    assert counts["calls"] == counts["calls_parsed"] == 30
    assert counts["examples"] == counts["rows"] + counts["failed"] == 60
    assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
    facts = {row["facts_id"]: row["facts"] for row in rows_of(config.out, "facts.jsonl")}
    assert len(facts) == 60
    for row in rows:
        typed = parse_row(Instruction, row, "row")
        assert typed.difficulty_level in DIFFICULTIES
        assert row["facts_id"] in facts
    record = read_json(config.out / "run.json")
    assert record["facts"]["simulated"] is True
    assert record["facts"]["licences"] == {"synthetic": "CDLA-Permissive-2.0"}
    assert record["facts"]["usage"]["prompt_tokens"] == 7 * 30
    assert "raw/calls.jsonl" not in record["outputs"]


def test_patients_come_from_a_file_again_and_again(tmp_path: Path) -> None:
    """Three patients serve five places in order; a file without facts is the user's mistake."""
    import polars

    facts = [json.dumps({"id": f"p{n}"}) for n in range(3)]
    polars.DataFrame({"facts": facts}).write_parquet(tmp_path / "patients.parquet")
    config = settings(tmp_path / "out", patients=tmp_path / "patients.parquet")
    assert [fact["id"] for fact in read_facts(config, 5)] == ["p0", "p1", "p2", "p0", "p1"]
    polars.DataFrame({"other": facts}).write_parquet(tmp_path / "wrong.parquet")
    with pytest.raises(UserError, match="no rows with a column 'facts'"):
        read_facts(settings(tmp_path / "out", patients=tmp_path / "wrong.parquet"), 1)


def test_a_broken_reply_is_repaired_once(tmp_path: Path) -> None:
    """The second call shows the first reply and names its fault; its rows are the result."""
    config = settings(tmp_path / "out", weights=PLAIN)
    chat = FakeChat(["nonsense", GOOD.format("Do it.", example("a") + example("b"))])
    counts = make(config, chat)
    *_, said, asked = chat.requests[1].messages
    assert said == {"role": "assistant", "content": "nonsense"}
    assert "0 complete <instruction> parts instead of one" in asked["content"]
    assert (counts["calls"], counts["calls_parsed"], counts["rows"]) == (1, 1, 2)
    assert [row["input"] for row in sorted(rows_of(config.out, "instructions.jsonl"), key=lambda r: r["input"])] == [
        "a",
        "b",
    ]
    assert rows_of(config.out, "failed.jsonl") == []


def test_json_outputs_fit_the_schema_of_the_task(tmp_path: Path) -> None:
    """A label outside the schema is repaired; where the repair is no better, the example fails with its reason."""
    config = settings(tmp_path / "out", weights=JSON)
    good, bad = example("a", '{"label": "NEUTRAL"}'), example("b", '{"label": "MAYBE"}')
    chat = FakeChat([GOOD.format("Do it.", good + bad), GOOD.format("Do it well.", bad + bad)])
    counts = make(config, chat)
    assert "example 2: the output does not fit the schema at label" in chat.requests[1].messages[-1]["content"]
    [row] = rows_of(config.out, "instructions.jsonl")
    assert (row["instruction"], row["output"]) == ("Do it.", '{"label": "NEUTRAL"}')
    [failed] = rows_of(config.out, "failed.jsonl")
    assert failed["text"] == '{"label": "MAYBE"}'
    assert failed["task_type"] == "textual_entailment"
    assert (counts["examples"], counts["rows"], counts["failed"]) == (2, 1, 1)


def test_nothing_vanishes(tmp_path: Path) -> None:
    """Good, repeated, torn and useless replies and a refused call: every call and example is a row or has a reason."""
    config = settings(tmp_path / "out", instructions=4, weights=PLAIN, repair=False, allow_failed=0.5)
    chat = FakeChat(
        [
            GOOD.format("One.", example("a") + example("a")),
            GOOD.format("Two.", example("b") + "<example><input>torn"),
            "",
            ChatError("HTTP 400: no", final=True),
        ]
    )
    counts = make(config, chat)
    assert counts == {
        "calls": 4,
        "examples_asked": 8,
        "calls_parsed": 2,
        "calls_failed": 2,
        "examples": 4,
        "rows": 2,
        "failed": 2,
        "instructions": 2,
    }
    reasons = [row["reason"] for row in rows_of(config.out, "failed.jsonl")]
    assert [reason.split(" example as ")[0] for reason in reasons] == [
        "the same",
        "example 2: the <example> is not closed",
        "empty reply",
        "no answer: HTTP 400: no",
    ]


def test_with_more_examples_than_patients_nobody_guesses_whose_they_are(tmp_path: Path) -> None:
    """Three examples for two patients have no facts_id."""
    config = settings(tmp_path / "out", weights=PLAIN)
    make(config, FakeChat([GOOD.format("Do it.", example("a") + example("b") + example("c"))]))
    assert [row["facts_id"] for row in rows_of(config.out, "instructions.jsonl")] == [None] * 3


def test_an_outage_leaves_the_run_unfinished_and_the_next_one_mends_it(tmp_path: Path) -> None:
    """Where too many calls had no answer the folder is not finished; run again, only those are called."""
    config = settings(tmp_path / "out", instructions=3, weights=PLAIN)
    good = GOOD.format("Do it.", example("a"))
    with pytest.raises(UserError, match="2 of 3 calls had no answer, the last with: down; run again"):
        make(config, FakeChat([good, ChatError("down"), ChatError("down")]))
    assert not (config.out / "run.json").exists()
    second = FakeChat([good, good])
    counts = make(config, second)
    assert len(second.requests) == 2
    assert counts["calls_parsed"] == 3


def test_no_example_at_all_is_an_error(tmp_path: Path) -> None:
    """An empty data set is never written."""
    with pytest.raises(UserError, match="none of 1 calls gave an example; most often: empty reply"):
        make(settings(tmp_path / "out", repair=False), FakeChat([""]))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"task": {}}, "no axis 'task'; known are task_type"),
        ({"difficulty": {"very_hard": 1}}, "no 'very_hard'; did you mean 'very hard'"),
        ({"output_format": {"json": 0}}, "holds no share above 0"),
    ],
)
def test_weights_that_name_nothing_are_refused(weights: dict[str, Any], said: str, tmp_path: Path) -> None:
    """A misspelt axis or value would silently be the default."""
    with pytest.raises(UserError, match=said):
        make(settings(tmp_path / "out", weights=weights), FakeChat([]))


@contextmanager
def live_teacher(log: Path, *faults: str) -> Iterator[str]:
    command = [sys.executable, "-m", "mediflow.teacher", "--log", str(log)]
    for fault in faults:
        command += ["--fault", fault]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            yield json.loads(server.stdout.readline())["base_url"]
        finally:
            server.stdin.close()
            server.wait(10)


def generator(out: Path, base_url: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mediflow.generate", f"out={out}", "instructions=40", "examples=2"]
    command += [f"teacher.base_url={base_url}", "teacher.api_key_env=A_SECRET_KEY"]
    command += ["teacher.concurrency=4", "teacher.retry_seconds=0.01"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env={**os.environ, "A_SECRET_KEY": "sk-do-not-keep"}, **quiet)  # type: ignore[call-overload, no-any-return]


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)  # it takes two seconds; a busy machine may take longer
    assert process.returncode == 0, errors.decode()


def test_a_killed_run_repeats_nothing_that_was_finished(tmp_path: Path) -> None:
    """kill -9 half way against a teacher that is slow and errs, then again: only calls in flight are repeated.

    The result is byte for byte that of a run that was not killed, and the key is in no file.
    """
    log = tmp_path / "log.jsonl"
    faults = ("slow=0.8", "slow_seconds=0.1", "too_many_requests=0.1", "retry_after_seconds=0.01", "broken=0.2")
    with live_teacher(log, *faults) as base_url:
        killed = generator(tmp_path / "killed", base_url)
        journal = tmp_path / "killed" / "raw" / "calls.jsonl"
        while killed.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 15):
            time.sleep(0.01)
        assert killed.poll() is None, "it ended before it could be killed"
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert not (tmp_path / "killed" / "run.json").exists()
        *whole, tail = journal.read_text().split("\n")
        paid = {
            request_key(row["request"]["messages"], row["request"]["temperature"])
            for row in map(json.loads, whole)
            if row["error"] is None
        }
        before = [json.loads(line) for line in log.read_text().splitlines()]
        journal.write_text("\n".join([*whole, tail + '{"id": "torn']))

        finish(generator(tmp_path / "killed", base_url))
        after = [json.loads(line) for line in log.read_text().splitlines()][len(before) :]
        assert len(paid) >= 15
        assert not paid & {row["key"] for row in after}
        again = {row["key"] for row in before if row["fault"] in (None, "slow")} & {row["key"] for row in after}
        assert len(again) <= 4
        finish(generator(tmp_path / "whole", base_url))
    for name in ("instructions.jsonl", "failed.jsonl", "facts.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    counts = [read_json(tmp_path / name / "run.json")["counts"] for name in ("killed", "whole")]
    assert counts[0] == counts[1]
    assert counts[0]["calls"] == 40
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if b"sk-do-not-keep" in path.read_bytes()]

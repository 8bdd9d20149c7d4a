"""Generation: prompts, repair, refills, duplicates, order, counts, passages, and a run that is killed and restarted."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mediflow.clinic.patients import draw_patients
from mediflow.clinic.reply import reply
from mediflow.generate import Config, generate, main, open_source, taxonomy_of
from mediflow.generation.calls import Calls
from mediflow.prompt import read_request
from mediflow.taxonomy import DIFFICULTIES, WHOLE
from mediflow.teacher import request_key
from medsmith import run
from medsmith.errors import UserError
from medsmith.llm import ChatError, ChatReply, ChatRequest, FakeChat
from medsmith.records import Instruction, parse_row, read_json, read_jsonl, read_parts

ADDRESS = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": 1}
PLAIN = {"output_format": {"plain_text": 1.0}, "task_type": {"summarization": 1.0}}
JSON = {"output_format": {"json": 1.0}, "task_type": {"textual_entailment": 1.0}}


def settings(folder: Path, **values: Any) -> Config:
    """One instruction with two examples, of nobody in particular, asked for once."""
    given: dict[str, Any] = {"teacher": ADDRESS, "instructions": 1, "examples": 2, "weights": PLAIN}
    return Config(**{"out": folder, **given, "grounding": "none", "refills": 0, **values})


def example(text: str, output: str = "out") -> str:
    return f"<example><input>The patient {text} came today.</input><output>{output}</output></example>"


def written(instruction: str, *examples: str) -> str:
    return f"<instruction>{instruction}</instruction><examples>{''.join(examples)}</examples>"


def make(config: Config, chat: Any) -> dict[str, Any]:
    """Run with a chat model and return the counts."""
    with run.start(config, "mediflow.generate") as this:
        counts: dict[str, Any] = read_json(generate(config, this, chat) / "run.json")["counts"]
    assert counts["records"] == counts["accepted"] + counts["rejected"] + counts["failed"]
    assert counts["calls"] == counts["calls_parsed"] + counts["calls_failed"]
    return counts


def rows_of(folder: Path, name: str = "instructions") -> list[dict[str, Any]]:
    return list(read_parts(folder / name))


def reasons(folder: Path) -> list[str]:
    return [line["reason"] for line in rows_of(folder, "ledger")]


class Clinic:
    """Answers as the simulated teacher does, without a server; what it is asked is kept."""

    def __init__(self, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.requests: list[ChatRequest] = []
        self.delay = delay

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        await asyncio.sleep(self.delay())
        return ChatReply([self.text(request)] * request.n, {"prompt_tokens": 7, "completion_tokens": 3}, "simulated")

    def text(self, request: ChatRequest) -> str:
        asked = read_request(list(request.messages))
        assert asked is not None
        return reply(asked, 0)


class Scripted(Clinic):
    """Says to each call, by round and number, what it is told to."""

    def __init__(self, texts: dict[tuple[int, int], str]) -> None:
        super().__init__()
        self.texts = texts

    def text(self, request: ChatRequest) -> str:
        return self.texts[request.about["round"], request.about["number"]]


class Careless(Clinic):
    """Errs by the words of the request: a third of the replies repeat, a fifth are torn, a tenth are no replies."""

    def text(self, request: ChatRequest) -> str:
        draw = int(request.id, 16) % 30
        if draw < 10:
            same = draw % 3
            return "".join(
                written(f"Say {n}.", *(example(f"number {same} {n} {m}") for m in range(2))) for n in range(2)
            )
        text = super().text(request)
        return text[: len(text) * 3 // 5] if draw < 16 else "" if draw < 19 else text


def test_prompts_carry_their_cell_and_their_patients(tmp_path: Path) -> None:
    """Each call has its own patients, its request as data, the schema exactly where JSON is asked for."""
    config = settings(tmp_path, instructions=40, grounding="patients", weights="paper")
    calls = Calls(config, taxonomy_of(config), open_source(config))
    built = [(call, calls.request(call, calls.material(call))) for call in calls.plan()]
    patients = [json.loads(json.dumps(patient.facts())) for patient in draw_patients(0, 80)]
    assert [fact for call, _ in built for fact in calls.material(call).facts] == patients
    for call, asked in built:
        system, user = asked.messages
        request = read_request([user])
        assert request is not None
        assert (request["task_type"], request["section"]) == (call.cell.task_type, call.cell.section)
        assert request["facts"] == calls.material(call).facts
        assert ("JSON Schema" in user["content"]) == (call.cell.output_format == "json")
        assert ("the whole document" in user["content"]) == (call.cell.section == WHOLE)
        assert asked.temperature == call.cell.temperature
        assert system["role"] == "system"
    assert len({asked.id for _, asked in built}) == 40


def test_the_papers_form(tmp_path: Path) -> None:
    """Ten instructions a call, three or four examples drawn for each call, rounded up to whole calls; no patients."""
    config = settings(tmp_path, instructions=391, per_call=10, examples=[3, 4], weights="paper")
    calls = Calls(config, taxonomy_of(config), open_source(config))
    planned = list(calls.plan())
    assert len(planned) == calls.planned == 40
    drawn = Counter(call.examples for call in planned)
    assert set(drawn) == {3, 4}
    assert drawn[3] + drawn[4] == 40
    assert [call.wanted for call in planned] == [10 * call.examples for call in planned]
    [system, user] = calls.request(planned[0], calls.material(planned[0])).messages
    assert "Write 10 different instructions" in user["content"]
    assert f"{planned[0].examples} examples" in user["content"]
    assert "facts" not in user["content"].replace("artefacts", "")
    longer = Calls(
        settings(tmp_path, **{**config.model_dump(include={"per_call", "examples", "weights"}), "instructions": 800}),
        taxonomy_of(config),
        open_source(config),
    )
    assert list(longer.plan())[:40] == planned


def test_instructions_of_a_call_share_its_patients(tmp_path: Path) -> None:
    """The prompt of ten instructions holds the facts of the examples of one, not of ten times as many."""
    config = settings(tmp_path, instructions=10, per_call=10, grounding="patients")
    calls = Calls(config, taxonomy_of(config), open_source(config))
    [call] = calls.plan()
    assert len(calls.material(call).facts) == 2


@pytest.mark.parametrize("form", ["tagged", "json"])
def test_a_run_with_the_simulated_clinic(form: str, tmp_path: Path) -> None:
    """Every example becomes a row of the published columns about one patient; nothing fails; usage is added up."""
    config = settings(tmp_path / "out", instructions=60, per_call=2, grounding="patients", weights="paper", reply=form)
    chat = Clinic()
    counts = make(config, chat)
    rows = rows_of(config.out)
    assert counts["calls"] == counts["calls_parsed"] == 30
    assert counts["planned"] == counts["records"] == counts["accepted"] == len(rows) == 120
    assert len({row["id"] for row in rows}) == 120
    assert all((request.response_schema is not None) == (form == "json") for request in chat.requests)
    facts = {row["facts_id"]: row["facts"] for row in read_jsonl(config.out / "facts.jsonl")}
    assert len(facts) == 60
    for row in rows:
        typed = parse_row(Instruction, row, "row")
        assert typed.difficulty_level in DIFFICULTIES
        assert row["facts_id"] in facts
        assert row["checked"] >= row["contradicted"] == 0
    ledger = rows_of(config.out, "ledger")
    assert [line["id"] for line in ledger] == [row["id"] for row in rows]
    assert {line["status"] for line in ledger} == {"accepted"}
    assert [line["number"] for line in ledger] == sorted(line["number"] for line in ledger)
    assert sum(counts[name] for name in ("rejected", "failed", "refills", "repairs", "cells_short")) == 0
    record = read_json(config.out / "run.json")
    assert record["facts"]["simulated"] is True
    assert record["facts"]["licences"] == {"synthetic": "CDLA-Permissive-2.0"}
    assert record["facts"]["usage"]["prompt_tokens"] == 7 * 30
    assert record["facts"]["contradicted_share"] == 0
    assert "raw/calls.jsonl" not in record["outputs"]


def test_patients_come_from_a_file_again_and_again(tmp_path: Path) -> None:
    """Three patients serve five places in order; a file without facts, or without ids, is the user's mistake."""
    import polars

    facts = [json.dumps({"id": f"p{n}", "age": 40 + n}) for n in range(3)]
    polars.DataFrame({"facts": facts}).write_parquet(tmp_path / "patients.parquet")
    (tmp_path / "patients.jsonl").write_text("\n".join(facts))
    for name in ("patients.parquet", "patients.jsonl"):
        config = settings(tmp_path / "out", grounding="patients", patients=tmp_path / name, examples=5)
        material = open_source(config).material((0, 0), 5)
        assert [fact["id"] for fact in material.facts] == ["p0", "p1", "p2", "p0", "p1"]
    polars.DataFrame({"other": facts}).write_parquet(tmp_path / "wrong.parquet")
    (tmp_path / "wrong.jsonl").write_text('{"age": 3}')
    (tmp_path / "typed.jsonl").write_text('{"id": "a", "age": 3}\n{"id": "b", "age": "fifty"}')
    (tmp_path / "named.jsonl").write_text('{"id": "a", "alter": 3}')
    for name, said in (
        ("wrong.parquet", "no rows with a column 'facts'"),
        ("wrong.jsonl", "row 1: facts without an id"),
        ("typed.jsonl", r"row 2: facts of 'b': age: .* see mediflow/checking/facts\.py"),
        ("named.jsonl", "row 1: facts of 'a': alter: "),
    ):
        with pytest.raises(UserError, match=said):
            open_source(settings(tmp_path / "out", grounding="patients", patients=tmp_path / name))


def test_a_broken_reply_is_repaired_once(tmp_path: Path) -> None:
    """The second call shows the first reply and names its fault; its rows are the result, and cost what both did."""
    config = settings(tmp_path / "out")
    good = ChatReply([written("Do it.", example("a"), example("b"))], {}, "fake", cost=0.5)
    chat = FakeChat([ChatReply(["nonsense"], {}, "fake", cost=0.25), good])
    counts = make(config, chat)
    *_, said, asked = chat.requests[1].messages
    assert said == {"role": "assistant", "content": "nonsense"}
    assert "no complete <instruction>" in asked["content"]
    assert (counts["calls"], counts["calls_parsed"], counts["repairs"], counts["accepted"]) == (1, 1, 1, 2)
    assert [row["input"] for row in rows_of(config.out)] == [f"The patient {name} came today." for name in "ab"]
    ledger = rows_of(config.out, "ledger")
    assert [(line["attempt"], line["cost"]) for line in ledger] == [(2, 0.375), (2, 0.375)]
    assert {line["repair_id"] for line in ledger} == {chat.requests[1].id}


def test_of_several_instructions_only_the_broken_are_asked_for_again(tmp_path: Path) -> None:
    """The second of three is written again alone; the first and third stand as they were."""
    config = settings(tmp_path / "out", instructions=3, per_call=3, examples=1)
    torn = "<instruction>Two.</instruction><examples><example><input>a</input>"
    first = written("One.", example("a")) + torn + written("Three.", example("c"))
    chat = FakeChat([first, written("Two again.", example("b"))])
    counts = make(config, chat)
    asked = chat.requests[1].messages[-1]["content"]
    assert "instruction 2, example 1: the <example> is not closed" in asked
    assert "Write instruction 2 again" in asked
    assert [row["instruction"] for row in rows_of(config.out)] == ["One.", "Two again.", "Three."]
    assert [line["attempt"] for line in rows_of(config.out, "ledger")] == [1, 2, 1]
    assert counts["failed"] == 0


def test_a_repair_that_is_no_better_changes_nothing(tmp_path: Path) -> None:
    """A label outside the schema is repaired; where the repair is no better, the first reply counts."""
    config = settings(tmp_path / "out", weights=JSON)
    good, bad = example("a", '{"label": "NEUTRAL"}'), example("b", '{"label": "MAYBE"}')
    chat = FakeChat([written("Do it.", good, bad), written("Do it well.", bad, bad)])
    counts = make(config, chat)
    assert "example 2: the output does not fit the schema at label" in chat.requests[1].messages[-1]["content"]
    [row] = rows_of(config.out)
    assert (row["instruction"], row["output"]) == ("Do it.", '{"label": "NEUTRAL"}')
    [_, failed] = rows_of(config.out, "ledger")
    assert (failed["status"], failed["reason"], failed["attempt"]) == ("failed", "schema", 1)
    assert "MAYBE" in failed["text"]
    assert (counts["records"], counts["accepted"], counts["failed"]) == (2, 1, 1)


def test_what_contradicts_its_patient_is_refused_and_refilled(tmp_path: Path) -> None:
    """A wrong age is named in the repair; a second time it is rejected, and another patient takes the place.

    With max_contradicted null the same replies are accepted, and the contradictions counted.
    """
    (tmp_path / "p.jsonl").write_text('{"id": "p", "age": 54, "sex": "woman"}\n{"id": "q", "age": 61, "sex": "man"}')
    values: dict[str, Any] = {"grounding": "patients", "patients": tmp_path / "p.jsonl", "examples": 1, "refills": 1}

    def note(age: int, who: str) -> str:
        text = f"The patient is a {age}-year-old {who} who comes for a check of the blood pressure."
        return written("Sum up.", f"<example><input>{text}</input><output>A check-up.</output></example>")

    config = settings(tmp_path / "out", **values)
    chat = FakeChat([note(45, "woman"), note(45, "woman"), note(61, "man")])
    counts = make(config, chat)
    assert "contradicts the facts" in chat.requests[1].messages[-1]["content"]
    assert "45" in chat.requests[1].messages[-1]["content"]
    rejected, accepted = rows_of(config.out, "ledger")
    assert (rejected["status"], rejected["reason"], rejected["facts_id"]) == ("rejected", "contradicted", "p")
    assert rejected["contradictions"][0]["kind"] == "age"
    assert rejected["text"]["input"].startswith("The patient is a 45-year-old")
    assert (accepted["status"], accepted["round"], accepted["facts_id"]) == ("accepted", 1, "q")
    assert accepted["parent"] == rejected["call_id"]
    assert (counts["accepted"], counts["facts_contradicted"], counts["cells_short"]) == (1, 1, 0)

    marked = settings(tmp_path / "marked", **values, max_contradicted=None)
    counts = make(marked, FakeChat([note(45, "woman")]))
    [row] = rows_of(marked.out)
    assert (row["contradicted"], counts["rejected"], counts["repairs"]) == (1, 0, 0)


def test_repeats_are_caught_at_admission_and_refilled(tmp_path: Path) -> None:
    """A repeat of an accepted record, in other capitals or nearly the same, is refused with of what and how nearly."""
    # 46 words hold 44 runs of three; one word more takes two of them away and brings three: 42 of 47 are shared.
    long = " ".join(f"word{n}" for n in range(40))
    config = settings(tmp_path / "out", instructions=3, examples=1, refills=2)
    chat = Scripted(
        {
            (0, 0): written("One.", example(f"a {long}")),
            (0, 1): written("Two.", example(f"A {long.upper()}")),
            (0, 2): written("Three.", example(f"a {long} now")),
            (1, 1): written("Four.", example("b")),
            (1, 2): written("Five.", example(f"a {long}")),
            (2, 2): written("Six.", example("c")),
        }
    )
    counts = make(config, chat)
    first, *_ = rows_of(config.out)
    ledger = rows_of(config.out, "ledger")
    assert [(line["round"], line["number"], line["reason"]) for line in ledger] == [
        (0, 0, ""),
        (0, 1, "exact_duplicate"),
        (0, 2, "near_duplicate"),
        (1, 1, ""),
        (1, 2, "exact_duplicate"),
        (2, 2, ""),
    ]
    assert [line["of"] for line in ledger if line["of"]] == [first["id"]] * 3
    assert [line["similarity"] for line in ledger if line["of"]] == [1.0, pytest.approx(42 / 47, abs=1e-6), 1.0]
    assert (counts["accepted"], counts["refills"], counts["cells_short"]) == (3, 3, 0)


def test_cells_that_cannot_be_filled_are_listed_with_their_reason(tmp_path: Path) -> None:
    """A teacher that says the same twice leaves a place empty; what it writes beyond the plan is surplus."""
    config = settings(tmp_path / "out", instructions=2, examples=1, refills=1)
    more = written("One.", example("a"), example("b"))
    counts = make(config, FakeChat([more, written("Two.", example("a")), written("Three.", example("a"))]))
    assert reasons(config.out) == ["", "surplus", "exact_duplicate", "exact_duplicate"]
    coverage = read_json(config.out / "coverage.json")
    assert (coverage["planned"], coverage["accepted"], coverage["cells_short"]) == (2, 1, 1)
    [short] = [cell for cell in coverage["cells"] if cell["missing"]]
    assert (short["planned"], short["accepted"], short["reasons"]) == (1, 0, {"exact_duplicate": 2})
    assert sum(cell["planned"] for cell in coverage["cells"]) == counts["planned"] == 2


def test_too_few_examples_are_asked_for_again(tmp_path: Path) -> None:
    """One of three came: the refill asks for two; it is nobody's fault that can be repaired."""
    config = settings(tmp_path / "out", examples=3, refills=1)
    chat = FakeChat([written("One.", example("a")), written("Two.", example("b"), example("c"))])
    counts = make(config, chat)
    asked = read_request(list(chat.requests[1].messages))
    assert asked is not None
    assert (asked["instructions"], asked["examples"]) == (1, 2)
    assert (counts["accepted"], counts["repairs"], counts["refills"]) == (3, 0, 1)


def test_nothing_vanishes(tmp_path: Path) -> None:
    """Good, repeated, torn and useless replies and a refused call: every call and example is a row or has a reason."""
    config = settings(tmp_path / "out", instructions=4, repair=False, allow_failed=0.5)
    chat = FakeChat(
        [
            written("One.", example("a"), example("a")),
            written("Two.", example("b"), "<example><input>torn"),
            "",
            ChatError("HTTP 400: no", final=True),
        ]
    )
    counts = make(config, chat)
    assert {name: counts[name] for name in ("calls", "calls_parsed", "calls_failed", "planned", "instructions")} == {
        "calls": 4,
        "calls_parsed": 2,
        "calls_failed": 2,
        "planned": 8,
        "instructions": 2,
    }
    assert {name: counts[name] for name in ("records", "accepted", "rejected", "failed")} == {
        "records": 6,
        "accepted": 2,
        "rejected": 1,
        "failed": 3,
    }
    ledger = rows_of(config.out, "ledger")
    assert [(line["reason"], line["detail"]) for line in ledger if line["status"] != "accepted"] == [
        ("exact_duplicate", ""),
        ("torn", "example 2: the <example> is not closed"),
        ("unreadable", "empty reply"),
        ("no_answer", "HTTP 400: no"),
    ]
    assert "<input>torn" in ledger[3]["text"]


def test_with_more_examples_than_patients_nobody_guesses_whose_they_are(tmp_path: Path) -> None:
    """Three examples for two patients have no facts_id; two do."""
    config = settings(tmp_path / "out", instructions=2, grounding="patients", max_contradicted=None)
    three = written("One.", example("a"), example("b"), example("c"))
    make(config, FakeChat([three, written("Two.", example("d"), example("e"))]))
    assert [row["facts_id"] for row in rows_of(config.out)] == [None, None, "sim-0-00002", "sim-0-00003"]


def test_what_is_accepted_does_not_depend_on_which_answer_came_first(tmp_path: Path) -> None:
    """A careless teacher, one call at a time or sixteen with random delays: the same bytes, and so from the journal."""
    values: dict[str, Any] = {"instructions": 60, "per_call": 2, "grounding": "patients", "refills": 3}
    names = ("instructions", "ledger")
    results = []
    for number in range(3):
        rng = random.Random(number)
        teacher = {**ADDRESS, "concurrency": 1 if number == 0 else 16}
        config = settings(tmp_path / f"run{number}", teacher=teacher, **values)
        counts = make(config, Careless(lambda rng=rng, n=number: rng.random() / 300 if n else 0.0))  # type: ignore[misc]
        results.append([file.read_bytes() for name in names for file in sorted((config.out / name).iterdir())])
        results[-1].append((config.out / "facts.jsonl").read_bytes() + (config.out / "coverage.json").read_bytes())
    assert results[0] == results[1] == results[2]
    assert counts["refills"] > 10
    assert counts["repairs"] > 5
    assert {"exact_duplicate", "torn", "unreadable"} <= set(reasons(config.out))
    make(config, FakeChat([]))
    assert [file.read_bytes() for name in names for file in sorted((config.out / name).iterdir())] == results[0][:-1]


def test_answers_that_wait_are_read_again_from_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call answers last, and no outcome may be held in memory: nothing changes."""
    import mediflow.generation.rounds

    class Late(Careless):
        async def complete(self, request: ChatRequest) -> ChatReply:
            if request.about.get("number") == 0:
                await asyncio.sleep(0.2)
            return await super().complete(request)

    values: dict[str, Any] = {"instructions": 40, "per_call": 2, "grounding": "patients", "refills": 1}
    one = settings(tmp_path / "one", **values)
    make(one, Careless())
    monkeypatch.setattr(mediflow.generation.rounds, "HELD", 0)
    other = settings(tmp_path / "other", **{**values, "teacher": {**ADDRESS, "concurrency": 16}})
    make(other, Late())
    for name in ("instructions", "ledger"):
        assert rows_of(one.out, name) == rows_of(other.out, name)


def test_several_teachers_share_the_calls(tmp_path: Path) -> None:
    """Shares of three to one, by number and not by chance; the ledger says whose a record is."""
    more = [{**ADDRESS, "model": "second", "share": 1.0}]
    config = settings(
        tmp_path / "out", teacher={**ADDRESS, "share": 3.0}, more_teachers=more, instructions=40, grounding="patients"
    )
    chat = Clinic()
    make(config, chat)
    asked = Counter(request.teacher for request in chat.requests)
    assert asked["m"] + asked["second"] == 40
    assert abs(asked["second"] - 10) <= 1
    ledger = rows_of(config.out, "ledger")
    by_call = {request.id: request.teacher for request in chat.requests}
    assert all(line["teacher"] == by_call[line["call_id"]] for line in ledger)
    assert read_json(config.out / "run.json")["facts"]["teachers"] == {name: 2 * calls for name, calls in asked.items()}


def passage(number: int) -> str:
    return (
        f"Passage {number} tells of a cough that lasted for {number} weeks. It went away by itself. Nobody knows why."
    )


def documents(path: Path, license: str = "CC-BY-4.0") -> Path:
    rows = [{"id": str(n), "title": "T", "text": passage(n), "source": "own", "license": license} for n in range(1, 4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def seeded(folder: Path, path: Path, **values: Any) -> Config:
    passages = {"path": path, "document_type": "scientific_article", "min_words": 5}
    return settings(folder, passages=passages, grounding="patients", examples=1, **values)


def test_own_passages_are_the_inputs(tmp_path: Path) -> None:
    """The teacher writes instruction and output; the input is the passage as it stands, with its licence and origin."""
    config = seeded(tmp_path / "out", documents(tmp_path / "d.jsonl"), instructions=3)
    chat = FakeChat([written(f"Do {n}.", "<example><output>It went.</output></example>") for n in range(3)])
    make(config, chat)
    rows = rows_of(config.out)
    assert [row["input"] for row in rows] == [passage(n) for n in range(1, 4)]
    assert {row["input_data"] for row in rows} == {"scientific_article"}
    assert "do not write it again" in chat.requests[0].messages[1]["content"]
    facts = {row["facts_id"]: row["facts"] for row in read_jsonl(config.out / "facts.jsonl")}
    assert [facts[row["facts_id"]]["document"] for row in rows] == ["1", "2", "3"]
    assert read_json(config.out / "run.json")["facts"]["licences"] == {
        "own": "CC-BY-4.0",
        "synthetic": "CDLA-Permissive-2.0",
    }


def test_the_same_answer_to_another_instruction_about_a_passage_is_no_repeat(tmp_path: Path) -> None:
    """Given inputs are alike of themselves: what is compared is instruction and answer, passage by passage."""
    config = seeded(tmp_path / "out", documents(tmp_path / "d.jsonl"), instructions=5, repair=False)
    texts = [written(text, "<example><output>It went.</output></example>") for text in ("A.", "A.", "A.", "B.", "A.")]
    counts = make(config, FakeChat(texts))
    assert reasons(config.out) == ["", "", "", "", "exact_duplicate"]
    assert counts["accepted"] == 4


@pytest.mark.parametrize("license", ["PhysioNet Credentialed Health Data License 1.5.0", "CC-BY-4.0"])
def test_credentialed_passages_go_to_no_remote_endpoint(
    license: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their licence, or by the setting; refused before anything is sent."""
    monkeypatch.setenv("SOME_KEY", "k")
    remote = {"base_url": "https://example.org/v1", "model": "m", "api_key_env": "SOME_KEY"}
    path = documents(tmp_path / "d.jsonl", license)
    config = seeded(tmp_path / "out", path, teacher=remote, credentialed=license.startswith("CC"))
    with pytest.raises(UserError, match=r"data under a use agreement \(.+\) would go to example.org"):
        main(config)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"grounding": "none", "passages": {"path": "x"}}, "passages take the place of grounding"),
        ({"grounding": "none", "patients": Path("p.jsonl")}, "grounding none uses no patients"),
        ({"examples": []}, "examples is an empty list"),
        ({"examples": [3, 0]}, "greater than or equal to 1"),
        ({"reply": "xml"}, "'tagged' or 'json'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    """A setting that would silently do nothing is a mistake."""
    with pytest.raises(ValueError, match=said):
        settings(tmp_path, **values)


def test_an_outage_leaves_the_run_unfinished_and_the_next_one_mends_it(tmp_path: Path) -> None:
    """Where too many calls had no answer the folder is not finished; run again, only those are called."""
    config = settings(tmp_path / "out", instructions=3, examples=1)
    texts = [written("Do it.", example(name)) for name in "abc"]
    with pytest.raises(UserError, match="2 of 3 calls had no answer, the last with: down; run again"):
        make(config, FakeChat([texts[0], ChatError("down"), ChatError("down")]))
    assert not (config.out / "run.json").exists()
    second = FakeChat(texts[1:])
    counts = make(config, second)
    assert len(second.requests) == 2
    assert counts["accepted"] == 3


def test_no_example_at_all_is_an_error(tmp_path: Path) -> None:
    """An empty data set is never written."""
    with pytest.raises(UserError, match="none of 1 calls gave a usable example; most often: unreadable"):
        make(settings(tmp_path / "out", repair=False), FakeChat([""]))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"task": {}}, "no axis 'task'"),
        ({"difficulty": {"very_hard": 1}}, "no 'very_hard'; did you mean 'very hard'"),
        ({"output_format": {"json": 0}}, "holds no share above 0"),
        ("papr", "no preset 'papr'; did you mean 'paper'"),
    ],
)
def test_weights_that_name_nothing_are_refused(weights: Any, said: str, tmp_path: Path) -> None:
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
    for name in ("instructions/part-00000.jsonl", "ledger/part-00000.jsonl", "facts.jsonl", "coverage.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    counts = [read_json(tmp_path / name / "run.json")["counts"] for name in ("killed", "whole")]
    assert counts[0] == counts[1]
    assert counts[0]["calls"] == 40 + counts[0]["refills"]
    assert (counts[0]["planned"], counts[0]["accepted"]) == (80, 80)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if b"sk-do-not-keep" in path.read_bytes()]

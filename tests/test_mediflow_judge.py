"""Judging: samples, repair, means, and scores that stay null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mediflow.generate import Config as GenerateConfig
from mediflow.generate import generate
from mediflow.judge import CRITERIA, SCHEMA, Config, judge, main, mean_scores, read_samples
from mediflow.prompt import read_request
from medsmith import run
from medsmith.errors import UserError
from medsmith.llm import ChatError, FakeChat
from medsmith.records import read_json, read_jsonl

TEACHER = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": 1}


def verdict(score: int = 3, **changes: Any) -> str:
    return json.dumps({name: {"rationale": "r", "score": score} for name in CRITERIA} | changes)


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Two instructions of two examples each."""
    weights = {"output_format": {"plain_text": 1.0}}
    config = GenerateConfig(out=tmp_path / "generated", teacher=TEACHER, instructions=2, examples=2, weights=weights)
    pairs = "".join(f"<example><input>in {n}</input><output>out {n}</output></example>" for n in range(2))
    texts = [f"<instruction>Do {n}.</instruction><examples>{pairs}</examples>" for n in range(2)]
    with run.start(config, "mediflow.generate") as this:
        return generate(config, this, FakeChat(texts))


def make(generated: Path, chat: FakeChat, **values: Any) -> tuple[Path, list[dict[str, Any]]]:
    config = Config(out=generated.parent / "judged", generated=generated, teacher=TEACHER, **{"samples": 2, **values})
    with run.start(config, "mediflow.judge") as this:
        judge(config, this, chat)
    return config.out, list(read_jsonl(config.out / "scores.jsonl"))


def test_a_score_is_the_mean_of_its_samples(generated: Path) -> None:
    """Samples of 2 and 3 make 2.5, for every instruction once, in order of the ids, with rationales kept."""
    chat = FakeChat([verdict(2), verdict(3), verdict(4), verdict(4, quality={"rationale": "weak", "score": 1})])
    folder, rows = make(generated, chat)
    assert [row["instruction_id"] for row in rows] == sorted(
        {row["instruction_id"] for row in read_jsonl(generated / "instructions.jsonl")}
    )
    scores = [[row["mean"][name] for name in CRITERIA] for row in rows]
    assert sorted(scores) == [[2.5] * 5, [2.5, 4, 4, 4, 4]]
    assert all(row["failed"] == 0 and len(row["samples"]) == 2 for row in rows)
    counts = read_json(folder / "run.json")["counts"]
    assert counts == {"instructions": 2, "samples": 4, "scored": 4, "failed": 0, "without_score": 0}


def test_the_judge_sees_instruction_examples_and_facts(generated: Path) -> None:
    """One request an instruction: n samples, the schema, and each example beside the facts that it is about."""
    chat = FakeChat([verdict()] * 4)
    make(generated, chat)
    assert [request.n for request in chat.requests] == [2, 2]
    assert chat.requests[0].response_schema == SCHEMA
    assert list(SCHEMA["properties"]["quality"]["properties"]) == ["rationale", "score"]
    request = read_request(list(chat.requests[0].messages))
    assert request is not None
    assert sorted(example["output"] for example in request["examples"]) == ["out 0", "out 1"]
    about = {row["input"]: row["facts_id"] for row in read_jsonl(generated / "instructions.jsonl")
             if row["instruction"] == request["instruction"]}  # fmt: skip
    assert [fact["id"] for fact in request["facts"]] == [about[example["input"]] for example in request["examples"]]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "quality: 3",
        verdict(5),
        verdict(0),
        json.dumps({"quality": {"rationale": "r", "score": 3}}),
        verdict(3, quality=3),
        verdict(3, quality={"rationale": "r", "score": 2.5}),
        verdict(3, quality={"rationale": "r", "score": "3"}),
        verdict(3, quality={"score": 3}),
        verdict(3, style={"rationale": "r", "score": 3}),
    ],
)
def test_what_does_not_fit_is_no_score(bad: str) -> None:
    """A missing, half, foreign or out-of-scale score is a failure with its text, never a number."""
    found = read_samples([bad, verdict(4)])
    assert [failure["text"] for failure in found.failed] == [bad]
    assert mean_scores(found.samples)["quality"] == 4.0


def test_broken_samples_are_asked_for_once_more(generated: Path) -> None:
    """One of two samples is broken: one repair for one sample, which sees the broken text, completes the pair."""
    chat = FakeChat([verdict(2), "oops", verdict(4), verdict(3), verdict(3)])
    _, rows = make(generated, chat)
    [repair] = [request for request in chat.requests if len(request.messages) == 4]
    assert (repair.n, repair.messages[2]["content"]) == (1, "oops")
    assert "not valid JSON" in repair.messages[3]["content"]
    assert sorted(row["mean"]["quality"] for row in rows) == [3.0, 3.0]
    assert [row["failed"] for row in rows] == [0, 0]


def test_a_missing_score_stays_null(generated: Path) -> None:
    """Where no sample can be read, even after repair, all means are null, and the texts are in failed.jsonl."""
    chat = FakeChat(["a", "b", "c", "d", verdict(3), verdict(3)])
    folder, rows = make(generated, chat)
    assert sorted([row["mean"]["quality"] is None, row["failed"], row["samples"] == []] for row in rows) == [
        [False, 0, False],
        [True, 2, True],
    ]
    assert [row["text"] for row in read_jsonl(folder / "failed.jsonl")] == ["c", "d"]
    counts = read_json(folder / "run.json")["counts"]
    assert counts == {"instructions": 2, "samples": 4, "scored": 2, "failed": 2, "without_score": 1}


def test_a_call_without_answer_has_no_score(generated: Path) -> None:
    """A refused call counts as all of its samples failed, with the reason."""
    folder, rows = make(
        generated, FakeChat([ChatError("HTTP 400", final=True), verdict(), verdict()]), allow_failed=0.5
    )
    assert sorted(row["failed"] for row in rows) == [0, 2]
    assert {row["reason"] for row in read_jsonl(folder / "failed.jsonl")} == {"no answer: HTTP 400"}


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    """Judging half a generation is refused before any call."""
    (tmp_path / "half").mkdir()
    with pytest.raises(UserError, match="not a finished run"):
        main(Config(out=tmp_path / "out", generated=tmp_path / "half", teacher=TEACHER))

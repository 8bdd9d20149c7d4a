"""Judging: samples, repair, means, and scores that stay null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mediflow.calibrate import CRITERIA
from mediflow.judge import SCHEMA, Config, count_planted, judge, main, mean_scores, read_samples
from mediflow.prompt import read_request
from medsmith import run
from medsmith.config import Config as BaseConfig
from medsmith.errors import UserError
from medsmith.llm import ChatError, FakeChat
from medsmith.records import PartWriter, read_json, read_jsonl, read_parts, write_json, write_jsonl

TEACHER = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": 1}


def verdict(score: int = 3, **changes: Any) -> str:
    return json.dumps({name: {"rationale": "r", "score": score} for name in CRITERIA} | changes)


class Made(BaseConfig):
    """A step without settings."""


def write_generated(
    folder: Path,
    instructions: int,
    output: str = "out {n}",
    input_data: str = "triage_note",
    config: dict[str, Any] | None = None,
) -> Path:
    """A finished generate folder: so many instructions of two examples each."""
    about = {"task_type": "summarization", "input_data": input_data, "output_format": "plain_text"}
    with run.start(Made(out=folder), "mediflow.generate") as this:
        with PartWriter(folder / "instructions") as parts:
            for number in range(instructions):
                for n in range(2):
                    text = {"instruction": f"Do {number}.", "input": f"in {n}", "output": output.format(n=n)}
                    ids = {"id": f"{number}-{n}", "instruction_id": f"i{number}", "facts_id": f"p{number}-{n}"}
                    parts.write(ids | about | {"difficulty_level": "hard"} | text)
        patients = [f"p{number}-{n}" for number in range(instructions) for n in range(2)]
        write_jsonl(folder / "facts.jsonl", ({"facts_id": key, "facts": {"id": key}} for key in patients))
        this.finish()
    record = read_json(folder / "run.json")
    write_json(folder / "run.json", record | {"config": record["config"] | (config or {})})
    return folder


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Two instructions of two examples each."""
    return write_generated(tmp_path / "generated", 2)


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
        {row["instruction_id"] for row in read_parts(generated / "instructions")}
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
    assert [fact["id"] for fact in request["facts"]] == ["p0-0", "p0-1"]


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


def test_an_instruction_written_twice_is_judged_once(tmp_path: Path) -> None:
    """Rows of the same instruction from a later call are not judged again."""
    folder = write_generated(tmp_path / "generated", 1)
    row = next(read_parts(folder / "instructions"))
    with PartWriter(folder / "instructions") as parts:
        for key in ("i0", "i1", "i0"):
            parts.write(row | {"instruction_id": key, "instruction": key})
    chat = FakeChat([verdict()] * 4)
    _, rows = make(folder, chat)
    assert [row["instruction_id"] for row in rows] == ["i0", "i1"] and len(chat.requests) == 2


def test_a_planted_error_is_judged_beside_the_sound_row(tmp_path: Path) -> None:
    """Two of three instructions are judged again with one output made wrong; one fell, one did not; scores stay."""
    folder = write_generated(tmp_path / "generated", 3, output="metformin 50{n} mg, left side")
    replies = {False: iter([4, 4, 4]), True: iter([2, 4])}

    class Judge:
        def __init__(self) -> None:
            self.broken: list[list[str]] = []

        async def complete(self, request: Any) -> Any:
            asked = read_request(list(request.messages))
            assert asked is not None
            outputs = [example["output"] for example in asked["examples"]]
            planted = "planted" in request.about
            if planted:
                self.broken.append(outputs)
            return await FakeChat([verdict(next(replies[planted]))]).complete(request)

    chat = Judge()
    config = Config(out=tmp_path / "judged", generated=folder, teacher=TEACHER, samples=1, calibrate=2)
    with run.start(config, "mediflow.judge") as this:
        judge(config, this, chat)
    sound = ["metformin 500 mg, left side", "metformin 501 mg, left side"]
    assert [sum(a != b for a, b in zip(outputs, sound, strict=True)) for outputs in chat.broken] == [1, 1]
    record = read_json(config.out / "run.json")
    assert record["counts"] == {"instructions": 3, "samples": 3, "scored": 3, "failed": 0, "without_score": 0}
    calibration = record["facts"]["calibration"]
    assert (calibration["planted"], calibration["unscored"]) == (2, 0)
    quality = calibration["criteria"]["quality"]
    assert (quality["lower"], quality["same"], quality["mean_change"]) == (1, 1, -1.0)
    assert [row["mean"]["quality"] for row in read_jsonl(config.out / "scores.jsonl")] == [4.0] * 3
    assert len(list(read_jsonl(config.out / "calibration.jsonl"))) == 2


def test_calibration_counts_only_what_can_be_planted(tmp_path: Path) -> None:
    """Of three instructions drawn none has an answer that a rule has a hold on; of others all have."""
    settings = {"teacher": TEACHER, "calibrate": 3, "out": tmp_path / "out"}
    bare = write_generated(tmp_path / "bare", 3, output="glaucoma")
    assert count_planted(Config(generated=bare, **settings)) == 0
    dosed = write_generated(tmp_path / "dosed", 3, output="metformin 50{n} mg, left side")
    assert count_planted(Config(generated=dosed, **settings)) == 3


def test_agreement_is_measured_among_samples_and_with_another_judge(generated: Path) -> None:
    """Samples that agree give 1; a judge of the same opinion 1; a folder of other instructions is refused."""
    replies = [verdict(2), verdict(2), verdict(4), verdict(4)]
    first, _ = make(generated, FakeChat(list(replies)))
    config = Config(out=generated.parent / "two", generated=generated, teacher=TEACHER, samples=2, others=[first])
    with run.start(config, "mediflow.judge") as this:
        judge(config, this, FakeChat(list(replies)))
    found = read_json(config.out / "run.json")["facts"]["agreement"]
    assert found["samples"]["quality"] == 1.0 and found[str(first)]["realism"] == 1.0
    strange = Config(out=generated.parent / "strange", generated=generated, teacher=TEACHER)
    with run.start(strange, "mediflow.judge") as this:
        write_jsonl(strange.out / "scores.jsonl", [{"instruction_id": "x", "mean": {}}])
        this.finish()
    config = config.model_copy(update={"others": [strange.out], "out": generated.parent / "three"})
    with run.start(config, "mediflow.judge") as this, pytest.raises(UserError, match="judged none of the instructions"):
        judge(config, this, FakeChat(list(replies)))


def test_own_passages_are_judged_by_their_own_name_and_without_facts(tmp_path: Path) -> None:
    """A document type of one's own is named as it is; where a passage is from is no patient's truth."""
    folder = write_generated(tmp_path / "generated", 1, input_data="our_letters", config={"passages": {"path": "p"}})
    chat = FakeChat([verdict()] * 2)
    make(folder, chat)
    (request,) = chat.requests
    assert "on our letters, with" in str(request.messages[1]["content"])
    assert (read_request(list(request.messages)) or {})["facts"] == [None, None]


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    """Judging half a generation is refused before any call."""
    (tmp_path / "half").mkdir()
    with pytest.raises(UserError, match="not a finished run"):
        main(Config(out=tmp_path / "out", generated=tmp_path / "half", teacher=TEACHER))

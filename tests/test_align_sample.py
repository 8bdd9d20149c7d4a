"""A model's own answers become pairs: the better one chosen, ties told, and training on them moves what it says."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from align import dpo, sample, scores, sft
from align.pairing import Limits, Scored, describe, make_pair
from medsmith import run
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import Instruction, read_jsonl, read_parquet, write_parquet

GOOD, BAD = "No pleural effusion.", "Left lower lobe pneumonia."
LIMITS = Limits(margin=0.2, least=0.3, max_length_ratio=4.0)


def row(number: int, output: str = GOOD, form: str = "plain_text") -> Instruction:
    return Instruction(
        id=f"r{number}",
        instruction="Answer the question.",
        input=f"The patient denies fever {number}.",
        output=output,
        task_type="qa",
        input_data="note",
        output_format=form,
        difficulty_level="low",
        quality=3.0,
    )


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "form", "text", "value"),
    [
        ("ENTAILMENT", "plain_text", "entailment.", 1.0),
        ("ENTAILMENT", "plain_text", "It is ENTAILMENT", 0.0),
        ("the cat sat on the mat", "plain_text", "the cat lay on the mat", 5 / 6),
        ('{"code": "E11.9", "sure": true}', "json", '{"sure": true, "code": "e11.9"}', 1.0),
        ('{"codes": ["E11.9", "I10"]}', "json", '```json\n{"codes": ["I10", "E11.9"]}\n```', 1.0),
        ('{"codes": ["E11.9", "I10"]}', "json", '{"codes": ["I10", "J45"]}', 0.5),
        ('{"codes": ["E11.9", "I10"]}', "json", '{"code": ["I10", "E11.9"]}', 0.0),
        ('{"code": "E11.9"}', "json", "the code is E11.9", 0.0),
        ("E11.9 and I10 and also J45", "json", "E11.9 and I10 and also J45", 1.0),
    ],
)
def test_an_answer_earns_what_its_form_asks_for(gold: str, form: str, text: str, value: float) -> None:
    """Labels by equality, JSON by its leaves with their paths, texts by ROUGE-L; a gold answer earns 1."""
    made = row(0, gold, form)
    assert scores.score(made, text) == pytest.approx(value)
    assert scores.score(made, gold) == 1.0


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ('{"grade": 10}', 1.0),
        ('Well: {"grade": 1}', 0.0),
        ('{"grade": 5.5}', 0.5),
        ('{"grade": 11}', None),
        ("9", None),
    ],
)
def test_a_grade_is_read_or_none(text: str, grade: float | None) -> None:
    """A grade out of bounds, or one that is not said, is none, never 0."""
    assert scores.read_grade(text) == grade


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_the_best_answer_stands_against_the_worst() -> None:
    """Whatever the order; the pair has an id of its own, and what the row says of its task."""
    answers = [Scored("middling", 0.5), Scored("bad", 0.0), Scored("good", 1.0)]
    for order in (answers, answers[::-1]):
        pair = make_pair(row(0), order, LIMITS)
        assert isinstance(pair, Instruction)
        assert (pair.output, pair.rejected_output, pair.error_type) == ("good", "bad", "own answer")
        assert pair.id != "r0" and pair.task_type == "qa"


def test_of_equally_good_answers_the_shorter_is_chosen_on_both_sides() -> None:
    """Length earns nothing, and the rejected one is not chosen for being long."""
    answers = [Scored("good and long", 1.0), Scored("good", 1.0), Scored("bad and long", 0.0), Scored("bad", 0.0)]
    pair = make_pair(row(0), answers, LIMITS)
    assert isinstance(pair, Instruction) and (pair.output, pair.rejected_output) == ("good", "bad")
    often = make_pair(row(0), [*answers, Scored("good and long", 1.0)], LIMITS._replace(max_length_ratio=9.0))
    assert isinstance(often, Instruction) and often.output == "good and long"


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([Scored("a", 1.0)], "fewer than two"),
        ([], "fewer than two"),
        ([Scored("a", 0.7), Scored("b", 0.6)], "tie"),
        ([Scored("a", 0.2), Scored("b", 0.0)], "less than least"),
        ([Scored("a", 1.0), Scored("b" * 9, 0.0)], "max_length_ratio"),
    ],
)
def test_what_makes_no_pair_says_why(answers: list[Scored], reason: str) -> None:
    """Too few, too close, too bad, too uneven."""
    made = make_pair(row(0), answers, LIMITS)
    assert isinstance(made, str) and reason in made


def test_the_description_counts_by_hand() -> None:
    """Means over answers and over rows, and how lengths lie: e times as long on one side, as short on the other: 0."""
    scored = {"a": [Scored("x", 1.0), Scored("y", 0.0)], "b": [Scored("z", 0.5)]}
    pairs = [replace(row(0, "aa"), rejected_output="aaaa"), replace(row(1, "aaaa"), rejected_output="aa")]
    found = describe(scored, pairs, [{"reason": "tie"}, {"reason": "tie"}])
    assert (found["answers"], found["mean_score"], found["mean_best"]) == (3, 0.5, 0.75)
    assert found["mean_log_length_ratio"] == 0.0 and found["reasons"] == {"tie": 2}


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curated")
    write_parquet(folder / "data" / "part-0.parquet", [row(n) for n in range(24)])
    return folder


@pytest.fixture(scope="module")
def undecided(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says one of two things, each about as often."""
    folder = tmp_path_factory.mktemp("undecided")
    rows = [replace(row(n, GOOD if n % 2 else BAD), id=f"t{n}") for n in range(32)]
    write_parquet(folder / "rows" / "part-0.parquet", rows)
    trainer = {"max_steps": 60, "per_device_train_batch_size": 8, "learning_rate": 1.0e-2, "save_strategy": "no"}
    return sft.main(
        sft.Config(
            out=folder / "run", model=tiny_model, data=folder / "rows", heldout_share=0, trainer=trainer, threads=1
        )
    )


def settings(out: Path, data: Path, **changes: Any) -> sample.Config:
    values = {"out": out, "data": data, "samples": 6, "max_tokens": 16, "threads": 1}
    return sample.Config(**(values | changes))


@pytest.fixture(scope="module")
def sampled(undecided: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample.main(settings(tmp_path_factory.mktemp("sample") / "run", data, model=undecided))


def test_own_answers_become_pairs(sampled: Path) -> None:
    """Most rows have the good answer on the one side, and none on the other; no row vanishes."""
    record = run.require_finished(sampled)
    pairs = read_parquet(sampled / "data")
    counts = record["counts"]
    assert counts["rows"] == 24 == counts["kept"] + counts["dropped"] and counts["kept"] == len(pairs) >= 12
    assert Counter(pair.output == GOOD for pair in pairs)[True] >= 0.9 * len(pairs)
    assert all(pair.rejected_output != GOOD for pair in pairs)
    assert len({pair.id for pair in pairs}) == len(pairs)
    lines = list(read_jsonl(sampled / "scores.jsonl"))
    assert len(lines) == 24 and {line["measure"] for line in lines} == {"exact"}
    assert len(list(read_jsonl(sampled / "dropped.jsonl"))) == counts["dropped"]


def test_a_killed_run_gives_the_same_pairs(sampled: Path, undecided: Path, data: Path, tmp_path: Path) -> None:
    """With half of its calls in the journal it asks for the rest and ends with the same bytes."""
    config = settings(tmp_path / "run", data, model=undecided)
    lines = (sampled / "raw" / "answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "raw").mkdir(parents=True)
    (tmp_path / "run" / "started.json").write_text(
        json.dumps({"identity": run.step_identity("align.sample", config), "error": "killed"})
    )
    (tmp_path / "run" / "raw" / "answers.jsonl").write_text("".join(lines[:10]) + lines[10][:20])
    sample.main(config)
    again = (tmp_path / "run" / "raw" / "answers.jsonl").read_text().splitlines(keepends=True)
    assert len(again) == len(lines) and again[:10] == lines[:10]
    assert run.require_finished(config.out)["digest"] == run.require_finished(sampled)["digest"]


def test_dpo_reads_the_pairs_and_moves_the_model(undecided: Path, sampled: Path, tmp_path: Path) -> None:
    """After a few steps the model says the good answer more often when it is sampled again."""
    trainer = {"max_steps": 40, "per_device_train_batch_size": 8, "learning_rate": 1.0e-3, "save_strategy": "no"}
    moved = dpo.main(dpo.Config(out=tmp_path / "dpo", model=undecided, data=sampled, trainer=trainer, threads=1))
    write_parquet(tmp_path / "new" / "a.parquet", [row(n) for n in range(50, 74)])
    shares = []
    for name, model in (("before", undecided), ("after", moved)):
        config = settings(tmp_path / name, tmp_path / "new", model=model, samples=2, margin=0.01, temperature=0.8)
        try:
            sample.main(config)
        except UserError as error:
            assert "gave a pair" in str(error)  # where all answers are alike there is none
        calls = list(read_jsonl(tmp_path / name / "raw" / "answers.jsonl"))
        texts = [text for call in calls for text in call["texts"]]
        shares.append(sum(text == GOOD for text in texts) / len(texts))
    assert shares[1] > shares[0] + 0.25, shares


@contextmanager
def serving(reply: Any) -> Iterator[str]:
    """An OpenAI-compatible endpoint on this machine; `reply(messages, n)` gives its texts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            texts = reply(asked["messages"], asked.get("n") or 1)
            message = [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for text in texts]
            body = {"model": "toy", "choices": message, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def test_an_endpoint_answers_and_a_judge_grades(data: Path, tmp_path: Path) -> None:
    """The judge likes what the reference does not say, and its grades decide; what it does not grade is no side."""

    def reply(messages: list[dict[str, str]], n: int) -> list[str]:
        if "You grade answers" in messages[0]["content"]:
            said = messages[1]["content"].rpartition("## Answer\n")[2]
            return [{"first": '{"grade": 9}', "second": '{"grade": 2}'}.get(said, "I would rather not")] * n
        return ["first", "second", "third", GOOD][:n]

    with serving(reply) as address:
        teacher = {"base_url": address, "model": "toy"}
        config = settings(tmp_path / "run", data, server=teacher, judge=teacher, samples=4)
        sample.main(config)
    pairs = read_parquet(tmp_path / "run" / "data")
    assert len(pairs) == 24 and {(pair.output, pair.rejected_output) for pair in pairs} == {("first", "second")}
    facts = run.require_finished(config.out)["facts"]["sample"]
    assert facts["judging"]["ungraded"] == 48 and facts["usage"]["calls"] == 24


def test_settings_that_cannot_be_are_refused(data: Path, tmp_path: Path) -> None:
    """One speaker, not none and not two; a server has its own top_p."""
    server = {"base_url": "http://127.0.0.1:9/v1"}
    base = {"out": str(tmp_path), "data": str(data)}
    with pytest.raises(UserError, match="exactly one of model"):
        load(sample.Config, base)
    with pytest.raises(UserError, match="exactly one of model"):
        load(sample.Config, base | {"model": "a/b", "server": server})
    with pytest.raises(UserError, match="server.extra_body"):
        load(sample.Config, base | {"server": server, "top_p": 0.9})

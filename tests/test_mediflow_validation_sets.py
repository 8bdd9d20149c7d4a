"""Validation sets: what is read and refused, what is dropped and why, restarts."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from mediflow.clinic.patients import draw_patients
from mediflow.clinic.quizzes import MAKERS, misanswer, write_quiz
from mediflow.clinic.reading import choose as read_and_choose
from mediflow.clinic.reply import reply
from mediflow.prompt import read_request, request_block
from mediflow.teacher import Faults, make_app
from mediflow.validation.asking import Entry
from mediflow.validation.candidates import Candidate
from mediflow.validation.screening import drop_known, left
from mediflow.validation.sets import rows_of
from mediflow.validation.topics import Topic, load_topics, variety
from mediflow.validation_sets import Config, make, plan, topics_of
from medsmith import run
from medsmith.errors import UserError
from medsmith.llm import ChatReply, ChatRequest
from medsmith.records import content_id, read_json, read_jsonl
from merge_recipes.validation import read_questions

ADDRESS = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": 4}


def settings(folder: Path, **values: Any) -> Config:
    """Two topics, ten questions each, of which six are kept."""
    given = {"teacher": ADDRESS, "topics": ["medication", "clinical_nli"], "questions": 6, "candidates": 10}
    return Config(**{"out": folder, "diversity": {"method": "kmeans"}, **given, **values})


class Clinic:
    """Answers as the simulated teacher does, without a server; `truth` is what was planted, by question."""

    def __init__(self, wrong_key: float = 0.0, repeated: float = 0.0, stop_after: int | None = None) -> None:
        self.shares = (wrong_key, repeated)
        self.stop_after = stop_after
        self.requests: list[ChatRequest] = []
        self.planted: dict[str, dict[str, Any]] = {}

    async def complete(self, request: ChatRequest) -> ChatReply:
        if self.stop_after is not None and len(self.requests) >= self.stop_after:
            raise KeyboardInterrupt
        self.requests.append(request)
        return ChatReply([self.text(request)], {"prompt_tokens": 7, "completion_tokens": 3}, "simulated")

    def text(self, request: ChatRequest) -> str:
        asked = read_request(list(request.messages))
        assert asked is not None
        text = reply(asked, int(request.id, 16) % 2**32)
        if asked["kind"] == "question" and any(self.shares):
            text, planted = misanswer(text, asked, *self.shares, random.Random(request.id))
            self.planted |= {row["question"]: row for row in planted}
        return text

    def wrong(self, rows: list[dict[str, Any]]) -> int:
        """How many of some rows (kept or dropped) have a wrong key."""
        found = [self.planted.get(content_id(row["context"], row["question"]), {}) for row in rows if "context" in row]
        return sum(one.get("kind") == "wrong_key" for one in found)


def built(config: Config, teacher: Any, reviewer: Any = None) -> dict[str, Any]:
    """Make the sets and return the counts."""
    with run.start(config, "mediflow.validation_sets") as this:
        made = make(config, this, nullcontext(teacher), nullcontext(reviewer) if reviewer else None)
    counts: dict[str, Any] = read_json(made / "run.json")["counts"]
    assert counts["questions"] == counts["kept"] + counts["dropped"] + counts["failed"]
    return counts


def kept(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "sets").glob("*.jsonl")) for row in read_jsonl(path)]


def dropped(folder: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(folder / "dropped.jsonl"))


def test_the_topics_are_the_papers_twelve() -> None:
    """Twelve topics, each with its maker in the clinic; a label topic needs labels, others must not have them."""
    topics = load_topics()
    assert set(topics) == set(MAKERS)
    assert len(topics) == 12
    given: dict[str, Any] = dict.fromkeys(("title", "context", "asks", "instruction"), "x")
    for wrong in ({"answer": "label"}, {"answer": "free", "labels": ["a", "b"]}):
        with pytest.raises(ValidationError, match="go together"):
            Topic(**(given | wrong))
    with pytest.raises(UserError, match="did you mean 'medication'"):
        topics_of(settings(Path("x"), topics=["medications"]))


def test_calls_of_a_topic_differ_in_what_they_are_about() -> None:
    """Every specialty comes up equally often, and no two of 24 calls are about the same."""
    drawn = [variety("medication", number, 0) for number in range(24)]
    assert set(Counter(about["specialty"] for about in drawn).values()) == {1}
    assert len({tuple(about.values()) for about in drawn}) == 24
    assert drawn != [variety("medication", number, 1) for number in range(24)]


def entry(topic: str, question: str, right: str, *wrong: str) -> Entry:
    return Entry(topic, "c", "m", Candidate(topic, "A context.", question, right, wrong, "context", "Because."))


def test_the_right_option_stands_everywhere_equally_often() -> None:
    """Ten questions of four options: each place two or three times, not in the order of the rows, options unchanged."""
    entries = [entry("medication", f"What is dose {n}?", f"{n} mg", "x", "y", "z") for n in range(10)]
    rows = rows_of("medication", load_topics()["medication"], entries, 0)
    places = [row["answer_index"] for row in rows]
    assert sorted(Counter(places).values()) == [2, 2, 3, 3]
    assert places != [n % 4 for n in range(10)]
    assert [row["options"][row["answer_index"]] for row in rows] == [f"{n} mg" for n in range(10)]
    assert all(set(row["options"]) >= {"x", "y", "z"} for row in rows)
    assert len({tuple(o for o in row["options"] if o in "xyz") for row in rows}) > 1
    assert rows_of("medication", load_topics()["medication"], entries, 1) != rows


def test_all_topics_of_the_simulated_clinic(tmp_path: Path) -> None:
    """Twelve sets that merge_recipes.search reads, the quota each, the right places even, all of it simulated."""
    config = settings(tmp_path / "out", topics=None, questions=6, candidates=10)
    counts = built(config, Clinic())
    assert (counts["topics"], counts["calls"], counts["questions"]) == (12, 24, 120)
    questions = read_questions([config.out / "sets"])
    assert len(questions) == counts["kept"] == 72
    for topic in load_topics():
        own = [question for question in questions if question.topic == topic]
        places = Counter(question.answer_index for question in own)
        assert len(own) == 6
        assert max(places.values()) - min(places[place] for place in range(len(own[0].options))) <= 1
        assert all(question.instruction == load_topics()[topic].instruction for question in own)
        assert all(question.context for question in own)
    coverage = read_json(config.out / "coverage.json")
    assert all(one["nearest"]["kept"] < one["nearest"]["random"] for one in coverage.values())
    assert all(sum(one["clusters"]) + one["outliers"] >= one["kept"] for one in coverage.values())
    record = read_json(config.out / "run.json")
    assert record["facts"]["simulated"] is True
    assert record["facts"]["licences"] == {"synthetic validation sets": "CDLA-Permissive-2.0"}
    assert {row["reason"] for row in dropped(config.out)} >= {"not_chosen"}


@pytest.mark.parametrize("topic", sorted(MAKERS))
def test_the_simulated_reader_is_nearly_always_right(topic: str) -> None:
    """It knows no key, and reads at least 85 in 100 of every topic as they were meant; chance is a third or less."""
    rng = random.Random(topic)
    right = 0
    for _ in range(60):
        quiz = write_quiz(topic, 4, rng)
        options = rng.sample([quiz.right, *quiz.wrong], 1 + len(quiz.wrong))
        asked = {"context": quiz.context, "question": quiz.question, "options": options}
        answer = json.loads(read_and_choose(asked, rng))["answer"]
        right += answer > 0 and options[answer - 1] == quiz.right
        assert quiz.evidence in quiz.context
        assert quiz.right not in quiz.wrong
    assert right >= 0.85 * 60


def test_how_many_wrong_keys_survive(tmp_path: Path) -> None:
    """Of one in five wrong keys the free checks let most of the convinced ones by; a second reader finds nearly all."""
    sizes = {"topics": None, "questions": 15, "candidates": 15, "diversity": {"method": "none"}}
    alone = Clinic(wrong_key=0.2)
    unread = settings(tmp_path / "alone", repair=False, **sizes)
    counts = built(unread, alone)
    wrong_kept = alone.wrong(kept(unread.out))
    wrong_dropped = sum(row["reason"] in {"other_supported", "wrong_code"} for row in dropped(unread.out))
    total = sum(one["kind"] == "wrong_key" for one in alone.planted.values())
    assert 25 <= total <= 50
    assert wrong_dropped >= 8
    assert 0.3 * total < wrong_kept < 0.8 * total

    read_twice = settings(tmp_path / "read", repair=False, reviewer=ADDRESS | {"model": "r"}, **sizes)
    teacher = Clinic(wrong_key=0.2)
    with_reader = built(read_twice, teacher, Clinic())
    assert teacher.wrong(kept(read_twice.out)) <= 0.05 * total
    # What the reader costs: sound questions that it reads otherwise.
    lost = counts["kept"] - wrong_kept - (with_reader["kept"] - teacher.wrong(kept(read_twice.out)))
    assert 0 <= lost <= 0.06 * counts["kept"]
    assert read_json(read_twice.out / "run.json")["facts"]["reviewer"] == "r"


def test_the_simulated_teacher_can_be_told_to_key_wrongly(tmp_path: Path) -> None:
    """Over HTTP: every key is another option than without the fault, and the log alone says which were right."""
    asked = {"kind": "question", "topic": "medication", "questions": 4, "options": 4, "variant": 0}
    body = {"model": "m", "messages": [{"role": "user", "content": request_block(asked)}]}

    async def answer(faults: Faults, log: Path) -> list[dict[str, Any]]:
        app: Any = make_app(reply, 0, faults, log)
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
            said = (await client.post("/v1/chat/completions", json=body)).json()
        questions: list[dict[str, Any]] = json.loads(said["choices"][0]["message"]["content"])["questions"]
        return questions

    true = asyncio.run(answer(Faults(), tmp_path / "true.jsonl"))
    said = asyncio.run(answer(Faults(wrong_key=1.0), tmp_path / "said.jsonl"))
    assert [one["question"] for one in said] == [one["question"] for one in true]
    assert all(
        one["right"] != other["right"] and other["right"] in one["wrong"] for one, other in zip(said, true, strict=True)
    )
    [planted_] = [row["planted"] for row in read_jsonl(tmp_path / "said.jsonl") if "planted" in row]
    assert [row["true"] for row in planted_] == [one["right"] for one in true]


def test_repeats_are_dropped_and_named(tmp_path: Path) -> None:
    """Questions that come back word for word or with a word more: one of each is kept, the others say of which."""
    config = settings(tmp_path / "out", topics=["discharge_letter_qa"], questions=30, candidates=30)
    teacher = Clinic(repeated=0.5)
    counts = built(config, teacher)
    reasons = Counter(row["reason"] for row in dropped(config.out))
    assert reasons["exact_duplicate"] + reasons["near_duplicate"] >= 5
    assert min(reasons["exact_duplicate"], reasons["near_duplicate"]) >= 1
    texts = [row["context"].removesuffix(" Thank you.") for row in kept(config.out)]
    assert len(set(texts)) == len(texts) == counts["kept"]
    assert counts["kept"] < 30


def test_what_a_benchmark_holds_is_not_kept(tmp_path: Path) -> None:
    """A blocklist with one candidate's context drops that candidate and names its row; without it all are kept."""
    free = settings(tmp_path / "free", topics=["discharge_letter_qa"], questions=10, candidates=10)
    built(free, Clinic())
    target = kept(free.out)[3]
    (tmp_path / "mednli.jsonl").write_text(json.dumps({"sentence1": target["context"]}) + "\n")
    config = settings(tmp_path / "out", topics=["discharge_letter_qa"], questions=10, candidates=10,
                      blocklists=[tmp_path / "mednli.jsonl"])  # fmt: skip
    built(config, Clinic())
    gone = [row for row in dropped(config.out) if row["reason"] == "contaminated"]
    assert target["id"] in {row["id"] for row in gone}
    assert all("mednli mednli.jsonl:1:sentence1" in row["detail"] for row in gone)
    assert len(kept(free.out)) == 10
    assert {row["id"] for row in kept(config.out)} | {row["id"] for row in gone} == {r["id"] for r in kept(free.out)}


def test_what_the_base_knows_without_the_context_is_dropped(tmp_path: Path) -> None:
    """The base knows a fact of its own world: dropped where the context is to decide, kept where knowledge is."""
    asked = "With what does liokut insufficiency begin?"
    known = (asked, "dysuria", "hesitancy", "fatigue", "dizziness")
    wrong = (asked, "hesitancy", "dysuria", "fatigue", "dizziness")
    entries = [entry("clinical_case", *known), entry("clinical_knowledge", *known), entry("clinical_case", *wrong)]
    config = settings(tmp_path, closed_book="experts/nano", device="cpu")
    drop_known(entries, config, load_topics())
    assert [one.reason for one in entries] == ["known_without_context", None, None]
    untouched = [entry("clinical_case", *known)]
    drop_known(untouched, settings(tmp_path), load_topics())
    assert left(untouched) == untouched


class Careless(Clinic):
    """Every third reply is torn; repairs are whole."""

    def text(self, request: ChatRequest) -> str:
        text = super().text(request)
        return text[: len(text) // 2] if "number" in request.about and int(request.id, 16) % 3 == 0 else text


def test_a_repair_says_what_was_wrong(tmp_path: Path) -> None:
    """A torn reply is asked for once more with the reason, and counted; without repair its questions are failed."""
    config = settings(tmp_path / "out", questions=20, candidates=20)
    teacher = Careless()
    counts = built(config, teacher)
    repairs = [request for request in teacher.requests if "repairs" in request.about]
    assert len(repairs) == counts["repairs"] >= 1
    assert all("question 1: the reply is not valid JSON" in request.messages[-1]["content"] for request in repairs)
    assert counts["failed"] == 0
    mended = sum((Counter(one["mended"]) for one in read_json(config.out / "coverage.json").values()), Counter[str]())
    assert mended["unreadable"] == 5 * len(repairs)
    without = settings(tmp_path / "without", questions=20, candidates=20, repair=False)
    assert built(without, Careless())["failed"] == 5 * len(repairs)
    assert {row["status"] for row in dropped(without.out) if row["reason"] == "unreadable"} == {"failed"}


class Unsure(Clinic):
    """A reviewer who answers in words to a half of the questions, and that none is right to a quarter."""

    def text(self, request: ChatRequest) -> str:
        draw = int(request.id, 16) % 4
        return "The first, I think." if draw < 2 else '{"answer": 0}' if draw == 2 else super().text(request)


def test_a_reviewer_who_says_nothing_is_no_consent(tmp_path: Path) -> None:
    """What cannot be read, and what the reviewer finds no right option in, is dropped under its own name."""
    reviewer = ADDRESS | {"model": "r"}
    config = settings(tmp_path / "out", topics=["medication"], questions=40, candidates=40, reviewer=reviewer)
    teacher, unsure = Clinic(), Unsure()
    counts = built(config, teacher, unsure)
    rows = dropped(config.out)
    silent = [row for row in rows if row["reason"] == "reviewer_silent"]
    undecided = [row for row in rows if row["detail"] == "no option, or more than one"]
    assert len(silent) + len(undecided) + counts["kept"] >= 36
    assert 10 <= len(silent) <= 30
    assert 3 <= len(undecided) <= 18
    for request in unsure.requests:
        asked = read_request(list(request.messages))
        assert asked is not None
        # The reviewer sees no key, no evidence and no reason.
        assert set(asked) == {"kind", "context", "question", "options"}


def test_killed_and_resumed_gives_the_same_bytes_and_pays_once(tmp_path: Path) -> None:
    """Killed in the questions and again in the reviews: no call is made twice, and the files equal a run in one go."""
    reviewer = ADDRESS | {"model": "r"}
    whole, parts = (settings(tmp_path / name, reviewer=reviewer) for name in ("whole", "parts"))
    teacher, reader = Careless(), Clinic()
    built(whole, teacher, reader)
    made: list[str] = []
    for stop, stop_reader in ((2, 0), (9, 5), (None, None)):
        again, reader_again = Careless(stop_after=stop), Clinic(stop_after=stop_reader)
        if stop is None:
            built(parts, again, reader_again)
        else:
            with pytest.raises(KeyboardInterrupt):
                built(parts, again, reader_again)
        made += [request.id for request in (*again.requests, *reader_again.requests)]
    assert sorted(made) == sorted(request.id for request in (*teacher.requests, *reader.requests))
    names = sorted(path.relative_to(whole.out) for path in whole.out.rglob("*") if path.suffix in {".jsonl", ".md"})
    compared = [name for name in names if name.parts[0] != "raw"]
    assert len(compared) == 4
    for name in (*compared, Path("coverage.json")):
        assert (parts.out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_a_plan_calls_nobody(tmp_path: Path) -> None:
    """The calls and the money are known beforehand: 4 calls, 20 questions, and a price where there is one."""
    priced = ADDRESS | {"price": {"prompt_per_million": 0.0, "completion_per_million": 1e6}}
    told = plan(settings(tmp_path / "out", teacher=priced, context_words=[20, 100]))
    assert told.startswith("4 calls for 20 questions")
    assert "m: at most 6800.00" in told
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Fewer candidates than questions, a range upside down."""
    with pytest.raises(ValidationError, match="candidates=5 are fewer than questions=6"):
        settings(tmp_path, candidates=5)
    with pytest.raises(ValidationError, match=r"context_words \[60, 20\] is no range"):
        settings(tmp_path, context_words=(60, 20))


def test_the_clinics_patients_of_pools_are_nobody_elses() -> None:
    """Distractors come from patients of a seed that no split, corpus or question uses."""
    assert draw_patients(-1, 1)[0].id.startswith("sim--1-")

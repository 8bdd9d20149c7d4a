"""Whatever an endpoint answers is a text or a named failure, and what a call may cost is bounded by what is sent."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from experts import prepare
from medsmith.calls import Summary, run_calls
from medsmith.chat import FakeChat
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.limits import most_tokens
from medsmith.llm import TeacherConfig
from medsmith.openai_chat import OpenAIChat
from medsmith.records import read_jsonl, write_jsonl
from medsmith.replies import Said, cut_note, is_refusal, read_choice, read_usage, split_reasoning
from tests.toy_teacher import LOCAL, ask, teacher

PRICE = {"prompt_per_million": 1.0, "completion_per_million": 10.0}


def said(content: Any = None, finish: Any = "stop", **fields: Any) -> Said:
    return read_choice({"message": {"content": content, **fields}, "finish_reason": finish})


def test_every_shape_of_content_is_a_text_or_a_named_failure() -> None:
    """Parts, reasoning beside and among them, refusals, tools, errors of the provider, and what is no text at all."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}
    assert said("x") == Said("x", "", "stop")
    assert said([thought, {"type": "text", "text": "a"}, {"type": "output_text", "text": {"value": "b"}}, "c"]) == Said(
        "abc", "so", "stop"
    )
    assert said("x", reasoning_content="so", reasoning="so") == Said("x", "so", "stop")
    assert said(None) == said("") == said([]) == Said("", "", "stop")
    assert said("x", finish={"odd": 1}) == Said("x")
    for one, name in (
        (said("I ca", "content_filter"), "content_filter"),
        (said(None, refusal="I will not."), "refused: I will not."),
        (said([{"type": "refusal", "refusal": "No."}]), "'refusal': No."),
        (said(None, tool_calls=[{"function": {"name": "f"}}]), "take tools out of extra_body"),
        (said([{"type": "image_url"}]), "image_url"),
        (said(7), "int"),
        (read_choice({"message": {}, "error": {"message": "over\nloaded"}}), "the provider's error"),
    ):
        assert (one.text, one.finish) == ("", "refused")
        assert one.fault and re.search(name, one.fault) and "\n" not in one.fault


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain <b>x</b>", ("plain <b>x</b>", "")),
        ("<think>draft</think>\n\nx", ("x", "draft")),
        ("draft\n</think>\nx", ("x", "draft")),
        ("<think>a <think> b</think> c</think>x", ("x", "a\nb\nc")),
        ("Sure. <Thinking>draft</Thinking> x", ("Sure.  x", "draft")),
        ("<think>never ended", ("", "never ended")),
        ("[THINK]a[/THINK]x", ("x", "a")),
        ("◁think▷a◁/think▷x", ("x", "a")),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>", ("x", "a")),
    ],
)
def test_reasoning_is_split_off(text: str, parts: tuple[str, str]) -> None:
    """Between tags, before a closing one, behind one that is never closed."""
    answer, thought = split_reasoning(text)
    assert (answer, thought.partition("<|end|>")[0]) == parts


def test_reasoning_is_kept_apart_in_the_journal_and_halves_of_characters_are_mended(tmp_path: Path) -> None:
    """Of any engine; an answer of reasoning alone is a failure, and rows of an earlier version are read so too."""
    config = teacher()
    requests = ask(config, 4, max_tokens=7)
    with Journal(tmp_path / "j.jsonl") as journal:
        chat = FakeChat(["<think>a</think>x", "\ud83d\ude00 \ud83d", "<think>b", "y"])
        rows = run_calls(requests, chat, journal, 1, "test")
        one, two, three, four = (rows[request.id] for request in requests)
        assert (one["texts"], one["reasoning"]) == (["x"], ["a"])
        assert (two["texts"], "reasoning" in two) == (["😀 \ufffd"], False)
        assert three["texts"] is None and "its reasoning and no answer" in three["error"]
        old = {**four, "texts": ["<think>c</think>z"]}, {**two, "texts": [[{"type": "text", "text": "p"}]]}
        for row in old:
            journal.append(row)
    with Journal(tmp_path / "j.jsonl") as journal:
        rows = run_calls(requests, FakeChat(["mended"]), journal, 1, "test")
        assert [rows[request.id]["texts"] for request in requests] == [["x"], ["p"], ["mended"], ["z"]]
    assert (
        cut_note({"finish": ["stop", "length"], "request": {"max_tokens": 7}}, 1) == " (cut at max_tokens=7; raise it)"
    )


def test_a_refusal_in_words_counts_as_no_answer_and_a_patient_s_words_do_not(tmp_path: Path) -> None:
    """The next run asks again, also what an earlier version kept as an answer; of an evaluated model it stands."""
    refusals = ["I'm sorry, but I can’t assist with that.", "As an AI language model, I", "I cannot provide advice."]
    assert all(map(is_refusal, refusals))
    for text in (
        "I'm unable to walk far, she said, and cannot climb stairs.",
        "I am sorry that you are in pain; rest will help. Take one tablet.",
        "The patient is unable to provide a history.",
        "Gout is treated with colchicine. I'm sorry, but I can't help with that.",
    ):
        assert not is_refusal(text), text
    with Journal(tmp_path / "j.jsonl") as journal:
        requests = ask(teacher(), 3)
        rows = run_calls(requests, FakeChat([*refusals[:2], "yes"]), journal, 1, "test", refusals=True)
        assert [row["texts"] for row in rows.values()] == [[refusals[0]], [refusals[1]], ["yes"]]
        rows = run_calls(requests, FakeChat([refusals[2], "mended"]), journal, 1, "test")
        assert rows[requests[0].id]["declined"] == [refusals[2]]
        with pytest.raises(UserError, match=r"1 of 3 calls had no answer, the last with: it declined"):
            Summary.of(rows.values()).refuse_silence(0.3)
        rows = run_calls(requests, FakeChat(["good"]), journal, 1, "test")
        assert [rows[request.id]["texts"] for request in requests] == [["good"], ["mended"], ["yes"]]


def test_usage_is_numbers_or_unknown() -> None:
    """Numbers may be texts; none, half of them, NaN and nonsense are unknown and never 0."""
    assert read_usage({"prompt_tokens": "10", "completion_tokens": 2.0}) == (10, 2)
    assert read_usage({"prompt_tokens": 10, "completion_tokens": None}) == (10, 0)
    nonsense: list[Any] = [None, {}, [], "7", *({"prompt_tokens": value} for value in (0, -1, "x", float("nan")))]
    assert [one for one in nonsense if read_usage(one) is not None] == []


LIMIT = st.one_of(st.none(), st.integers(1, 5000))
EXTRA = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": LIMIT,
        "max_completion_tokens": LIMIT,
        "n": st.one_of(st.none(), st.integers(1, 4)),
        "best_of": st.integers(1, 4),
        "tools": st.lists(st.just({"type": "function", "function": {"name": "ü" * 90}}), max_size=3),
        "response_format": st.one_of(st.none(), st.just({"type": "json_schema", "json_schema": {"name": "x" * 400}})),
        "chat_template_kwargs": st.dictionaries(st.text(max_size=3), st.text(max_size=200), max_size=2),
    },
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(extra=EXTRA, budget=st.floats(0.001, 0.2), schema=st.booleans(), concurrency=st.integers(1, 4))
def test_no_more_is_spent_than_the_budget_whatever_extra_body_sets(
    extra: dict[str, Any], budget: float, schema: bool, concurrency: int
) -> None:
    """An endpoint that uses all it may: every byte sent is a token, every choice is as long as the larger limit."""
    spent = 0.0

    def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal spent
        body = json.loads(request.content)
        longest = max(body.get(name) or 0 for name in ("max_tokens", "max_completion_tokens")) or 100_000
        used = max(body.get("n") or 1, body.get("best_of") or 1) * longest
        spent += (len(request.content) * 1.0 + used * 10.0) / 1e6
        choice = {"message": {"content": "x"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": len(request.content), "completion_tokens": used}
        return httpx2.Response(200, json={"choices": [choice] * (body.get("n") or 1), "usage": usage})

    config = TeacherConfig(
        model="m", base_url=LOCAL, extra_body=extra, budget={"max_cost": budget}, price=PRICE, concurrency=concurrency
    )
    chat = OpenAIChat(LOCAL, config, transport=httpx2.MockTransport(answer))
    asked = {"response_schema": {"type": "object", "description": "y" * 300}} if schema else {}
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "j.jsonl") as journal:
        with contextlib.suppress(UserError):
            run_calls(ask(config, 6, max_tokens=50, **asked), chat, journal, concurrency, "test")
        assert spent <= budget * (1 + 1e-9)
        assert chat.budget.cost <= budget * (1 + 1e-9)


def test_a_budget_without_a_limit_of_tokens_is_refused(tmp_path: Path) -> None:
    """Nobody can bound such a call; the line names both settings."""
    assert most_tokens({"n": 2, "max_tokens": 5, "max_completion_tokens": "7"}, 3) == (3, 14)
    config = teacher(extra_body={"max_tokens": None}, price=PRICE, budget={"max_cost": 1.0})
    chat = OpenAIChat(LOCAL, config, transport=httpx2.MockTransport(lambda _: httpx2.Response(500)))
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(UserError, match="set max_completion_tokens"):
        run_calls(ask(config, 1), chat, journal, 1, "test")


@pytest.mark.parametrize("extra", [{}, {"response_format": {"type": "json_object"}}])
def test_a_refused_schema_is_left_out_once_or_the_run_stops(
    extra: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours is left out and reply=tagged named, however the server words it; the user's own ends the run with a line."""
    sent = 0

    def refuse(request: httpx2.Request) -> httpx2.Response:
        nonlocal sent
        sent += 1
        assert sent < 9, "a loop without progress"
        if "response_format" in json.loads(request.content):
            return httpx2.Response(400, json={"error": "The provided JSON schema contains features not supported"})
        return httpx2.Response(200, json={"choices": [{"message": {"content": "x"}}]})

    config = teacher(extra_body=extra)
    chat = OpenAIChat(LOCAL, config, transport=httpx2.MockTransport(refuse))
    requests = ask(config, 2, response_schema={"type": "object"})
    with Journal(tmp_path / "j.jsonl") as journal:
        if extra:
            with pytest.raises(UserError, match="take it out of teacher.extra_body"):
                run_calls(requests, chat, journal, 1, "test")
        else:
            assert [row["texts"] for row in run_calls(requests, chat, journal, 1, "test").values()] == [["x"]] * 2
            assert "reply=tagged" in capsys.readouterr().err


def test_a_prompt_that_is_refused_fails_alone_and_a_key_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """403 for every third prompt, as moderation does, counts against allow_failed; a curly quote is no key."""
    count = iter(range(99))

    def moderate(_: httpx2.Request) -> httpx2.Response:
        if next(count) % 3:
            return httpx2.Response(200, json={"choices": [{"message": {"content": "x"}}]})
        return httpx2.Response(403, text="flagged by moderation")

    config = teacher()
    chat = OpenAIChat(LOCAL, config, transport=httpx2.MockTransport(moderate))
    with Journal(tmp_path / "j.jsonl") as journal:
        usage = Summary.of(run_calls(ask(config, 6), chat, journal, 1, "test").values())
    assert (usage.counts["failed"], usage.counts["calls"]) == (2, 6)
    monkeypatch.setenv("A_KEY", "“sk-secret”")
    with pytest.raises(UserError, match="A_KEY has a character, number 1") as error:
        OpenAIChat(LOCAL, teacher(api_key_env="A_KEY"))
    assert "secret" not in str(error.value)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "text", "thinking", "refusal", "content", "message", "choices", "value"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=9,
)
CONTENTS: list[Any] = [
    "I'm sorry, but I can't help.",
    "\ud83d",
    [{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "good"}],
    "<think>a</think>x",
    "a</think>x",
    "<think>a",
    {"odd": 1},
    "good",
]
CONTENT = st.one_of(JSON, st.sampled_from(CONTENTS))
CHOICE = st.fixed_dictionaries(
    {"message": st.fixed_dictionaries({"content": CONTENT}, optional={"refusal": JSON, "tool_calls": JSON})},
    optional={"finish_reason": st.one_of(JSON, st.sampled_from(["length", "content_filter"])), "error": JSON},
)
USAGE = st.one_of(JSON, st.fixed_dictionaries({"prompt_tokens": JSON, "completion_tokens": JSON}))
BODY = st.one_of(
    st.binary(max_size=40),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"choices": st.lists(CHOICE, max_size=2)}, optional={"usage": USAGE, "model": JSON}).map(
        lambda value: json.dumps(value).encode()
    ),
    st.sampled_from([b"", b"[" * 5000, b"<html>busy</html>", b'data: {"choices": []}\n\n', b'{"choices": [{}]}']),
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "content-type", "content-encoding", "content-length"]),
    st.sampled_from(
        ["0", "nan", "-1", "Wed, 21 Oct 2015 07:28:00 -0000", "soon", "gzip", "text/html; charset=none", "7"]
    ),
    max_size=2,
)
STATUS = st.sampled_from([200, 200, 200, 200, 204, 302, 400, 403, 413, 422, 429, 500, 599, 401, 404])
ANSWERS = st.lists(st.tuples(STATUS, HEADERS, BODY), min_size=1, max_size=6)


def completion(content: Any, usage: Any = None) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps({"choices": [{"message": {"content": content}}], "usage": usage}).encode()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[tuple[str, list[tuple[int, dict[str, str], bytes]]]]:
    """A server on loopback that gives the answers of a list in turn, and good ones when it is empty."""
    script: list[tuple[int, dict[str, str], bytes]] = []
    good = json.dumps({"choices": [{"message": {"content": "good"}, "finish_reason": "stop"}]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802 # the library's name
            self.rfile.read(int(self.headers["content-length"]))
            status, headers, body = script.pop(0) if script else (200, {}, good)
            self.send_response(status)
            for name, value in ({"content-length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", script
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The part of a folder of experts.corpora that is read: three documents."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [{"id": f"d{n}", "title": "T", "text": f"Text {n}.", "source": "S", "license": "CC0-1.0"} for n in range(3)]
    write_jsonl(folder / "train.jsonl", rows)
    return folder


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(answers=ANSWERS)
@example(answers=[(200, {}, b"[" * 5000), *map(completion, CONTENTS[:4])])
@example(answers=[*map(completion, CONTENTS[4:]), completion("x", {"prompt_tokens": "x", "completion_tokens": [1]})])
def test_whatever_an_endpoint_answers_a_run_ends_and_a_rerun_finishes(
    endpoint: Any, documents: Path, answers: list[tuple[int, dict[str, str], bytes]]
) -> None:
    """Rows and named failures, or one line; with a good endpoint the same folder then has a row for every document."""
    base_url, script = endpoint
    script[:] = answers
    out = Path(tempfile.mkdtemp())
    config = prepare.Config(
        out=out,
        documents=documents,
        teacher=TeacherConfig(
            model="m", base_url=base_url, max_retries=1, retry_seconds=0.0, timeout_seconds=2.0, concurrency=2
        ),
    )

    def attempt() -> list[dict[str, Any]]:
        this: Any = SimpleNamespace(folder=out, facts={}, finish=lambda **counts: out)
        prepare.prepare(config, this, OpenAIChat(base_url, config.teacher))
        told, failed = (list(read_jsonl(out / name)) for name in ("rows.jsonl", "failed.jsonl"))
        assert {row["document_id"] for row in told + failed} == {"d0", "d1", "d2"}
        assert all(row["reason"].strip() and "\n" not in row["reason"] for row in failed)
        assert not any("think" in row["output"] or is_refusal(row["output"]) for row in told)
        return failed

    try:
        try:
            attempt()
        except UserError as error:
            assert "\n" not in str(error)
        script.clear()
        # What the endpoint wrote stands, good or not; what failed was asked again.
        assert {row["reason"] for row in attempt()} <= {"empty answer", prepare.CUT}
    finally:
        shutil.rmtree(out)

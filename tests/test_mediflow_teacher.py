"""The simulated teacher: the protocol, its determinism, and the faults it is told to make."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mediflow.clinic.generating import generate
from mediflow.prompt import read_request, render_block, request_block
from mediflow.teacher import IN_TEXT, IN_TRANSPORT, Faults, draw_fault, make_app, request_key, spoil
from medsmith.errors import UserError
from medsmith.llm import ChatError, ChatReply, TeacherConfig, open_teacher
from medsmith.openai_chat import OpenAIChat

CONFIG = TeacherConfig(base_url="http://127.0.0.1:9/v1", max_retries=3, retry_seconds=0.001)
TWO = "<example><input>{n} a</input><output>A</output></example><example><input>b</input><output>B</output></example>"


def stub(request: dict[str, Any], seed: int) -> str:
    return TWO.format(n=request["n"]) + f"{seed}"


def messages(n: int = 0) -> list[dict[str, str]]:
    return [{"role": "system", "content": "s"}, {"role": "user", "content": "Do it.\n\n" + request_block({"n": n})}]


def call(app: Any, number: int = 0, **settings: Any) -> ChatReply:
    """One call through the client and the app, in this process."""
    chat = OpenAIChat("http://127.0.0.1:9/v1", CONFIG, transport=httpx2.ASGITransport(app=app))
    return asyncio.run(chat.complete(CONFIG.request(messages(number), **settings)))


def test_the_request_is_the_last_block_of_the_last_user_message_that_has_one() -> None:
    """A repair turn without a block leaves the request of the first; text that looks like a fence cannot end it."""
    request = {"text": "```request\n{}\n```"}
    talk = [
        {"role": "user", "content": "```request\n{}\n```\nbefore\n" + request_block(request)},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "again"},
    ]
    assert read_request(talk) == request
    assert read_request([{"role": "user", "content": "hello"}]) is None


def test_prompts_ask_for_every_value() -> None:
    """A value that a prompt names and nobody gives is an error, not a blank."""
    with pytest.raises(Exception, match="'problems' is undefined"):
        render_block("generate", "repair")


def test_answers_depend_on_seed_messages_and_sample() -> None:
    """Equal calls have equal answers in any server; another seed, message or (above temperature 0) sample, others."""
    first = call(make_app(stub, seed=0), temperature=1.0, n=3)
    assert first.texts == call(make_app(stub, seed=0), temperature=1.0, n=3).texts
    assert len(set(first.texts)) == 3
    assert first.texts != call(make_app(stub, seed=1), temperature=1.0, n=3).texts
    assert not set(first.texts) & set(call(make_app(stub, seed=0), 1, temperature=1.0, n=3).texts)
    assert len(set(call(make_app(stub, seed=0), temperature=0.0, n=3).texts)) == 1


def test_everything_is_labelled_and_counted() -> None:
    """The model calls itself simulated, and usage is a quarter of the characters, rounded up."""
    reply = call(make_app(lambda request, seed: "12345"), n=2)
    prompt = sum(-(-len(message["content"]) // 4) for message in messages())
    assert (reply.model, reply.usage) == ("simulated", {"prompt_tokens": prompt, "completion_tokens": 4})


def test_long_answers_are_cut_at_max_tokens() -> None:
    """Two tokens are eight characters, and finish says length."""
    reply = call(make_app(lambda request, seed: "x" * 100), max_tokens=2)
    assert (reply.texts, reply.finish, reply.usage["completion_tokens"]) == (["x" * 8], ["length"], 2)


def test_what_it_does_not_understand_is_a_bad_request() -> None:
    """A request without a block, or one that the answer function refuses, is 400 with the reason."""
    app: Any = make_app(stub)
    chat = OpenAIChat("http://127.0.0.1:9/v1", CONFIG, transport=httpx2.ASGITransport(app=app))
    with pytest.raises(ChatError, match="no ```request block") as error:
        asyncio.run(chat.complete(CONFIG.request([{"role": "user", "content": "hello"}])))
    assert error.value.final
    with pytest.raises(ChatError, match="KeyError: 'n'"):
        asyncio.run(chat.complete(CONFIG.request([{"role": "user", "content": request_block({})}])))


def test_faults_are_drawn_once_and_for_all() -> None:
    """The same key and number have the same fault, the shares are about as told, and a retry may fare otherwise."""
    faults = Faults(too_many_requests=0.2, server_error=0.1, cut=0.05, broken=0.5)
    drawn = [draw_fault(faults, IN_TRANSPORT, f"k{n}", 0) for n in range(2000)]
    assert drawn == [draw_fault(faults, IN_TRANSPORT, f"k{n}", 0) for n in range(2000)]
    counts = Counter(drawn)
    assert abs(counts["too_many_requests"] / 2000 - 0.2) < 0.03
    assert abs(counts["server_error"] / 2000 - 0.1) < 0.03
    assert abs(counts[None] / 2000 - 0.65) < 0.03
    assert drawn != [draw_fault(faults, IN_TRANSPORT, f"k{n}", 1) for n in range(2000)]
    assert drawn != [draw_fault(faults.model_copy(update={"seed": 1}), IN_TRANSPORT, f"k{n}", 0) for n in range(2000)]
    assert {draw_fault(Faults(), IN_TEXT, f"k{n}", 0) for n in range(100)} == {None}


def test_faults_of_the_text() -> None:
    """Broken loses its end, empty everything."""
    text = TWO.format(n=1)
    assert spoil(text, None) == text
    assert spoil(text, "empty") == ""
    assert (text.count("</example>"), spoil(text, "broken").count("</example>")) == (2, 1)


def test_the_client_gets_through_refusals_and_errors(tmp_path: Path) -> None:
    """With half the attempts refused or failing, every call still gets the answer it would have had."""
    log = tmp_path / "calls.jsonl"
    faulty = make_app(stub, 0, Faults(too_many_requests=0.3, retry_after_seconds=0.001, server_error=0.2), log)
    calm = make_app(stub, 0)
    replies = []
    for n in range(20):
        try:
            replies.append(call(faulty, n))
        except ChatError:
            continue
        assert replies[-1].texts == call(calm, n).texts
    noted = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(replies) >= 17
    assert sum(row["fault"] is None for row in noted) == len(replies)
    assert noted[0]["key"] == request_key(messages(0), 0.0)
    assert max(row["attempt"] for row in noted) >= 1


def test_a_real_server_cuts_connections_and_exits_with_its_stdin(tmp_path: Path) -> None:
    """Over a socket: the cut answer is tried again and charged as one more attempt; closing stdin ends the server."""
    command = [sys.executable, "-m", "mediflow.teacher", "--fault", "cut=1", "--log", str(tmp_path / "log.jsonl")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        address = json.loads(server.stdout.readline())["base_url"]
        models = httpx2.get(f"{address}/models", trust_env=False).json()
        assert [model["id"] for model in models["data"]] == ["simulated"]
        config = TeacherConfig(base_url=address, max_retries=2, retry_seconds=0.001)
        with open_teacher(config) as chat, pytest.raises(ChatError, match="connection lost") as error:
            assert isinstance(chat, OpenAIChat)
            pit = {"kind": "pit", "task": "summary", "document": {"title": "Gout", "text": "Gout hurts a lot."}}
            asyncio.run(chat.complete(config.request([{"role": "user", "content": request_block(pit)}])))
        assert (error.value.attempts, error.value.final) == (3, False)
        server.stdin.close()
        assert server.wait(10) == 0
    finally:
        server.kill()
        server.stdout.close()
        server.wait()


def test_facts_of_other_patients_are_refused_in_words() -> None:
    """The simulated teacher says that it knows the clinic's patients only."""
    with pytest.raises(UserError, match="knows patients of the simulated clinic only"):
        generate(
            {
                "task_type": "summarization",
                "document_type": "clinical_note",
                "examples": 1,
                "facts": [{"id": "p", "age": 3}],
            },
            random.Random(0),
        )


def test_an_unknown_fault_is_refused() -> None:
    """A misspelt fault is a one-line error that names the right one."""
    command = [sys.executable, "-m", "mediflow.teacher", "--fault", "brokn=1"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: the command line: unknown key 'brokn'; did you mean 'broken'?"

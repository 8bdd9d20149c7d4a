"""The teacher client against transports that misbehave, the journal, and the limits that are never passed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from medsmith.calls import FAILURES_IN_A_ROW
from medsmith.config import identity, load
from medsmith.errors import UserError
from medsmith.gate import Gate
from medsmith.limits import Budget, BudgetReached, RateLimit
from medsmith.llm import (
    BudgetConfig,
    ChatError,
    ChatReply,
    ChatRequest,
    FakeChat,
    Journal,
    Price,
    TeacherConfig,
    open_teacher,
    refuse_silence,
    run_calls,
    summarise,
)
from medsmith.openai_chat import OpenAIChat, is_loopback, retry_after

LOCAL = "http://127.0.0.1:9/v1"
Handler = Callable[[httpx2.Request], httpx2.Response]


def teacher(**settings: Any) -> TeacherConfig:
    return TeacherConfig(**{"base_url": LOCAL, "model": "m", **settings})


def ask(config: TeacherConfig, count: int, **settings: Any) -> list[ChatRequest]:
    return [config.request([{"role": "user", "content": f"question {n}"}], **settings) for n in range(count)]


def answer(request: httpx2.Request, text: str = "yes", prompt: int = 10, completion: int = 5) -> httpx2.Response:
    n = json.loads(request.content).get("n", 1)
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return httpx2.Response(200, json={"model": "m-1", "choices": [choice] * n, "usage": usage})


class Endpoint:
    """A chat model over a transport that plays `script` first and then answers; sleeps are noted, not slept."""

    def __init__(self, config: TeacherConfig, script: list[httpx2.Response | Exception] | None = None) -> None:
        self.script = list(script or [])
        self.requests: list[httpx2.Request] = []
        self.pauses: list[float] = []
        self.chat = OpenAIChat(
            config.base_url or "", config, transport=httpx2.MockTransport(self.handle), sleep=self.sleep
        )

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        step = self.script.pop(0) if self.script else answer(request)
        if isinstance(step, Exception):
            raise step
        return step

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


def refused(status: int, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()}, text="no")


def test_retry_after_is_honoured() -> None:
    """A 429 that asks for 7 seconds is tried again after 7 seconds, and the call counts two attempts."""
    config = teacher()
    endpoint = Endpoint(config, [refused(429, retry_after="7")])
    reply = asyncio.run(endpoint.chat.complete(ask(config, 1)[0]))
    assert (reply.texts, reply.attempts, endpoint.pauses) == (["yes"], 2, [7.0])


def test_retry_after_may_be_a_date_or_missing() -> None:
    """A date in the past and nonsense mean no wait; a number is seconds."""
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "soon"}) == retry_after({}) == 0.0


def test_a_wait_of_an_hour_stops_the_run() -> None:
    """An endpoint that asks for an hour is not waited for: the user is told."""
    config = teacher()
    endpoint = Endpoint(config, [refused(429, retry_after="3600")])
    with pytest.raises(UserError, match="wait 3600 s"):
        asyncio.run(endpoint.chat.complete(ask(config, 1)[0]))


def test_pauses_grow_and_are_the_same_in_a_rerun() -> None:
    """Each pause lies between half and all of 0.5·2^attempt; equal calls wait equally."""
    config = teacher(max_retries=4, retry_seconds=0.5)
    pauses = []
    for _ in range(2):
        endpoint = Endpoint(config, [refused(500)] * 4)
        asyncio.run(endpoint.chat.complete(ask(config, 1)[0]))
        pauses.append(endpoint.pauses)
    assert pauses[0] == pauses[1]
    assert all(0.25 * 2**n <= pause <= 0.5 * 2**n for n, pause in enumerate(pauses[0]))
    assert len(set(pauses[0])) == 4


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (httpx2.ReadError("reset"), "connection lost: ReadError: reset"),
        (httpx2.ReadTimeout("slow"), "no answer within 120 s"),
        (httpx2.Response(200, text="<html>"), "not a chat completion: '<html>'"),
        (httpx2.Response(200, json={"choices": []}), "not a chat completion"),
        (refused(503), "HTTP 503: no"),
    ],
)
def test_attempts_are_bounded(fault: Any, said: str) -> None:
    """Whatever goes wrong is tried max_retries times more, then fails for now with its reason."""
    config = teacher(max_retries=2)
    endpoint = Endpoint(config, [fault] * 9)
    with pytest.raises(ChatError, match=said) as failure:
        asyncio.run(endpoint.chat.complete(ask(config, 1)[0]))
    assert (failure.value.attempts, failure.value.final, len(endpoint.requests)) == (3, False, 3)


def test_a_bad_request_is_not_tried_again() -> None:
    """400 is final after one attempt, and so is a redirect: prompts and key go nowhere else."""
    config = teacher(max_retries=0)
    endpoint = Endpoint(config, [refused(400), refused(500)])
    with pytest.raises(ChatError) as failure:
        asyncio.run(endpoint.chat.complete(ask(config, 1)[0]))
    assert failure.value.final
    redirect = Endpoint(config, [refused(307, location="http://203.0.113.1/v1")])
    with pytest.raises(ChatError, match="HTTP 307"):
        asyncio.run(redirect.chat.complete(ask(config, 1)[0]))


def test_what_failed_is_called_again_by_the_next_run(tmp_path: Path) -> None:
    """Of an answer, a refused call and a passing failure, the next run calls the last two and keeps the first."""
    config = teacher()
    requests = ask(config, 3)
    first = FakeChat(["a", ChatError("bad", final=True), ChatError("down")])
    with Journal(tmp_path / "j.jsonl") as journal:
        rows = run_calls(requests, first, journal, 1, "test")
    assert [(rows[r.id]["error"], rows[r.id]["final"]) for r in requests] == [
        (None, True),
        ("bad", True),
        ("down", False),
    ]
    assert summarise(rows.values())["failed"] == 2
    with pytest.raises(UserError, match="2 of 3 calls had no answer, the last with"):
        refuse_silence(rows.values(), 0.6)
    refuse_silence(rows.values(), 0.7)
    second = FakeChat(["b", "c"])
    with Journal(tmp_path / "j.jsonl") as journal:
        rows = run_calls(requests, second, journal, 1, "test")
    assert [r.id for r in second.requests] == [requests[1].id, requests[2].id]
    assert [rows[r.id]["texts"] for r in requests] == [["a"], ["b"], ["c"]]


def test_a_refused_key_stops_the_run_and_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """401 is a UserError at once; the key is in the request's header and in no message, row or file."""
    monkeypatch.setenv("A_KEY", "sk-very-secret")
    config = teacher(base_url="https://api.example.org/v1", api_key_env="A_KEY", max_retries=0)
    endpoint = Endpoint(config, [httpx2.Response(500, text="bad key sk-very-secret"), refused(401)])
    with (
        Journal(tmp_path / "j.jsonl") as journal,
        pytest.raises(UserError, match=r"api\.example\.org.*HTTP 401") as error,
    ):
        run_calls(ask(config, 5), endpoint.chat, journal, 1, "test")
    assert endpoint.requests[0].headers["authorization"] == "Bearer sk-very-secret"
    assert "bad key [key]" in (tmp_path / "j.jsonl").read_text()
    assert "secret" not in (tmp_path / "j.jsonl").read_text() + str(error.value) + config.model_dump_json()
    monkeypatch.delenv("A_KEY")
    with pytest.raises(UserError, match="variable A_KEY is empty"):
        OpenAIChat("https://api.example.org/v1", config)
    with pytest.raises(UserError, match="name the variable"):
        OpenAIChat("https://api.example.org/v1", teacher(base_url="https://api.example.org/v1"))


def test_an_endpoint_that_ignores_n_is_asked_for_the_rest() -> None:
    """Three samples of a server that gives one a time take three requests, and their usage is added up."""
    config = teacher()
    one = httpx2.Response(
        200, json={"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 4, "completion_tokens": 1}}
    )
    endpoint = Endpoint(config, [one, one, one])
    reply = asyncio.run(endpoint.chat.complete(ask(config, 1, n=3)[0]))
    assert [json.loads(r.content).get("n", 1) for r in endpoint.requests] == [3, 2, 1]
    assert (reply.texts, reply.usage) == (["x"] * 3, {"prompt_tokens": 12, "completion_tokens": 3})


def test_a_schema_becomes_a_response_format() -> None:
    """Where a request has a schema it is sent as json_schema, else nothing is sent."""
    config = teacher()
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    endpoint = Endpoint(config)
    asyncio.run(endpoint.chat.complete(ask(config, 1, response_schema=schema)[0]))
    body = json.loads(endpoint.requests[0].content)
    assert body["response_format"]["json_schema"]["schema"] == schema
    asyncio.run(endpoint.chat.complete(ask(config, 1)[0]))
    assert "response_format" not in json.loads(endpoint.requests[1].content)


def test_what_an_endpoint_wants_besides_is_sent_as_it_stands() -> None:
    """Fields of extra_body are added, null takes one of ours out, and the id changes with them."""
    config = teacher(extra_body={"max_tokens": None, "max_completion_tokens": 9, "own": {"a": 1}})
    endpoint = Endpoint(config)
    [request] = ask(config, 1)
    asyncio.run(endpoint.chat.complete(request))
    body = json.loads(endpoint.requests[0].content)
    assert {name: body.get(name) for name in ("max_tokens", "max_completion_tokens", "own")} == {
        "max_tokens": None,
        "max_completion_tokens": 9,
        "own": {"a": 1},
    }
    assert "max_tokens" not in body
    assert request.id != ask(teacher(), 1)[0].id


def test_the_id_holds_all_that_bears_on_the_answer() -> None:
    """Messages, model, serve, temperature, length, schema, n and sample change the id; the caller's note does not."""
    messages = [{"role": "user", "content": "q"}]
    base = teacher().request(messages)
    others = [
        teacher(model="other").request(messages),
        teacher(base_url=None, serve="x").request(messages),
        teacher().request([{"role": "user", "content": "r"}]),
        teacher().request(messages, temperature=1.0),
        teacher().request(messages, max_tokens=9),
        teacher().request(messages, response_schema={}),
        teacher().request(messages, n=2),
        teacher().request(messages, sample=1),
    ]
    assert len({base.id, *(other.id for other in others)}) == 9
    assert teacher(base_url="http://localhost:1/v1").request(messages, about={"cell": 1}).id == base.id


def test_a_torn_tail_is_cut_off_and_counted(tmp_path: Path) -> None:
    """A half line at the end goes and is called again; rows before it stay; a broken middle line is the user's."""
    path = tmp_path / "raw" / "calls.jsonl"
    config = teacher()
    requests = ask(config, 3)
    with Journal(path) as journal:
        run_calls(requests, FakeChat(["a", "b", "ü"]), journal, 1, "test")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    chat = FakeChat(["new"])
    with Journal(path) as journal:
        assert (journal.torn, len(journal.done())) == (1, 2)
        rows = run_calls(requests, chat, journal, 1, "test")
    assert [rows[r.id]["texts"] for r in requests] == [["a"], ["b"], ["new"]]
    assert len(path.read_text().splitlines()) == 3
    path.write_bytes(b"{]\n" + whole)
    with pytest.raises(UserError, match="line 1: not a journal row"):
        Journal(path)


def test_equal_requests_are_one_call_and_follow_ups_are_journaled(tmp_path: Path) -> None:
    """A repair follows a bad answer without a barrier; on the next run nothing is called, and all rows are there."""
    config = teacher()
    requests = ask(config, 3)

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
        if len(request.messages) > 1 or row["texts"] != ["bad"]:
            return None
        return config.request([*request.messages, {"role": "user", "content": "again"}])

    chat = FakeChat(["good", "bad", "good", "mended"])
    with Journal(tmp_path / "j.jsonl") as journal:
        first = run_calls([*requests, requests[0]], chat, journal, 4, "test", follow_up=follow_up)
    assert len(chat.requests) == len(first) == 4
    with Journal(tmp_path / "j.jsonl") as journal:
        second = run_calls(requests, FakeChat([]), journal, 4, "test", follow_up=follow_up)
    assert first == second
    assert sorted(row["texts"][0] for row in second.values()) == ["bad", "good", "good", "mended"]


def test_a_teacher_that_is_down_stops_the_run(tmp_path: Path) -> None:
    """After so many failures in a row no more calls are spent on a dead endpoint."""
    config = teacher()
    chat = FakeChat([RuntimeError("boom")] * 99)
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(UserError, match=r"RuntimeError: boom.*75 calls left"):
        run_calls(ask(config, 99), chat, journal, 1, "test")
    assert len(chat.requests) == FAILURES_IN_A_ROW


def test_ctrl_c_cancels_what_is_in_flight_and_keeps_what_is_done(tmp_path: Path) -> None:
    """The third call presses Ctrl-C and hangs: two rows are in the journal and the interrupt comes through."""

    class Interrupted:
        def __init__(self) -> None:
            self.calls = 0

        async def complete(self, request: ChatRequest) -> ChatReply:
            self.calls += 1
            if self.calls == 3:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(60)
            return ChatReply(["x"], {}, "m")

    config = teacher()
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(KeyboardInterrupt):
        run_calls(ask(config, 9), Interrupted(), journal, 1, "test")
    assert 2 <= len((tmp_path / "j.jsonl").read_text().splitlines()) <= 8


def test_the_budget_of_requests_is_never_passed(tmp_path: Path) -> None:
    """Sixteen calls at once with refusals in between send exactly 20 requests; a higher budget finishes the work."""
    rng = random.Random(1)
    script = [refused(500) if rng.random() < 0.3 else None for _ in range(200)]

    class Flaky(Endpoint):
        def handle(self, request: httpx2.Request) -> httpx2.Response:
            step = script.pop(0)
            self.script = [step] if step else []
            return super().handle(request)

    config = teacher(concurrency=16, budget=BudgetConfig(max_requests=20))
    requests = ask(config, 50)
    first = Flaky(config)
    with (
        Journal(tmp_path / "j.jsonl") as journal,
        pytest.raises(BudgetReached, match=r"budget of 20 requests.*calls left"),
    ):
        run_calls(requests, first.chat, journal, 16, "test")
    assert len(first.requests) == 20
    more = teacher(concurrency=16, budget=BudgetConfig(max_requests=150))
    second = Flaky(more)
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.spent_attempts == 20
        rows = run_calls(requests, second.chat, journal, 16, "test")
    assert all(row["texts"] == ["yes"] for row in rows.values())
    assert len(rows) == 50


def test_the_budget_of_money_is_never_passed(tmp_path: Path) -> None:
    """Calls of unequal price, twelve at once, some cut off: what was spent at most stays below max_cost."""
    rng = random.Random(2)
    spent = 0.0

    class Paid(Endpoint):
        def handle(self, request: httpx2.Request) -> httpx2.Response:
            nonlocal spent
            completion = rng.randint(1, 100)
            spent += (10 * 1.0 + completion * 2.0) / 1e6
            if rng.random() < 0.1:
                raise httpx2.ReadError("cut after it was made")
            return answer(request, completion=completion)

    price = Price(prompt_per_million=1.0, completion_per_million=2.0)
    config = teacher(concurrency=12, price=price, budget=BudgetConfig(max_cost=0.004))
    endpoint = Paid(config)
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(BudgetReached, match=r"budget of 0\.004"):
        run_calls(ask(config, 500, max_tokens=100), endpoint.chat, journal, 12, "test")
    assert 0.003 < spent <= endpoint.chat.budget.cost <= 0.004
    assert endpoint.chat.budget.reserved == 0.0
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.spent_cost == pytest.approx(endpoint.chat.budget.cost)


def test_a_reservation_waits_for_calls_in_flight() -> None:
    """With 1.0 to spend and 0.8 reserved, 0.5 more waits until the first settles at 0.1, then fits."""

    async def play() -> list[str]:
        budget = Budget(max_cost=1.0)
        said = []
        await budget.reserve(0.8)
        waiting = asyncio.create_task(budget.reserve(0.5))
        await asyncio.sleep(0)
        said.append("waits" if not waiting.done() else "went")
        budget.settle(0.8, 0.1)
        await waiting
        budget.settle(0.5, 0.5)
        with pytest.raises(BudgetReached):
            await budget.reserve(0.5)
        return [*said, f"{budget.cost:.1f}"]

    assert asyncio.run(play()) == ["waits", "0.6"]


def old_the_gate_tells_noise_from_congestion() -> None:
    """One refusal in twenty leaves the limit alone; half refused brings it to an eighth; then it recovers."""
    gate = Gate(32)
    for n in range(400):
        gate.report(n % 20 == 0)
    assert gate.limit == 32
    for n in range(400):
        gate.report(n % 2 == 0)
    assert 4 <= gate.limit <= 9
    for _ in range(1000):
        gate.report(False)
    assert gate.limit == 32


def old_the_gate_lets_no_more_in_than_its_limit() -> None:
    """Fifty tasks through a gate of five: never more than five inside, and all come through."""
    gate = Gate(5)
    inside: list[int] = []

    async def visit() -> None:
        async with gate.enter():
            inside.append(gate.in_flight)
            await asyncio.sleep(0)

    async def play() -> None:
        await asyncio.gather(*(visit() for _ in range(50)))

    asyncio.run(play())
    assert (len(inside), max(inside), gate.in_flight) == (50, 5, 0)


def test_starts_are_spaced() -> None:
    """At 600 a minute the fifth start is due 0.4 s after the first."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def play() -> None:
        rate = RateLimit(600, sleep=sleep)
        for _ in range(5):
            await rate.wait()

    asyncio.run(play())
    assert len(pauses) == 4
    assert pauses[-1] == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("http://127.0.0.1:8/v1", True),
        ("http://localhost:8/v1", True),
        ("http://[::1]:8/v1", True),
        ("http://127.0.0.1.evil.org/v1", False),
        ("http://localhost.evil.org/v1", False),
        ("http://10.0.0.1/v1", False),
        ("https://api.example.org/v1", False),
    ],
)
def test_credentialed_data_stay_on_this_machine(
    address: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote address is refused before anything is sent, unless the agreement is said to allow it."""
    monkeypatch.setenv("A_KEY", "k")
    config = teacher(base_url=address, api_key_env="A_KEY")
    assert is_loopback(address) is local
    endpoint = Endpoint(config)
    with Journal(tmp_path / "j.jsonl") as journal:
        if local:
            run_calls(ask(config, 1), endpoint.chat, journal, 1, "test", credentialed=True)
        else:
            with pytest.raises(UserError, match="allow_remote_credentialed=true"):
                run_calls(ask(config, 1), endpoint.chat, journal, 1, "test", credentialed=True)
            with pytest.raises(UserError, match="use agreement"), open_teacher(config, credentialed=True):
                pass
        assert len(endpoint.requests) == int(local)
        allowed = Endpoint(config.model_copy(update={"allow_remote_credentialed": True}))
        run_calls(ask(config, 2)[1:], allowed.chat, journal, 1, "test", credentialed=True)
    assert len(allowed.requests) == 1


def test_a_served_teacher_lives_as_long_as_the_block() -> None:
    """The child's address is used, and its process is gone when the block ends."""
    code = "import json,os,sys; print(json.dumps({'base_url': f'http://127.0.0.1:{os.getpid()}/v1'}), flush=True)"
    config = TeacherConfig(serve=f'python -c "{code}; sys.stdin.read()"')
    with open_teacher(config) as chat:
        assert isinstance(chat, OpenAIChat)
        process = int(chat.base_url.split(":")[2].split("/")[0])
        os.kill(process, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_served_teacher_dies_with_a_killed_run() -> None:
    """kill -9 of the run: the server notices that its stdin closed, and is gone."""
    child = "import json,os,sys; print(json.dumps({'base_url': f'http://127.0.0.1:{os.getpid()}/v1'}), flush=True)"
    code = (
        "import sys, time\nfrom medsmith.llm import TeacherConfig, open_teacher\n"
        "with open_teacher(TeacherConfig(serve=sys.argv[1])) as chat:\n"
        "    print(chat.base_url, flush=True)\n"
        "    time.sleep(60)"
    )
    serve = f'python -c "{child}; sys.stdin.read()"'
    with subprocess.Popen([sys.executable, "-c", code, serve], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline().split(":")[2].split("/")[0])
        os.kill(process, 0)
        parent.kill()
    for _ in range(200):
        try:
            # A dead child of a dead parent may wait to be reaped by init; a zombie holds nothing.
            if Path(f"/proc/{process}/stat").read_text().split()[2] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.02)
    raise AssertionError("the server is still there")


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        ("no-such-command-here", "cannot start 'no-such-command-here': No such file"),
        ("python -c \"import sys; sys.exit('no model')\"", "it said: no model"),
        ("python -c \"print('ready')\"", "it said: ready"),
    ],
)
def test_a_server_that_does_not_start_says_why(serve: str, said: str) -> None:
    """The user sees the command's own last words."""
    with pytest.raises(UserError, match=said), open_teacher(TeacherConfig(serve=serve)):
        pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "exactly one of base_url"),
        ({"base_url": LOCAL, "serve": "x"}, "exactly one of base_url"),
        ({"base_url": "127.0.0.1:8000"}, "no address"),
        ({"base_url": "https://user:pass@host/v1"}, "no key or password"),
        ({"base_url": LOCAL, "budget": {"max_cost": 1}}, "needs price"),
        ({"base_url": LOCAL, "concurrency": 0}, "concurrency must be"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    """Each is refused with a reason; through the loader it is a one-line UserError."""
    with pytest.raises(ValidationError, match=said):
        TeacherConfig(**settings)
    with pytest.raises(UserError, match=said):
        load(TeacherConfig, dict(settings))


def test_how_calls_are_made_bears_no_identity() -> None:
    """Only the model and the server's command say what comes out."""
    assert identity(teacher(concurrency=3)) == {  # type: ignore[arg-type]
        "model": "m",
        "serve": None,
        "extra_body": {},
        "share": 1.0,
    }

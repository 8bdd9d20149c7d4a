"""One call to an OpenAI-compatible endpoint: retries, refusals, what is sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest

from medsmith.errors import UserError
from medsmith.gate import Gate
from medsmith.limits import retry_after
from medsmith.llm import ChatError, Journal, Price, run_calls
from medsmith.openai_chat import OpenAIChat
from tests.toy_teacher import LOCAL, Endpoint, ask, refused, teacher


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


def test_an_endpoint_without_structured_output_is_asked_without(capsys: pytest.CaptureFixture[str]) -> None:
    """400 that names response_format: the same call goes out without it, later ones at once, and one line says so."""
    config = teacher(max_retries=0)
    no = httpx2.Response(400, json={"error": {"message": "response_format is not supported"}})
    endpoint = Endpoint(config, [no])
    schema = {"type": "object"}
    for request in ask(config, 2, response_schema=schema):
        assert asyncio.run(endpoint.chat.complete(request)).texts == ["yes"]
    sent = ["response_format" in json.loads(request.content) for request in endpoint.requests]
    assert (sent, endpoint.pauses) == ([True, False, False], [])
    note = capsys.readouterr().err
    assert note.count("\n") == 1
    assert "refuses response_format (HTTP 400" in note
    other = Endpoint(config, [no])
    with pytest.raises(ChatError, match="HTTP 400"):
        asyncio.run(other.chat.complete(ask(config, 1)[0]))


def test_an_azure_deployment_gets_its_version_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """api_version goes into the query and the key into api-key; without it there is neither."""
    monkeypatch.setenv("A_KEY", "k")
    base = "https://x.openai.azure.com/openai/deployments/gpt"
    for version in ("2024-10-21", None):
        config = teacher(base_url=base, api_key_env="A_KEY", api_version=version)
        endpoint = Endpoint(config)
        asyncio.run(endpoint.chat.complete(ask(config, 1)[0]))
        [request] = endpoint.requests
        assert request.url.path == "/openai/deployments/gpt/chat/completions"
        assert (request.url.params.get("api-version"), request.headers.get("api-key")) == (version, version and "k")


def test_half_a_surrogate_pair_is_sent(tmp_path: Path) -> None:
    """A text cut in the middle of a character goes to the endpoint as it stands; one that comes back is mended."""
    config = teacher()
    endpoint = Endpoint(config, [httpx2.Response(200, text='{"choices": [{"message": {"content": "\\udc00"}}]}')])
    request = config.request([{"role": "user", "content": "cut \ud83d"}])
    with Journal(tmp_path / "j.jsonl") as journal:
        row = run_calls([request], endpoint.chat, journal, 1, "test")[request.id]
    assert json.loads(endpoint.requests[0].content)["messages"][0]["content"] == "cut \ud83d"
    assert row["texts"] == ["\ufffd"]
    assert row["request"]["messages"][0]["content"] == "cut \ud83d"


def test_after_a_refusal_for_all_nobody_asks_again(tmp_path: Path) -> None:
    """Fifty calls with four in flight and a wrong key: those that wait hear it from us, not from the endpoint."""
    config = teacher(concurrency=4)
    endpoint = Endpoint(config, [refused(401) for _ in range(50)])
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(UserError, match="HTTP 401"):
        run_calls(ask(config, 50), endpoint.chat, journal, 4, "test")
    assert 1 <= len(endpoint.requests) <= 4


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "connection lost: ServerDisconnectedError"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{",
            "connection lost: ContentLengthError: 400, message: Not enough data",
        ),
        (b"garbage\r\n\r\n", "connection lost"),
        (None, "no answer within 0.1 s"),
    ],
)
def test_what_the_real_transport_meets_has_its_right_name(answer: bytes | None, said: str) -> None:
    """Over a socket: a cut connection is no timeout, and both are tried again and may have been charged."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            while await reader.read(4096):
                pass  # until the client gives up
        else:
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async def play() -> ChatError:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        price = Price(prompt_per_million=0, completion_per_million=1e6)
        config = teacher(
            base_url=f"http://127.0.0.1:{port}/v1", max_retries=1, retry_seconds=0.01, timeout_seconds=0.1, price=price
        )
        chat = OpenAIChat(config.base_url or "", config)
        try:
            with pytest.raises(ChatError) as error:
                await chat.complete(ask(config, 1, max_tokens=3)[0])
        finally:
            await chat.close()
            server.close()
            await server.wait_closed()
            # The last connection is closed in the next turns of the loop.
            await asyncio.sleep(0.01)
        return error.value

    error = asyncio.run(play())
    assert said in str(error)
    assert (error.attempts, error.cost, error.final) == (2, 6.0, False)


def test_a_server_that_is_not_there_costs_nothing() -> None:
    """A refused connection was never sent anything."""
    price = Price(prompt_per_million=0, completion_per_million=1e6)
    config = teacher(base_url=LOCAL, max_retries=0, price=price)

    async def play() -> None:
        chat = OpenAIChat(LOCAL, config)
        try:
            await chat.complete(ask(config, 1)[0])
        finally:
            await chat.close()

    with pytest.raises(ChatError, match="connection lost: ConnectionRefusedError") as error:
        asyncio.run(play())
    assert error.value.cost == 0.0


def test_the_gate_hears_of_answers_and_of_troubles_only(tmp_path: Path) -> None:
    """Sixteen answers a round: bad requests and answers that are none are no part of one, refusals for load are."""
    config = teacher(concurrency=32, max_retries=1)
    bad: list[httpx2.Response | Exception] = [
        httpx2.Response(400, text="too long"),
        httpx2.Response(200, text="[]"),
        refused(429),
    ]

    class Counted(Gate):
        heard: ClassVar[list[bool]] = []

        def report(self, trouble: bool, seconds: float) -> None:
            self.heard.append(trouble)

    async def play() -> list[bool]:
        endpoint = Endpoint(config, bad)
        endpoint.chat._connect()
        endpoint.chat.gate = Counted(32)
        for request in ask(config, 4):
            with contextlib.suppress(ChatError):
                await endpoint.chat.complete(request)
        return Counted.heard

    assert asyncio.run(play()) == [True, False, False]

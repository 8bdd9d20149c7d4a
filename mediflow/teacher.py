"""The simulated teacher: an ASGI app that speaks the OpenAI protocol and answers from the simulated clinic.

    python -m mediflow.teacher --port 0 --seed 0 --fault too_many_requests=0.05 --log calls.jsonl

It prints {"base_url": …} as its first line and exits when its stdin closes. Answers are a function of the seed, the
messages and the number of the sample. It can be told to misbehave, each fault again a function of seed and messages.
Everything it says is labelled with the model name `simulated`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from mediflow.prompt import read_request
from mediflow.teacher_batch import Batches
from medsmith.config import Block, load
from medsmith.errors import UserError
from medsmith.llm import Message
from medsmith.records import content_id

MODEL = "simulated"
CHARACTERS_PER_TOKEN = 4
"""The usual rule of thumb for English; the usage that the teacher reports is an estimate."""

Answer = Callable[[dict[str, Any], int], str]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


class Faults(Block):
    """Shares (0 to 1) of requests or texts that go wrong."""

    seed: int = Field(default=0, description="draws which ones")
    too_many_requests: float = Field(default=0.0, description="HTTP 429 with Retry-After")
    retry_after_seconds: float = Field(default=1.0, description="what Retry-After says")
    server_error: float = Field(default=0.0, description="HTTP 500")
    cut: float = Field(default=0.0, description="the connection is closed in the middle of the answer")
    slow: float = Field(default=0.0, description="the answer comes after slow_seconds")
    slow_seconds: float = Field(default=1.0, description="how slow")
    line_error: float = Field(default=0.0, description="a line of a batch fails with HTTP 500")
    expired_batch: float = Field(default=0.0, description="a batch expires half way")
    batch_seconds: float = Field(default=0.0, description="how long a batch takes at least")
    empty: float = Field(default=0.0, description="the text is empty")
    broken: float = Field(default=0.0, description="the text stops half way: torn tags, torn JSON")
    wrong_facts: float = Field(default=0.0, description="share of examples about a patient of whom one fact is altered")
    wrong_key: float = Field(default=0.0, description="share of examination questions with a wrong option keyed right")
    repeated: float = Field(default=0.0, description="share of examination questions that repeat one of a few")


IN_TRANSPORT = ("too_many_requests", "server_error", "cut", "slow")
IN_TEXT = ("empty", "broken")


def draw_fault(faults: Faults, kinds: Sequence[str], key: str, number: int) -> str | None:
    """Which of `kinds` befalls the request `key` at attempt (or sample) `number`; the same for ever, None for none."""
    point = _uniform(faults.seed, kinds[0], key, number)
    for kind in kinds:
        point -= getattr(faults, kind)
        if point < 0:
            return kind
    return None


def make_app(answer: Answer, seed: int = 0, faults: Faults | None = None, log: Path | None = None) -> App:
    """The teacher as an ASGI application.

    Attempts of the same call are counted, so that a retry may fare otherwise than the first try; what a text says does
    not depend on the attempt.
    """
    return _Teacher(answer, seed, faults or Faults(), log)


class _Teacher:
    def __init__(self, answer: Answer, seed: int, faults: Faults, log: Path | None) -> None:
        self.answer = answer
        self.seed = seed
        self.faults = faults
        self.attempts: Counter[str] = Counter()
        self.batches = Batches(
            self._line,
            seconds=faults.batch_seconds,
            expires=lambda text: draw_fault(faults, ("expired_batch",), text, 0) is not None,
        )
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if log else None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "the server is started without lifespan and websockets"
        path = scope["path"].rstrip("/")
        if path == "/v1/models":
            await _respond(send, 200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        elif path == "/v1/chat/completions" and scope["method"] == "POST":
            await self._chat(await _body(receive), send)
        elif path.startswith(("/v1/files", "/v1/batches")):
            kind = dict(scope["headers"]).get(b"content-type", b"").decode()
            query = scope["query_string"].decode()
            await _respond(send, *self.batches.handle(scope["method"], path, query, kind, await _body(receive)))
        else:
            await _respond(send, 404, _error(f"no such path: {path}"))

    async def _chat(self, body: bytes, send: Send) -> None:
        try:
            asked = json.loads(body)
            messages: list[Message] = asked["messages"]
            key = request_key(messages, asked.get("temperature", 1.0))
        except (ValueError, KeyError, TypeError):
            await _respond(send, 400, _error("the body is not a chat request"))
            return
        attempt = self.attempts[key]
        self.attempts[key] += 1
        fault = draw_fault(self.faults, IN_TRANSPORT, key, attempt)
        self._note({"key": key, "attempt": attempt, "fault": fault, "n": asked.get("n", 1)})
        if fault == "too_many_requests":
            wait = f"{self.faults.retry_after_seconds:g}".encode()
            await _respond(send, 429, _error("too many requests"), [(b"retry-after", wait)])
            return
        if fault == "server_error":
            await _respond(send, 500, _error("something broke"))
            return
        if fault == "slow":
            await asyncio.sleep(self.faults.slow_seconds)
        status, value = self._answered(asked, messages, key)
        await _respond(send, status, value, cut=fault == "cut")

    def _line(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body of one line of a batch."""
        messages = asked["messages"]
        key = request_key(messages, asked.get("temperature", 1.0))
        attempt = self.attempts[key]
        self.attempts[key] += 1
        fault = draw_fault(self.faults, ("line_error",), key, attempt)
        self._note({"key": key, "attempt": attempt, "fault": fault, "n": asked.get("n", 1), "batch": True})
        return (500, _error("something broke")) if fault else self._answered(asked, messages, key)

    def _answered(self, asked: dict[str, Any], messages: list[Message], key: str) -> tuple[int, dict[str, Any]]:
        try:
            request = read_request(messages)
            if request is None:
                raise ValueError("no ```request block in the user's message")
            return 200, self._completion(asked, messages, request, key)
        except (ValueError, KeyError, TypeError, UserError) as error:
            return 400, _error(f"{type(error).__name__}: {error}")

    def _completion(
        self, asked: dict[str, Any], messages: list[Message], request: dict[str, Any], key: str
    ) -> dict[str, Any]:
        most = CHARACTERS_PER_TOKEN * int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 4096)
        texts: list[str] = []
        marks: list[str | None] = []
        for number in range(int(asked.get("n") or 1)):
            # At temperature 0 all samples are the same.
            sample = number if asked.get("temperature", 1.0) else 0
            text = self._answer(request, key, sample)
            mark = draw_fault(self.faults, IN_TEXT, key, sample)
            texts.append(spoil(text, mark))
            marks.append(mark)
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": text[:most]},
                "finish_reason": "length" if len(text) > most else "stop",
            }
            for number, text in enumerate(texts)
        ]
        prompt = sum(_tokens(message["content"]) for message in messages)
        completion = sum(_tokens(text[:most]) for text in texts)
        return {
            "id": f"simulated-{key}",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": choices,
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
            "simulated_faults": marks,
        }

    def _answer(self, request: dict[str, Any], key: str, sample: int) -> str:
        seed = int(_uniform(self.seed, "answer", key, sample) * 2**32)
        faults, kind = self.faults, request.get("kind")
        if kind == "generate" and faults.wrong_facts:
            from mediflow.clinic.wrong import answer_wrongly

            rng = random.Random(f"wrong facts {faults.seed} {key} {sample}")
            text, planted = answer_wrongly(self.answer, request, seed, faults.wrong_facts, rng)
        elif kind == "question" and (faults.wrong_key or faults.repeated):
            from mediflow.clinic.quizzes import misanswer

            rng = random.Random(f"misanswer {faults.seed} {key} {sample}")
            written = self.answer(request, seed)
            text, planted = misanswer(written, request, faults.wrong_key, faults.repeated, rng)
        else:
            return self.answer(request, seed)
        # In the log alone: the reply says no more than a real teacher's would.
        self._note({"key": key, "sample": sample, "planted": planted})
        return text

    def _note(self, row: dict[str, Any]) -> None:
        if self.log is not None:
            os.write(self.log, (json.dumps(row) + "\n").encode())


def request_key(messages: Sequence[Message], temperature: float) -> str:
    """What names a call in the log and draws its answer and faults."""
    return content_id(list(messages), float(temperature))


def spoil(text: str, fault: str | None) -> str:
    """The text with one of the faults of IN_TEXT."""
    if fault == "empty":
        return ""
    if fault == "broken":
        return text[: len(text) * 3 // 5]
    return text


def _uniform(*parts: Any) -> float:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:6]) / 2**48


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "simulated", "code": None}}


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def _respond(
    send: Send, status: int, value: Any, headers: Sequence[tuple[bytes, bytes]] = (), cut: bool = False
) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    size = str(len(body)).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", size), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    if cut:
        # Fewer bytes than promised: the server can only close the connection.
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        return
    await send({"type": "http.response.body", "body": body})


def serve(app: App, port: int) -> None:
    """Serve on the loopback address until stdin closes; the first line on stdout is {"base_url": …}."""
    import socket
    import threading

    import uvicorn

    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    )

    def until_closed() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        server.should_exit = server.force_exit = True

    threading.Thread(target=until_closed, daemon=True).start()
    print(json.dumps({"base_url": f"http://127.0.0.1:{listener.getsockname()[1]}/v1"}), flush=True)
    server.run(sockets=[listener])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and serve."""
    import argparse

    from mediflow.clinic.knowledge import use_world
    from mediflow.clinic.reply import reply

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=0, help="one seed for all answers")
    kinds = "; ".join(f"{name}: {field.description}" for name, field in Faults.model_fields.items())
    parser.add_argument(
        "--fault", action="append", default=[], help=f"kind=share, e.g. broken=0.1; may be repeated. Kinds: {kinds}"
    )
    parser.add_argument(
        "--world", choices=("clinic", "second"), default="clinic", help="which simulated clinic it knows"
    )
    parser.add_argument("--log", type=Path, help="append a line per request to this file")
    given = parser.parse_args(arguments)
    try:
        faults = load(Faults, None, given.fault)
    except UserError as error:
        sys.exit(f"error: {error}")
    with use_world(given.world):
        serve(make_app(reply, given.seed, faults, given.log), given.port)


if __name__ == "__main__":
    main()

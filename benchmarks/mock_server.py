"""An OpenAI-compatible server on the loopback that costs next to nothing and misbehaves on command.

    python -m benchmarks.mock_server --port 0 latency=0.05 broken=0.1

It prints {"base_url": …} as its first line and exits when its stdin closes. A raw protocol instead of a web framework:
10 to 20 µs a request, so that what is measured is the client. Every answer and every fault is a pure function of
(seed, key, attempt): the key is the record id in the prompt or, for prompts of mediflow.generate, a hash of the body.

    GET /stats           requests, answers, repeats, faults, calls in flight, CPU seconds of the server since the reset
    GET /stats?keys=1    also the requests by key
    GET /reset?latency=0.05&broken=0.1    forget the counts and behave so from now on (all else default)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from benchmarks.replies import Writer

KINDS = ("too_many", "error", "cut", "broken")


@dataclass(frozen=True)
class Behaviour:
    """Latency in seconds, shares (0 to 1) of requests that go wrong, and one stall of the whole server."""

    latency: float = 0.0
    seed: int = 0
    too_many: float = 0.0
    """HTTP 429 with Retry-After."""
    retry_after: int = 1
    error: float = 0.0
    """HTTP 500."""
    cut: float = 0.0
    """The connection closes in the middle of the answer."""
    broken: float = 0.0
    """HTTP 200, but the JSON in the text stops half way."""
    stall_after: int = 0
    """After so many requests nobody is answered for stall_seconds; 0 is never."""
    stall_seconds: float = 20.0


def parse_behaviour(pairs: Sequence[tuple[str, str]]) -> Behaviour:
    """Behaviour from names and texts; an unknown name or a value that is no number is a ValueError."""
    kinds = {one.name: type(one.default) for one in fields(Behaviour)}
    wrong = [name for name, _ in pairs if name not in kinds]
    if wrong:
        raise ValueError(f"no setting '{wrong[0]}'; known are {', '.join(kinds)}")
    return Behaviour(**{name: kinds[name](value) for name, value in pairs})


def draw_fault(behaviour: Behaviour, key: str, attempt: int) -> str | None:
    """What befalls the attempt (from 0) at a key; the same for ever."""
    digest = hashlib.blake2b(f"{behaviour.seed} {key} {attempt}".encode(), digest_size=8).digest()
    point = int.from_bytes(digest) / 2**64
    for kind in KINDS:
        point -= getattr(behaviour, kind)
        if point < 0:
            return kind
    return None


_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RECORD = re.compile(rb"record id: (r-\d{6})")


def request_key(body: bytes) -> str | None:
    """The record that a request is about; None for a probe, which is no record's."""
    found = _RECORD.search(body)
    if found:
        return found.group(1).decode()
    if b"```request" in body:
        return hashlib.blake2b(body, digest_size=8).hexdigest()
    return None


class State:
    """Counts since the last reset."""

    def __init__(self, behaviour: Behaviour, writer: Writer) -> None:
        """Begin to behave so."""
        self.behaviour = behaviour
        self.writer = writer
        self.attempts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.requests = self.answered = self.abandoned = self.request_bytes = self.reply_bytes = 0
        self.most_in_flight = 0
        self.first = self.last = 0.0
        self.stall_until: float | None = None
        self.cpu_before = time.process_time()

    @property
    def in_flight(self) -> int:
        """Requests begun but not answered."""
        return self.requests - self.answered - self.abandoned

    def due(self, now: float) -> float:
        """When the request that comes in now is answered. The first one past `stall_after` starts the stall."""
        if self.behaviour.stall_after and self.requests >= self.behaviour.stall_after and self.stall_until is None:
            self.stall_until = now + self.behaviour.stall_seconds
        return max(now, self.stall_until or 0.0) + self.behaviour.latency

    def still_stalled(self, now: float) -> float:
        """Seconds that an answer that is ready must still wait: a stall holds up those in flight as well."""
        return max(0.0, (self.stall_until or 0.0) - now)

    def stats(self, keys: bool) -> dict[str, Any]:
        """All counts as JSON values."""
        found = {
            "requests": self.requests,
            "answered": self.answered,
            "abandoned": self.abandoned,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "distinct": len(self.attempts),
            "repeats": self.requests - len(self.attempts),
            "faults": dict(self.faults),
            "mean_request_bytes": round(self.request_bytes / max(1, self.requests)),
            "mean_reply_bytes": round(self.reply_bytes / max(1, self.answered)),
            "seconds": self.last - self.first,
            "cpu_seconds": time.process_time() - self.cpu_before,
            "behaviour": asdict(self.behaviour),
        }
        return found | {"keys": self.attempts} if keys else found


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    states: list[State]
    """A single state, replaced by a reset."""

    def __init__(self, states: list[State]) -> None:
        """Share the state with all other connections."""
        self.states = states
        self.buffer = b""
        self.pending = 0

    def connection_made(self, transport: Any) -> None:
        """Keep the way back."""
        self.transport = transport
        self.loop = asyncio.get_running_loop()

    def connection_lost(self, error: Exception | None) -> None:
        """Count the requests whose answers nobody waits for any more."""
        self.states[0].abandoned += self.pending
        self.pending = 0

    def data_received(self, data: bytes) -> None:
        """Answer every whole request in the buffer."""
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(_HEAD_END)
            if not found:
                return
            length = _LENGTH.search(head)
            size = int(length.group(1)) if length else 0
            if len(rest) < size:
                return
            self.buffer = rest[size:]
            self._route(head.split(b" ", 2), rest[:size])

    def _route(self, start: list[bytes], body: bytes) -> None:
        if start[1].endswith(b"/chat/completions"):
            self._chat(body)
            return
        address = urlsplit(start[1].decode())
        if address.path == "/stats":
            self._write(200, json.dumps(self.states[0].stats("keys" in address.query)).encode())
        elif address.path == "/reset":
            try:
                self.states[0] = State(parse_behaviour(parse_qsl(address.query)), self.states[0].writer)
                self._write(200, b"{}")
            except ValueError as error:
                self._write(400, _error(str(error)))
        elif address.path.endswith("/models"):
            self._write(200, b'{"object":"list","data":[{"id":"mock","object":"model","owned_by":"nobody"}]}')
        else:
            self._write(404, _error(f"no such path: {address.path}"))

    def _chat(self, body: bytes) -> None:
        state = self.states[0]
        key = request_key(body)
        if key is None:
            # curator asks two questions before its first record; an empty list of messages is an error elsewhere too.
            known = b'"messages":' in body and b'"role"' in body
            self._write(*((200, state.writer.probe()) if known else (400, _error("no messages"))))
            return
        attempt = state.attempts[key]
        state.attempts[key] += 1
        state.requests += 1
        state.request_bytes += len(body)
        now = self.loop.time()
        state.first = state.first or now
        self.pending += 1
        state.most_in_flight = max(state.most_in_flight, state.in_flight)
        due = state.due(now)
        if due > now:
            self.loop.call_at(due, self._answer, state, key, attempt, body)
        else:
            self._answer(state, key, attempt, body)

    def _answer(self, state: State, key: str, attempt: int, body: bytes) -> None:
        if self.transport.is_closing() or state is not self.states[0]:
            return
        held = state.still_stalled(self.loop.time())
        if held:
            self.loop.call_later(held, self._answer, state, key, attempt, body)
            return
        self.pending -= 1
        state.answered += 1
        state.last = self.loop.time()
        fault = draw_fault(state.behaviour, key, attempt)
        if fault:
            state.faults[fault] += 1
        if fault == "too_many":
            wait = b"retry-after: %d\r\n" % state.behaviour.retry_after
            self._write(429, _error("rate limit reached"), wait)
        elif fault == "error":
            self._write(500, _error("something broke"))
        else:
            reply = state.writer.reply(key, body, attempt, broken=fault == "broken")
            state.reply_bytes += len(reply)
            self._write(200, reply, cut=fault == "cut")

    def _write(self, status: int, body: bytes, headers: bytes = b"", cut: bool = False) -> None:
        head = b"HTTP/1.1 %d -\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
        reply = head % (status, headers, len(body)) + body
        self.transport.write(reply[: len(reply) // 2] if cut else reply)
        if cut:
            self.transport.close()


def _error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "mock", "code": None}}).encode()


async def serve(port: int, behaviour: Behaviour) -> None:
    """Serve until stdin closes."""
    loop = asyncio.get_running_loop()
    states = [State(behaviour, Writer(behaviour.seed))]
    server = await loop.create_server(lambda: Connection(states), "127.0.0.1", port, backlog=1024)
    print(json.dumps({"base_url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"}), flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.buffer.read)


def main(arguments: Sequence[str]) -> None:
    """`[--port N] [name=value …]`."""
    port = 0
    rest = list(arguments)
    if rest[:1] == ["--port"]:
        port, rest = int(rest[1]), rest[2:]
    behaviour = parse_behaviour([(name, value) for name, _, value in (one.partition("=") for one in rest)])
    try:
        import uvloop

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    run(serve(port, behaviour))


if __name__ == "__main__":
    main(sys.argv[1:])

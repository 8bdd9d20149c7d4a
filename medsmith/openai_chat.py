"""The client of an OpenAI-compatible endpoint: one call with all its retries, inside limits and budget.

Requests go through the openai package on its aiohttp transport, as bytes that are built once a call, and answers come
back as bytes: building and checking typed objects in between would double the work of a call.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from medsmith import licences
from medsmith.errors import UserError
from medsmith.gate import Gate
from medsmith.limits import Budget, RateLimit, Stopped, most_tokens, retry_after
from medsmith.llm import ChatError, ChatReply, ChatRequest, TeacherConfig, is_loopback, read_key
from medsmith.replies import Said, Used, read_choice, read_usage, reply_of

LONGEST_PAUSE_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 600.0
TRY_AGAIN = {408, 409, 425, 429}
REFUSED_FOR_ALL = {401, 404}
"""Key, model or path: no other call would fare better, so the run stops. 403 may be said of one prompt (moderation)."""
SCHEMA_WORDS = re.compile(r"schema|response_format|structured|grammar|guided|json", re.IGNORECASE)
"""How a server that refuses a request says that it is for the schema in it."""

REQUEST_OPTIONS: Any = {"headers": {"Content-Type": "application/json"}}


@dataclass
class _Tally:
    """What one call has used so far."""

    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    model: str = ""
    metered: bool = True
    """Did every answer tell its usage?"""


@dataclass(frozen=True)
class _Most:
    """The most that an attempt may use."""

    tokens: int
    cost: float


@dataclass(frozen=True)
class _Failure:
    """An attempt that did not work.

    `unsure`: it may have been charged. `trouble`: a sign of congestion. `at_once`: the next attempt needs no pause.
    `stop`: no other call would fare better.
    """

    reason: str
    wait_seconds: float = 0.0
    again: bool = True
    unsure: bool = False
    trouble: bool = False
    at_once: bool = False
    stop: str | None = None


class OpenAIChat:
    """Chat completions over HTTP. One object serves several event loops, one after the other."""

    path = "/chat/completions"

    def __init__(
        self,
        base_url: str,
        config: TeacherConfig,
        *,
        transport: Any = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`transport` (an httpx2 one) and `sleep` are given by tests.

        Raises:
            UserError: the variable of `api_key_env` is empty, or a remote endpoint has none named.
        """
        self.base_url = base_url
        self.config = config
        self.local = is_loopback(base_url)
        self.price = config.token_price
        self.budget = Budget(config.budget.max_requests, config.budget.max_cost)
        self._key = read_key(config, base_url, self.local)
        self._transport = transport
        self._sleep = sleep
        self._loop: asyncio.AbstractEventLoop | None = None
        self._record: Callable[[str, float], None] | None = None
        self._refused_schemas: set[bytes] = set()
        self._stop: str | None = None

    def count_earlier(self, attempts: int, cost: float) -> None:
        """Charge the budget with what an earlier try has spent."""
        self.budget.requests += attempts
        self.budget.cost += cost

    def record_starts(self, record: Callable[[str, float], None]) -> None:
        """Say before each attempt what it may cost, if there is a budget to keep."""
        self._record = record if self.budget.limited else None

    def stop(self, reason: str) -> None:
        """Let no call of this event loop make another attempt."""
        self._stop = reason

    def refuse_remote(self) -> None:
        """Raise a UserError unless what the open runs are made from may go to this endpoint."""
        switch = "teacher.allow_remote_credentialed"
        licences.refuse_remote(self.base_url, self.config.allow_remote_credentialed, switch)

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        if self._loop is asyncio.get_running_loop():
            await self._client.close()
        self._loop = None

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer with `request.n` texts; an endpoint that gives fewer a time is asked again for the rest."""
        self._connect()
        began = time.monotonic()
        tally = _Tally()
        said: list[Said] = []
        try:
            while len(said) < request.n:
                answer = await self._answered(request, request.n - len(said), tally)
                said += map(read_choice, answer["choices"][: request.n - len(said)])
        except Stopped as error:
            error.attempts, error.cost = tally.attempts, tally.cost
            raise
        used = Used(tally.prompt_tokens, tally.completion_tokens) if tally.metered else None
        seconds = time.monotonic() - began
        reply = reply_of(said, used, tally.model, attempts=tally.attempts, seconds=seconds, cost=tally.cost)
        if isinstance(reply, ChatError):
            raise reply
        return reply

    def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        import aiohttp
        import httpx2
        import openai

        # One line per request, address and all, is no news to a user.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._loop = loop
        self._stop = None
        self.gate = Gate(self.config.concurrency)
        self.rate = RateLimit(self.config.requests_per_minute, self.config.tokens_per_minute, self._sleep)
        self._response = httpx2.Response
        # The transport lets some of its own errors through, that of an answer which is no HTTP for one.
        self._no_answer = (openai.APIConnectionError, aiohttp.ClientError, OSError)
        self._client = self.build_client(max_retries=0)

    def build_client(self, max_retries: int) -> Any:
        """A client of the openai package for the endpoint, to be closed in the event loop where it is used."""
        import httpx2
        import openai

        timeout = self.config.timeout_seconds
        build = openai.DefaultAioHttpClient if self._transport is None else openai.DefaultAsyncHttpxClient
        http = build(
            transport=self._transport,
            timeout=timeout,
            # A redirect could carry prompts and key elsewhere, and a proxy has no business with a loopback address.
            follow_redirects=False,
            trust_env=not self.local,
            limits=httpx2.Limits(max_connections=self.config.concurrency, max_keepalive_connections=None),
        )
        version = self.config.api_version
        return openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self.base_url,
            timeout=timeout,
            max_retries=max_retries,
            http_client=http,
            default_query={"api-version": version} if version else None,
            default_headers={"api-key": self._key} if version else None,
        )

    async def _answered(self, request: ChatRequest, n: int, tally: _Tally) -> dict[str, Any]:
        """One HTTP answer with at least one choice, after as many retries as allowed."""
        most = self._most(request, n)
        attempt = 0
        while True:
            reserved = await self.rate.wait(most.tokens)
            await self.gate.enter()
            try:
                outcome = await self._attempt(request, n, tally, most, reserved)
            finally:
                self.gate.leave()
            if isinstance(outcome, dict):
                return outcome
            if outcome.stop is not None:
                raise Stopped(outcome.stop)
            if outcome.at_once:
                continue
            if not outcome.again or attempt == self.config.max_retries:
                note = f" (tried {tally.attempts} times)" if tally.attempts > 1 else ""
                raise ChatError(
                    outcome.reason + note, final=not outcome.again, attempts=tally.attempts, cost=tally.cost
                )
            await self._sleep(max(outcome.wait_seconds, self._pause(request.id, attempt)))
            attempt += 1

    async def _attempt(
        self, request: ChatRequest, n: int, tally: _Tally, most: _Most, reserved: float
    ) -> dict[str, Any] | _Failure:
        """Send once: reserve the most it may cost, settle for what it did."""
        if self._stop is not None:
            raise Stopped(self._stop)
        await self.budget.reserve(most.cost)
        if self._record is not None:
            self._record(request.id, most.cost)
        tally.attempts += 1
        cost = most.cost
        used: int | None = None
        began = time.monotonic()
        try:
            outcome = await self._send(request, n)
            if isinstance(outcome, _Failure):
                # A refused call is not charged; one that was cut may have been: count it, so as never to overspend.
                cost, used = (most.cost, None) if outcome.unsure else (0.0, 0)
                if outcome.trouble:
                    # What is refused at once for its own sake says nothing about load or latency.
                    self.gate.report(True, time.monotonic() - began)
            else:
                self.gate.report(False, time.monotonic() - began)
                cost, used = self._count(outcome, tally, most)
            tally.cost += cost
        finally:
            self.budget.settle(most.cost, cost)
            if reserved:
                self.rate.settle(most.tokens, reserved, used)
        return outcome

    async def _send(self, request: ChatRequest, n: int) -> dict[str, Any] | _Failure:
        import openai

        body = self.build_body(request, n)
        try:
            raw = await self._client.post(
                self.path, cast_to=self._response, content=_dump(body), options=REQUEST_OPTIONS
            )
        except self._no_answer as error:
            return self._lost(error)
        except openai.APIStatusError as error:
            schema = request.response_schema if "response_format" in body else None
            return self._refusal(error.status_code, error.response.headers, error.response.text, schema)
        try:
            return self.read_answer(_load(raw.content))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return _Failure(f"not a chat completion: {raw.content[:200].decode(errors='replace')!r}", unsure=True)

    def read_answer(self, answer: Any) -> dict[str, Any]:
        """The answer as a chat completion with at least one choice; ValueError, KeyError or TypeError if it is none."""
        if not answer["choices"] or not all(isinstance(choice["message"], dict) for choice in answer["choices"]):
            raise ValueError("no choices")
        return dict(answer)

    def build_body(self, request: ChatRequest, n: int) -> dict[str, Any]:
        """What is sent: our fields, and extra_body over them."""
        schema = request.response_schema
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": list(request.messages),
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
        }
        if n > 1:
            body["n"] = n
        if schema is not None and not (self._refused_schemas and _dump(schema) in self._refused_schemas):
            named = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        body |= self.config.extra_body
        return {name: value for name, value in body.items() if value is not None}

    def bound_cost(self, request: ChatRequest, n: int) -> float:
        """The most that an attempt may cost. UserError where a budget cannot be kept for want of a token limit."""
        return self._most(request, n).cost

    def _lost(self, error: Exception) -> _Failure:
        """No answer: too late, or the connection was cut. The transport calls some cut connections timeouts."""
        import httpx2

        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, TimeoutError | asyncio.CancelledError | httpx2.TimeoutException):
            return _Failure(f"no answer within {self.config.timeout_seconds:g} s", unsure=True, trouble=True)
        reason = f"connection lost: {type(cause).__name__}: {' '.join(str(cause).split())}".rstrip(": ")
        return _Failure(reason, unsure=not isinstance(cause, ConnectionRefusedError), trouble=True)

    def _refusal(self, status: int, headers: Mapping[str, str], text: str, schema: dict[str, Any] | None) -> _Failure:
        said = f"HTTP {status}: {' '.join(text.split())[:300]}"
        if self._key and self._key in said:
            said = said.replace(self._key, "[key]")
        if status in REFUSED_FOR_ALL or "insufficient_quota" in text:
            stop = f"{self.base_url} refuses every call with {said}; check model, base_url and api_key_env"
            return _Failure(said, stop=stop)
        wait = retry_after(headers)
        if wait > LONGEST_RETRY_AFTER_SECONDS:
            return _Failure(said, stop=f"{self.base_url} asks to wait {wait:.0f} s ({said}); run again then")
        if schema is not None and status in (400, 422) and SCHEMA_WORDS.search(text):
            if "response_format" in self.config.extra_body:
                stop = f"{self.base_url} refuses response_format ({said}); take it out of teacher.extra_body"
                return _Failure(said, stop=stop)
            return self._do_without(schema, said)
        again = status in TRY_AGAIN or status >= 500
        return _Failure(said, wait, again=again, trouble=status == 429 or status >= 500)

    def _do_without(self, schema: dict[str, Any], said: str) -> _Failure:
        """From now on this schema is not sent; the caller checks the answers anyway."""
        if not self._refused_schemas:
            print(
                f"note: {self.base_url} refuses response_format ({said}); asking without it, answers are still "
                "checked; reply=tagged (generate) or structured=false (others) asks without it from the start",
                file=sys.stderr,
            )
        self._refused_schemas.add(_dump(schema))
        return _Failure(said, at_once=True)

    def _pause(self, key: str, attempt: int) -> float:
        """Exponential, with a jitter that depends on the call alone: a rerun waits the same."""
        jitter = int.from_bytes(hashlib.sha256(f"{key} {attempt}".encode()).digest()[:4]) / 2**32
        return float(min(LONGEST_PAUSE_SECONDS, self.config.retry_seconds * 2**attempt) * (0.5 + jitter / 2))

    def _most(self, request: ChatRequest, n: int) -> _Most:
        """The most an attempt may use: by what is sent, extra_body and schema included."""
        if self.price is None and self.config.tokens_per_minute is None:
            return _NOTHING
        body = self.build_body(request, n)
        prompt, completion = most_tokens(body, len(_dump(body)))
        if completion is None:
            if self.budget.max_cost is not None:
                raise UserError(
                    "teacher.budget.max_cost cannot be kept: teacher.extra_body takes max_tokens out and sets no other "
                    "limit; set max_completion_tokens there"
                )
            completion = n * request.max_tokens
        return _Most(prompt + completion, self.price.cost(prompt, completion) if self.price else 0.0)

    def _count(self, answer: dict[str, Any], tally: _Tally, most: _Most) -> tuple[float, int | None]:
        """Add the usage of an answer; return its cost and tokens: without usage in it, the most, and None."""
        tally.model = str(answer.get("model") or self.config.model)
        used = read_usage(answer.get("usage"))
        if used is None:
            tally.metered = False
            return most.cost, None
        tally.prompt_tokens += used.prompt
        tally.completion_tokens += used.completion
        return self.price.cost(*used) if self.price else 0.0, sum(used)


_NOTHING = _Most(0, 0.0)


def _load(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except ValueError:
        # The same, if it is JSON at all.
        return json.loads(content)


def _dump(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        # Half a surrogate pair, which a text may hold; escaped it is sent as it stands.
        return json.dumps(value).encode()

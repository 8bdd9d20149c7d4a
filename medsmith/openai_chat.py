"""The client of an OpenAI-compatible endpoint: one call with all its retries, inside limits and budget."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import ipaddress
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from medsmith.errors import UserError
from medsmith.limits import Budget, BudgetReached, Gate, RateLimit
from medsmith.llm import ChatError, ChatReply, ChatRequest, TeacherConfig

LONGEST_PAUSE_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 600.0
TRY_AGAIN = {408, 409, 425, 429}
REFUSED_FOR_ALL = {401, 403, 404}
"""Key, permission, model or path: no other call would fare better, so the run stops."""


@dataclass
class _Tally:
    """What one call has used so far."""

    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    model: str = ""


@dataclass(frozen=True)
class _Failure:
    """An attempt that did not work. `unsure`: it may have been charged."""

    reason: str
    wait_seconds: float = 0.0
    again: bool = True
    unsure: bool = False
    refused: bool = False


class OpenAIChat:
    """Chat completions over HTTP. One object serves several event loops, one after the other."""

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
        self.budget = Budget(config.budget.max_requests, config.budget.max_cost)
        self._key = _read_key(config, base_url, self.local)
        self._transport = transport
        self._sleep = sleep
        self._loop: asyncio.AbstractEventLoop | None = None

    def count_earlier(self, attempts: int, cost: float) -> None:
        """Charge the budget with what an earlier try has spent."""
        self.budget.requests += attempts
        self.budget.cost += cost

    def refuse_remote(self) -> None:
        """Raise a UserError unless data under a use agreement may go to this endpoint."""
        if not self.local and not self.config.allow_remote_credentialed:
            raise UserError(
                f"data under a use agreement would go to {urlsplit(self.base_url).hostname}; use a local model, or "
                "set teacher.allow_remote_credentialed=true where your agreement permits that endpoint"
            )

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
        texts: list[str] = []
        finish: list[str] = []
        try:
            while len(texts) < request.n:
                body = await self._answered(request, request.n - len(texts), tally)
                for choice in body["choices"][: request.n - len(texts)]:
                    texts.append(choice["message"].get("content") or "")
                    finish.append(choice.get("finish_reason") or "")
        except BudgetReached as error:
            error.attempts, error.cost = tally.attempts, tally.cost
            raise
        usage = {"prompt_tokens": tally.prompt_tokens, "completion_tokens": tally.completion_tokens}
        seconds = time.monotonic() - began
        return ChatReply(texts, usage, tally.model, tally.attempts, seconds, finish, tally.cost)

    def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        import httpx2
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        # One line per request, address and all, is no news to a user.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._loop = loop
        self.gate = Gate(self.config.concurrency)
        self.rate = RateLimit(self.config.requests_per_minute, self._sleep)
        timeout = self.config.timeout_seconds
        http = DefaultAsyncHttpxClient(
            transport=self._transport,
            timeout=timeout,
            # A redirect could carry prompts and key elsewhere, and a proxy has no business with a loopback address.
            follow_redirects=False,
            trust_env=not self.local,
            limits=httpx2.Limits(max_connections=self.config.concurrency, max_keepalive_connections=None),
        )
        self._client = AsyncOpenAI(
            api_key=self._key, base_url=self.base_url, timeout=timeout, max_retries=0, http_client=http
        )

    async def _answered(self, request: ChatRequest, n: int, tally: _Tally) -> dict[str, Any]:
        """One HTTP answer with at least one choice, after as many retries as allowed."""
        for attempt in range(self.config.max_retries + 1):
            await self.rate.wait()
            async with self.gate.enter():
                outcome = await self._attempt(request, n, tally)
            if isinstance(outcome, dict):
                return outcome
            if not outcome.again or attempt == self.config.max_retries:
                note = f" (tried {tally.attempts} times)" if tally.attempts > 1 else ""
                raise ChatError(
                    outcome.reason + note, final=not outcome.again, attempts=tally.attempts, cost=tally.cost
                )
            await self._sleep(max(outcome.wait_seconds, self._pause(request.id, attempt)))
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, request: ChatRequest, n: int, tally: _Tally) -> dict[str, Any] | _Failure:
        """Send once: reserve the most it may cost, settle for what it did."""
        bound = self._bound(request, n)
        await self.budget.reserve(bound)
        tally.attempts += 1
        cost = bound
        try:
            outcome = await self._send(request, n)
            if isinstance(outcome, _Failure):
                # A refused call is not charged; one that was cut may have been: count it, so as never to overspend.
                cost = bound if outcome.unsure else 0.0
                self.gate.report(outcome.refused)
            else:
                cost = self._count(outcome, tally, bound)
                self.gate.report(False)
            tally.cost += cost
        finally:
            self.budget.settle(bound, cost)
        return outcome

    async def _send(self, request: ChatRequest, n: int) -> dict[str, Any] | _Failure:
        import openai

        try:
            raw = await self._client.chat.completions.with_raw_response.create(**self._body(request, n))
        except openai.APITimeoutError:
            return _Failure(f"no answer within {self.config.timeout_seconds:g} s", unsure=True)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return _Failure(f"connection lost: {type(cause).__name__}: {cause}".rstrip(": "), unsure=True)
        except openai.APIStatusError as error:
            return self._refusal(error.status_code, error.response.headers, error.response.text)
        try:
            body = json.loads(raw.content)
            if not body["choices"] or not all(isinstance(choice["message"], dict) for choice in body["choices"]):
                raise ValueError("no choices")
        except (ValueError, KeyError, TypeError):
            return _Failure(f"not a chat completion: {raw.content[:200].decode(errors='replace')!r}", unsure=True)
        return dict(body)

    def _body(self, request: ChatRequest, n: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": list(request.messages),
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
        }
        if n > 1:
            body["n"] = n
        if request.response_schema is not None:
            schema = {"name": "answer", "schema": request.response_schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        extra = self.config.extra_body
        body = {name: value for name, value in body.items() if name not in extra}
        # Through extra_body, for the client refuses fields that it does not know.
        return {**body, "extra_body": {name: value for name, value in extra.items() if value is not None}}

    def _refusal(self, status: int, headers: Mapping[str, str], text: str) -> _Failure:
        said = f"HTTP {status}: {' '.join(text.split())[:300]}"
        if self._key and self._key in said:
            said = said.replace(self._key, "[key]")
        if status in REFUSED_FOR_ALL or "insufficient_quota" in text:
            raise UserError(f"{self.base_url} refuses every call with {said}; check model, base_url and api_key_env")
        wait = retry_after(headers)
        if wait > LONGEST_RETRY_AFTER_SECONDS:
            raise UserError(f"{self.base_url} asks to wait {wait:.0f} s ({said}); run again then")
        return _Failure(said, wait, again=status in TRY_AGAIN or status >= 500, refused=status == 429)

    def _pause(self, key: str, attempt: int) -> float:
        """Exponential, with a jitter that depends on the call alone: a rerun waits the same."""
        jitter = int.from_bytes(hashlib.sha256(f"{key} {attempt}".encode()).digest()[:4]) / 2**32
        return float(min(LONGEST_PAUSE_SECONDS, self.config.retry_seconds * 2**attempt) * (0.5 + jitter / 2))

    def _bound(self, request: ChatRequest, n: int) -> float:
        """The most an attempt may cost: no token is shorter than a byte, each message has a few tokens around it."""
        price = self.config.price
        if price is None:
            return 0.0
        prompt = sum(len(message["content"].encode()) + 8 for message in request.messages) + 8
        completion = n * request.max_tokens
        return (prompt * price.prompt_per_million + completion * price.completion_per_million) / 1e6

    def _count(self, body: dict[str, Any], tally: _Tally, bound: float) -> float:
        """Add the usage of an answer and return its cost; without usage in it, the bound."""
        usage = body.get("usage") or {}
        tally.model = str(body.get("model") or self.config.model)
        tally.prompt_tokens += usage.get("prompt_tokens") or 0
        tally.completion_tokens += usage.get("completion_tokens") or 0
        price = self.config.price
        if price is None or not usage:
            return bound
        prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        return float((prompt * price.prompt_per_million + completion * price.completion_per_million) / 1e6)


def is_loopback(base_url: str) -> bool:
    """Does the address stay on this machine? A name other than localhost is not looked up: it counts as remote."""
    host = urlsplit(base_url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that a Retry-After header asks for (a number or a date); 0.0 where there is none."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _read_key(config: TeacherConfig, base_url: str, local: bool) -> str:
    if config.api_key_env is None:
        if not local:
            raise UserError(f"{base_url} is remote: name the variable that holds its key in teacher.api_key_env")
        return "none"
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UserError(f"the environment variable {config.api_key_env} is empty; put the key of {base_url} there")
    return key

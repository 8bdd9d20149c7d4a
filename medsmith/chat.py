"""A chat request, its reply, whoever answers, and a fake one for tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from medsmith.errors import UserError
from medsmith.records import content_id

Message = dict[str, str]


@dataclass(frozen=True)
class ChatRequest:
    """One call. Make it by `chat_request` or `TeacherConfig.request`, which give it its id.

    `about` is the caller's note (a cell, a document id): recorded with the row, sent nowhere, no part of the id.
    """

    id: str
    messages: Sequence[Message]
    temperature: float = 0.0
    max_tokens: int = 1024
    response_schema: dict[str, Any] | None = None
    n: int = 1
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatReply:
    """What came back: `n` texts, and the usage of all attempts that were answered.

    `model` is what the server calls itself. `finish` is "length" where a text was cut at max_tokens.
    """

    texts: list[str]
    usage: dict[str, int]
    model: str
    attempts: int = 1
    seconds: float = 0.0
    finish: list[str] = field(default_factory=list)
    cost: float = 0.0


class ChatError(Exception):
    """A call failed: the endpoint refused this very call (`final`), or none of its retries got through."""

    def __init__(self, message: str, *, final: bool = False, attempts: int = 1, cost: float = 0.0) -> None:
        """`attempts` requests were sent, which cost at most `cost`."""
        super().__init__(message)
        self.final = final
        self.attempts = attempts
        self.cost = cost


class ChatModel(Protocol):
    """Whatever answers chat requests."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer with `request.n` texts; ChatError where that fails, UserError where no call can succeed."""
        ...


@runtime_checkable
class MeteredChat(ChatModel, Protocol):
    """A chat model that spends money and holds connections."""

    def count_earlier(self, attempts: int, cost: float) -> None:
        """Charge the budget with what an earlier try has spent."""
        ...

    def refuse_remote(self) -> None:
        """Raise a UserError unless credentialed data may go where this model is."""
        ...

    async def close(self) -> None:
        """Close what belongs to the running event loop."""
        ...


def chat_request(
    model: str,
    messages: Sequence[Message],
    *,
    temperature: float = 0.0,
    max_tokens: int = 1024,
    response_schema: dict[str, Any] | None = None,
    n: int = 1,
    sample: int = 0,
    about: dict[str, Any] | None = None,
) -> ChatRequest:
    """Build a request whose id depends on all that bears on its answer; `sample` tells equal requests apart."""
    key = content_id(list(messages), model, temperature, max_tokens, response_schema, n, sample)
    return ChatRequest(key, list(messages), temperature, max_tokens, response_schema, n, about or {})


class FakeChat:
    """A chat model for tests: a queue of replies, one per text asked for, and the requests it saw.

    A reply is a text, a ChatReply, or an exception: a ChatError or UserError is raised as it is, others as a ChatError.
    """

    def __init__(self, replies: Iterable[str | ChatReply | Exception]) -> None:
        """Queue the replies."""
        self.replies = deque(replies)
        self.requests: list[ChatRequest] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Take `request.n` texts from the queue."""
        self.requests.append(request)
        texts: list[str] = []
        while len(texts) < request.n:
            assert self.replies, f"the fake chat has no reply left for request number {len(self.requests)}"
            reply = self.replies.popleft()
            if isinstance(reply, ChatReply):
                return reply
            if isinstance(reply, ChatError | UserError):
                raise reply
            if isinstance(reply, Exception):
                raise ChatError(f"{type(reply).__name__}: {reply}")
            texts.append(reply)
        prompt = sum(len(message["content"].split()) for message in request.messages)
        usage = {"prompt_tokens": prompt, "completion_tokens": sum(len(text.split()) for text in texts)}
        return ChatReply(texts, usage, "fake", finish=["stop"] * len(texts))

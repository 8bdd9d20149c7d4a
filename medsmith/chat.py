"""A chat request, its reply, whoever answers, and a fake one for tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from medsmith.errors import UserError
from medsmith.records import content_id

Message = dict[str, str]

Engine = Literal["local", "batch", "vllm", "ray"]
"""Who makes the calls: this process over HTTP, a provider's batch endpoint, vLLM in this process, or a Ray cluster."""


@dataclass(frozen=True)
class ChatRequest:
    """One call. Make it by `chat_request` or `TeacherConfig.request`, which give it its id.

    `about` is the caller's note (a cell, a document id): recorded with the row, sent nowhere, no part of the id.
    `teacher` is the name of the one of several teachers that is to answer.
    """

    id: str
    messages: Sequence[Message]
    temperature: float = 0.0
    max_tokens: int = 1024
    response_schema: dict[str, Any] | None = None
    n: int = 1
    about: dict[str, Any] = field(default_factory=dict)
    teacher: str = ""


@dataclass(frozen=True)
class ChatReply:
    """What came back: `n` texts, and the usage of all attempts that were answered.

    `model` is what the server calls itself. `finish` is "length" where a text was cut at max_tokens, "refused" where it
    is empty for another's were not. `usage` is empty where the endpoint did not tell it. `reasoning` is what was
    thought before each text, where that is known; it is kept and never read.
    """

    texts: list[str]
    usage: dict[str, int]
    model: str
    attempts: int = 1
    seconds: float = 0.0
    finish: list[str] = field(default_factory=list)
    cost: float = 0.0
    reasoning: list[str] = field(default_factory=list)


class ChatError(Exception):
    """A call failed: the endpoint refused this very call (`final`), or none of its retries got through."""

    def __init__(self, message: str, *, final: bool = False, attempts: int = 1, cost: float = 0.0) -> None:
        """`attempts` requests were sent, which cost at most `cost`."""
        super().__init__(message)
        self.final = final
        self.attempts = attempts
        self.cost = cost


@runtime_checkable
class ChatModel(Protocol):
    """Whatever answers chat requests."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer with `request.n` texts; ChatError where that fails, UserError where no call can succeed."""
        ...


@runtime_checkable
class BulkChat(Protocol):
    """A chat model that is quickest when it is given many requests at once."""

    bulk_size: int
    """The most requests that it wants at once."""

    async def complete_all(
        self, requests: Sequence[ChatRequest], done: Callable[[ChatRequest, ChatReply | ChatError], None]
    ) -> None:
        """Call `done` exactly once for each request, in any order; UserError where no call can succeed."""
        ...


Chat = ChatModel | BulkChat


@runtime_checkable
class MeteredChat(Protocol):
    """A chat model that spends money and holds connections."""

    def count_earlier(self, attempts: int, cost: float) -> None:
        """Charge the budget with what an earlier try has spent."""
        ...

    def refuse_remote(self) -> None:
        """Raise a UserError unless what the open runs are made from may go where this model is."""
        ...

    async def close(self) -> None:
        """Close what belongs to the running event loop."""
        ...


@runtime_checkable
class TellsProgress(Protocol):
    """A bulk chat that can say how far it is before there are answers."""

    def tell_progress(self, note: Callable[[str], None]) -> None:
        """From now on say by `note` how far it is."""
        ...


@runtime_checkable
class StartsAttempts(Protocol):
    """A chat model that says before each attempt what it may cost, where it has a budget to keep over a kill."""

    def record_starts(self, record: Callable[[str, float], None]) -> None:
        """From now on call `record(request id, bound)` before each attempt."""
        ...


@runtime_checkable
class Stoppable(Protocol):
    """A chat model whose calls that wait for a place or for their retry can be told not to go on."""

    def stop(self, reason: str) -> None:
        """Let every call end at its next attempt with `Stopped`, until the event loop is another."""
        ...


@dataclass(frozen=True)
class Lane:
    """One of several teachers with the number of calls that it may have in flight."""

    chat: Chat
    concurrency: int


class Teachers:
    """Several chat models as one: `request.teacher` says whose a request is."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        """`lanes` are the teachers by name."""
        self.lanes = dict(lanes)

    def lane(self, request: ChatRequest) -> Lane:
        """The lane of a request."""
        assert request.teacher in self.lanes, f"no teacher {request.teacher!r}; known are {', '.join(self.lanes)}"
        return self.lanes[request.teacher]

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Let the request's own teacher answer."""
        chat = self.lane(request).chat
        if not isinstance(chat, BulkChat):
            return await chat.complete(request)
        answers: list[ChatReply | ChatError] = []
        await chat.complete_all([request], lambda _, answer: answers.append(answer))
        if isinstance(answers[0], ChatError):
            raise answers[0]
        return answers[0]


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
    teacher: str = "",
) -> ChatRequest:
    """Build a request whose id depends on all that bears on its answer; `sample` tells equal requests apart.

    `model` is all that says who answers; `teacher` is only the name by which the request finds its way there.
    """
    key = content_id(list(messages), model, temperature, max_tokens, response_schema, n, sample)
    return ChatRequest(key, list(messages), temperature, max_tokens, response_schema, n, about or {}, teacher)


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

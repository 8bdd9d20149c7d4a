"""What runs on the workers of a Ray cluster: an actor that answers chunks of chat requests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medsmith.chat import ChatError, ChatReply, ChatRequest
from medsmith.errors import UserError
from medsmith.limits import BudgetReached, Stopped
from medsmith.llm import TeacherConfig


@dataclass(frozen=True)
class Unmade:
    """A call that was not made, or not to its end, with what its attempts had used."""

    attempts: int = 0
    cost: float = 0.0


Answer = ChatReply | ChatError | Unmade


@dataclass(frozen=True)
class Share:
    """The part of the budget that goes with a chunk; None is no limit."""

    requests: int | None
    cost: float | None


@dataclass(frozen=True)
class Answers:
    """What came of a chunk: an answer to each request, and what says that no further call would fare better."""

    by_id: list[tuple[str, Answer]]
    stop: UserError | None


class HttpWorker:
    """Answers over HTTP, several chunks at a time, with this worker's part of concurrency and rates."""

    def __init__(self, base_url: str, config: TeacherConfig, key: str | None, transport: Any = None) -> None:
        """`key` is what the variable of api_key_env holds where the run was started; tests give `transport`."""
        from medsmith.openai_chat import OpenAIChat

        if config.api_key_env is not None and key is not None:
            os.environ[config.api_key_env] = key
        self.chat = OpenAIChat(base_url, config, transport=transport)

    async def ready(self) -> None:
        """Answer, so that the driver knows this worker to be there."""

    async def answer(self, requests: Sequence[ChatRequest], share: Share) -> Answers:
        """Answer a chunk. Its share of the budget is added to this worker's, and what it left over is taken back."""
        budget = self.chat.budget
        if share.requests is not None:
            budget.max_requests = (budget.max_requests or 0) + share.requests
        if share.cost is not None:
            budget.max_cost = (budget.max_cost or 0.0) + share.cost
        stop: UserError | None = None

        async def answer_one(request: ChatRequest) -> tuple[str, Answer]:
            nonlocal stop
            try:
                return request.id, await self.chat.complete(request) if stop is None else Unmade()
            except ChatError as error:
                return request.id, error
            except Stopped as error:
                if not isinstance(error, BudgetReached):
                    stop = error
                return request.id, Unmade(error.attempts, error.cost)

        answers = await asyncio.gather(*(answer_one(request) for request in requests))
        # A chunk that used more than its share took it from another, which then has less: their sum holds.
        if share.requests is not None:
            used = sum(answer.attempts for _, answer in answers)
            budget.max_requests = (budget.max_requests or 0) - max(0, share.requests - used)
        if share.cost is not None:
            spent = sum(answer.cost for _, answer in answers)
            budget.max_cost = (budget.max_cost or 0.0) - max(0.0, share.cost - spent)
        return Answers(answers, stop)


class VllmWorker:
    """Computes answers with vLLM on the devices that Ray gave to it, one chunk at a time."""

    def __init__(self, config: TeacherConfig) -> None:
        """`config` has no budget: the driver sends no more than may be answered."""
        from medsmith.vllm_chat import VllmChat

        self.chat: Any = VllmChat(config)

    async def ready(self) -> None:
        """Answer, so that the driver knows this worker to be there."""

    async def answer(self, requests: Sequence[ChatRequest], share: Share) -> Answers:
        """Answer a chunk."""
        answers: list[tuple[str, Answer]] = []
        try:
            await self.chat.complete_all(requests, lambda request, answer: answers.append((request.id, answer)))
        except UserError as error:
            made = {key for key, _ in answers}
            return Answers([*answers, *((one.id, Unmade()) for one in requests if one.id not in made)], error)
        return Answers(answers, None)

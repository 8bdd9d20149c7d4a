"""Many calls against one journal: each request is called once, and never again after a restart."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from medsmith.chat import ChatError, ChatModel, ChatReply, ChatRequest, MeteredChat
from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.limits import BudgetReached

FAILURES_IN_A_ROW = 24
"""So many calls in a row that failed although each was tried again: the teacher is down, and the run stops."""

FollowUp = Callable[[ChatRequest, dict[str, Any]], ChatRequest | None]


def run_calls(
    requests: Iterable[ChatRequest],
    chat: ChatModel,
    journal: Journal,
    concurrency: int,
    description: str,
    *,
    follow_up: FollowUp | None = None,
    credentialed: bool = False,
) -> dict[str, dict[str, Any]]:
    """Call every request that the journal does not hold, once, and return the rows of all by id, in order of the ids.

    A row is {id, model, texts | None, usage, attempts, seconds, cost, finish, error | None, final, about, request}. A
    call that failed has its error in its row (`final`: the endpoint refused this very call); the next run makes it
    again, because what refused may have been mended. `follow_up` sees each request with its row, new or from the
    journal, and may answer with one more request (a repair, say). Equal ids are one call. Ctrl-C cancels the calls in
    flight; those finished are in the journal.

    Raises:
        UserError: the budget is reached, the teacher refuses all calls (key, model), or it is down.
    """
    return asyncio.run(
        _Calls(chat, journal, description, follow_up).run(list(requests), concurrency, credentialed=credentialed)
    )


def summarise(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Usage totals over journal rows: calls, failed, attempts, prompt_tokens, completion_tokens, cost."""
    total: dict[str, Any] = dict.fromkeys(("calls", "failed", "attempts", "prompt_tokens", "completion_tokens"), 0)
    cost = 0.0
    for row in rows:
        total["calls"] += 1
        total["failed"] += row["error"] is not None
        total["attempts"] += row["attempts"]
        cost += row["cost"]
        for name in ("prompt_tokens", "completion_tokens"):
            total[name] += row["usage"].get(name, 0)
    return {**total, "cost": round(cost, 6)}


def refuse_silence(rows: Iterable[dict[str, Any]], allowed_share: float) -> None:
    """UserError where more than a share of the calls have no answer: left unfinished, the next run can mend them."""
    all_rows = list(rows)
    silent = [row for row in all_rows if row["error"]]
    if len(silent) > allowed_share * len(all_rows):
        raise UserError(
            f"{len(silent)} of {len(all_rows)} calls had no answer, the last with: {silent[-1]['error']}; run again to "
            "try those once more, or raise allow_failed to go on without them"
        )


class _Calls:
    """One `run_calls`: workers that share a queue, so that there is no barrier between a call and its repair."""

    def __init__(self, chat: ChatModel, journal: Journal, description: str, follow_up: FollowUp | None) -> None:
        self.chat = chat
        self.journal = journal
        self.description = description
        self.follow_up = follow_up
        self.done = journal.done()
        self.queue: deque[ChatRequest] = deque()
        self.rows: dict[str, dict[str, Any]] = {}
        self.asleep: list[asyncio.Future[None]] = []
        self.busy = 0
        self.failures = 0
        self.stop: UserError | None = None

    async def run(
        self, requests: list[ChatRequest], concurrency: int, *, credentialed: bool
    ) -> dict[str, dict[str, Any]]:
        from medsmith.progress import Bar

        if isinstance(self.chat, MeteredChat):
            if credentialed:
                self.chat.refuse_remote()
            self.chat.count_earlier(self.journal.spent_attempts, self.journal.spent_cost)
        unique = {request.id: request for request in requests}
        with Bar(self.description, len(unique), "calls") as self.bar:
            for request in unique.values():
                self._offer(request)
            try:
                async with asyncio.TaskGroup() as workers:
                    # Twice as many as may be in flight, so that a call waiting for its retry holds nobody up.
                    for _ in range(min(2 * concurrency, len(self.queue))):
                        workers.create_task(self._work())
            finally:
                if isinstance(self.chat, MeteredChat):
                    await self.chat.close()
        if self.stop is not None:
            left = sum(not row for row in self.rows.values())
            raise type(self.stop)(f"{self.stop} ({left} calls left)")
        return dict(sorted(self.rows.items()))

    def _offer(self, request: ChatRequest) -> None:
        """Queue a request, or take its row from the journal and go on to what follows it."""
        follow: ChatRequest | None = request
        while follow is not None and follow.id not in self.rows:
            row = self.done.get(follow.id)
            self.rows[follow.id] = row or {}
            if row is None:
                self.queue.append(follow)
                return
            follow = self.follow_up(follow, row) if self.follow_up else None
        self.bar.advance()

    async def _work(self) -> None:
        while self.stop is None and (self.queue or self.busy):
            if not self.queue:
                # A busy worker may still queue a repair.
                self.asleep.append(asyncio.get_running_loop().create_future())
                await self.asleep[-1]
                continue
            self.busy += 1
            try:
                await self._call(self.queue.popleft())
            finally:
                self.busy -= 1
                for wake in self.asleep:
                    if not wake.done():
                        wake.set_result(None)
                self.asleep.clear()

    async def _call(self, request: ChatRequest) -> None:
        try:
            row = _row(request, await self.chat.complete(request), None)
        except ChatError as error:
            row = _row(request, None, error)
        except UserError as error:
            self.stop = self.stop or error
            if isinstance(error, BudgetReached) and error.attempts:
                # What its attempts have used is on record; the next run makes the call again.
                self.journal.append(
                    _row(request, None, ChatError(str(error), attempts=error.attempts, cost=error.cost))
                )
            return
        self.journal.append(row)
        self.rows[request.id] = row
        self.failures = self.failures + 1 if row["error"] else 0
        if self.failures >= FAILURES_IN_A_ROW:
            self.stop = self.stop or UserError(
                f"{self.failures} calls in a row failed, the last with: {row['error']}; finished calls are kept: mend "
                "the teacher and run again to continue"
            )
        follow = self.follow_up(request, row) if self.follow_up else None
        if follow is None:
            self.bar.advance()
        else:
            self._offer(follow)


def _row(request: ChatRequest, reply: ChatReply | None, error: ChatError | None) -> dict[str, Any]:
    return {
        "id": request.id,
        "model": reply.model if reply else None,
        "texts": reply.texts if reply else None,
        "usage": reply.usage if reply else {},
        "attempts": reply.attempts if reply else error.attempts if error else 1,
        "seconds": round(reply.seconds, 3) if reply else 0.0,
        "cost": reply.cost if reply else error.cost if error else 0.0,
        "finish": reply.finish if reply else [],
        "error": str(error) if error else None,
        "final": error.final if error else True,
        "about": request.about,
        "request": {
            "messages": list(request.messages),
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "n": request.n,
            "response_schema": request.response_schema,
        },
    }

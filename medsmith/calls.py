"""Many calls against one journal: each request is called once, and never again after a restart."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

from medsmith.chat import (
    BulkChat,
    Chat,
    ChatError,
    ChatModel,
    ChatReply,
    ChatRequest,
    Lane,
    MeteredChat,
    StartsAttempts,
    Stoppable,
    Teachers,
    TellsProgress,
)
from medsmith.errors import UserError
from medsmith.ids import IdSet
from medsmith.journal import Journal, Spent
from medsmith.limits import BudgetReached, Stopped
from medsmith.machine import seldom_collected
from medsmith.replies import is_refusal, settle

FAILURES_IN_A_ROW = 24
"""So many calls in a row that failed although each was tried again: the teacher is down, and the run stops."""

WORKERS_PER_PLACE = 4
"""Calls begun for each that may be in flight, so that those waiting for their retry hold nobody up."""

LOOK_AHEAD = 1024
"""The most requests that wait for one teacher. Beyond, the others wait for it: their shares are fixed, so that no time
is lost, for the slowest teacher always has work and the run cannot end before it."""

TURN_SECONDS = 0.05
"""How long requests are pulled at a stretch before the calls in flight have their turn."""

FollowUp = Callable[[ChatRequest, dict[str, Any]], ChatRequest | Sequence[ChatRequest] | None]


def run_calls(
    requests: Iterable[ChatRequest],
    chat: Chat | Teachers,
    journal: Journal,
    concurrency: int,
    description: str,
    *,
    follow_up: FollowUp | None = None,
    total: int | None = None,
    refusals: bool = False,
) -> Mapping[str, dict[str, Any]]:
    """Call every request that the journal does not hold, once, and return the rows of all by id.

    `requests` may be a generator of millions: they are pulled as they are needed, and neither they nor their rows are
    kept. `total` is their number where it is known and they have no length. Equal ids are one call. The rows are read
    from the journal when they are looked at; `.values()` reads it once, in the order in which calls were answered.

    A row is {id, teacher, model, texts | None, usage, attempts, seconds, cost, finish, error | None, final, about,
    request}, and `reasoning` beside texts that have some. A call that failed has its error in its row (`final`: the
    endpoint refused this very call); the next run makes it again, because what refused may have been mended.
    `follow_up` sees each request with its row once, new or from the journal, in any order, and may answer with more
    requests (a repair, say), which go before new ones.

    A text that declines to answer is no answer: its call failed, and the row has what was said as `declined`. With
    `refusals` it is one, as of a model that is evaluated.

    Each of several teachers has its own calls in flight (its own `concurrency`). Where the money of one is used up the
    others go on; where one refuses all calls or is down, all stop. Ctrl-C cancels the calls in flight; those finished
    are in the journal.

    Raises:
        UserError: a budget is reached, a teacher refuses all calls (key, model), or it is down.
    """
    if total is None and isinstance(requests, Sized):
        total = len(requests)
    calls = _Calls(requests, chat, journal, concurrency, follow_up, refusals=refusals)
    with seldom_collected():
        return asyncio.run(calls.run(description, total))


class Summary:
    """Totals over journal rows that are added one by one, so that one pass over a large journal gives all."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.counts = dict.fromkeys(("calls", "failed", "attempts", "prompt_tokens", "completion_tokens"), 0)
        self.cost = 0.0
        self.cut = 0
        """Calls with an answer that was cut at max_tokens."""
        self.last_error = ""
        self.models: set[str] = set()

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> Summary:
        """The totals of these rows."""
        summary = cls()
        for row in rows:
            summary.add(row)
        return summary

    def add(self, row: dict[str, Any]) -> None:
        """Count a row."""
        counts = self.counts
        counts["calls"] += 1
        counts["attempts"] += row["attempts"]
        for name in ("prompt_tokens", "completion_tokens"):
            counts[name] += row["usage"].get(name, 0)
        self.cost += row["cost"]
        if row["model"]:
            self.models.add(row["model"])
        if row["error"]:
            counts["failed"] += 1
            self.last_error = row["error"]
        self.cut += "length" in row["finish"]

    def facts(self) -> dict[str, Any]:
        """Calls, failed, attempts, prompt_tokens, completion_tokens, cost."""
        return {**self.counts, "cost": round(self.cost, 6)}

    @property
    def cut_note(self) -> str:
        """What to say of answers that were cut, behind why nothing came of them; nothing where none was."""
        return f"; {self.cut} of {self.counts['calls']} answers were cut at max_tokens: raise it" if self.cut else ""

    def refuse_silence(self, allowed_share: float) -> None:
        """UserError where more than a share of the calls have no answer: the next run can mend them."""
        calls, failed = self.counts["calls"], self.counts["failed"]
        if failed > allowed_share * calls:
            raise UserError(
                f"{failed} of {calls} calls had no answer, the last with: {self.last_error}; run again to "
                "try those once more, or raise allow_failed to go on without them"
            )


class _Queue:
    """What waits for one teacher, and the workers that take it."""

    def __init__(self, lane: Lane) -> None:
        self.chat = lane.chat
        self.bulk = isinstance(lane.chat, BulkChat)
        self.most_workers = 1 if self.bulk else WORKERS_PER_PLACE * lane.concurrency
        self.look_ahead = max(LOOK_AHEAD, lane.chat.bulk_size if isinstance(lane.chat, BulkChat) else 0)
        self.repairs: deque[ChatRequest] = deque()
        self.fresh: deque[ChatRequest] = deque()
        self.full = False
        self.workers = 0
        self.failures = 0
        self.spent: BudgetReached | None = None


class _Calls:
    """One `run_calls`: workers that pull requests, so that there is no barrier between a call and its repair."""

    def __init__(
        self,
        requests: Iterable[ChatRequest],
        chat: Chat | Teachers,
        journal: Journal,
        concurrency: int,
        follow_up: FollowUp | None,
        *,
        refusals: bool,
    ) -> None:
        self.requests: Iterator[ChatRequest] | None = iter(requests)
        self.journal = journal
        self.done = journal.done()
        self.follow_up = follow_up
        self.refusals = refusals
        lanes = chat.lanes if isinstance(chat, Teachers) else {"": Lane(chat, concurrency)}
        self.several = isinstance(chat, Teachers)
        self.queues = {name: _Queue(lane) for name, lane in lanes.items()}
        self.seen = IdSet()
        self.repairing: set[str] = set()
        self.finished = 0
        self.stop: UserError | None = None

    async def run(self, description: str, total: int | None) -> Mapping[str, dict[str, Any]]:
        from medsmith.progress import Bar

        for name, queue in self.queues.items():
            self._open(name, queue)
        with Bar(description, total, "calls") as self.bar:
            try:
                async with asyncio.TaskGroup() as self.tasks:
                    for queue in self.queues.values():
                        for _ in range(min(queue.most_workers, total or queue.most_workers)):
                            self._hire(queue)
            except BaseExceptionGroup as group:
                # Whoever catches an error expects it as it was raised.
                raise group.exceptions[0] from None
            finally:
                for queue in self.queues.values():
                    if isinstance(queue.chat, MeteredChat):
                        await queue.chat.close()
        stop = self.stop or next((queue.spent for queue in self.queues.values() if queue.spent), None)
        if stop is not None:
            left = f" ({total - self.finished} calls left)" if total is not None else ""
            raise type(stop)(f"{stop}{left}")
        return self.journal.rows_of(self.seen)

    def _open(self, name: str, queue: _Queue) -> None:
        if isinstance(queue.chat, MeteredChat):
            queue.chat.refuse_remote()
            spent = Spent(self.journal.spent_attempts, self.journal.spent_cost)
            if self.several:
                spent = self.journal.spent.get(name, Spent())
            queue.chat.count_earlier(spent.attempts, spent.cost)
        if isinstance(queue.chat, TellsProgress):
            queue.chat.tell_progress(lambda note: self.bar.advance(0, note))
        if isinstance(queue.chat, StartsAttempts):
            queue.chat.record_starts(lambda key, bound: self.journal.start(key, bound, name))

    def _queue(self, request: ChatRequest) -> _Queue:
        return self.queues[request.teacher if self.several else ""]

    def _hire(self, queue: _Queue) -> None:
        if queue.workers < queue.most_workers:
            queue.workers += 1
            self.tasks.create_task(self._work_in_bulk(queue) if queue.bulk else self._work(queue))

    async def _work(self, queue: _Queue) -> None:
        assert isinstance(queue.chat, ChatModel), "a lane that is not bulk calls one by one"
        complete = queue.chat.complete
        try:
            while (request := await self._next(queue)) is not None:
                try:
                    answer: ChatReply | ChatError = await complete(request)
                except ChatError as error:
                    answer = error
                except Stopped as error:
                    if error.attempts:
                        # What its attempts have used is on record; the next run makes the call again.
                        failure = ChatError(str(error), attempts=error.attempts, cost=error.cost)
                        self.journal.append(_row(request, failure, refusals=True))
                    raise
                self._keep(queue, request, answer)
        except UserError as error:
            self._end(queue, error)
        finally:
            queue.workers -= 1

    async def _work_in_bulk(self, queue: _Queue) -> None:
        assert isinstance(queue.chat, BulkChat), "a lane that is bulk calls many at once"
        try:
            while True:
                taken: list[ChatRequest] = []
                while len(taken) < queue.chat.bulk_size and (request := await self._next(queue)) is not None:
                    taken.append(request)
                if not taken:
                    return
                await queue.chat.complete_all(taken, lambda request, answer: self._keep(queue, request, answer))
        except UserError as error:
            self._end(queue, error)
        finally:
            queue.workers -= 1

    def _end(self, queue: _Queue, error: UserError) -> None:
        """End a lane whose budget is used up, beside others that go on; for any other reason end them all."""
        if isinstance(error, BudgetReached) and self.several:
            queue.spent = queue.spent or error
            queue.fresh.clear()
            queue.repairs.clear()
            queue.full = False
            self._hire_all()
        else:
            self._stop_all(error)

    def _stop_all(self, error: UserError) -> None:
        if self.stop is None:
            self.stop = error
            # Those that wait need not hear it from the endpoint, one by one.
            for queue in self.queues.values():
                if isinstance(queue.chat, Stoppable):
                    queue.chat.stop(str(error))

    async def _next(self, queue: _Queue) -> ChatRequest | None:
        """The next request of a teacher: what follows an answer first, then what waits, then new ones."""
        until = time.monotonic() + TURN_SECONDS
        while self.stop is None and queue.spent is None:
            if queue.repairs:
                return queue.repairs.popleft()
            if queue.fresh:
                request = queue.fresh.popleft()
                if queue.full and 2 * len(queue.fresh) <= queue.look_ahead:
                    queue.full = False
                    self._hire_all()
                return request
            if self.requests is None or any(one.full for one in self.queues.values()):
                return None
            new = next(self.requests, None)
            if new is None:
                self.requests = None
            else:
                self._offer(new, fresh=True)
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + TURN_SECONDS
        return None

    def _hire_all(self) -> None:
        for queue in self.queues.values():
            for _ in range(queue.most_workers - queue.workers):
                self._hire(queue)

    def _offer(self, request: ChatRequest, *, fresh: bool) -> None:
        """Queue a request, or take its row from the journal and go on to what follows it."""
        if not self.seen.add(request.id):
            self._count(fresh)
            return
        row = self.done.get(request.id)
        if row is not None and (self.refusals or not _declines(row["texts"])):
            self._count(fresh)
            self._follow(request, row)
            return
        queue = self._queue(request)
        if queue.spent is not None:
            return
        if not fresh:
            self.repairing.add(request.id)
        (queue.fresh if fresh else queue.repairs).append(request)
        queue.full = queue.full or len(queue.fresh) >= queue.look_ahead
        self._hire(queue)

    def _count(self, fresh: bool) -> None:
        """Count a request as finished, if it is one of those that were given and no repair."""
        if fresh:
            self.finished += 1
            self.bar.advance()

    def _follow(self, request: ChatRequest, row: dict[str, Any]) -> None:
        follow = self.follow_up(request, row) if self.follow_up else None
        for one in [follow] if isinstance(follow, ChatRequest) else follow or ():
            self._offer(one, fresh=False)

    def _keep(self, queue: _Queue, request: ChatRequest, answer: ChatReply | ChatError) -> None:
        row = _row(request, answer, refusals=self.refusals)
        self.journal.append(row)
        queue.failures = queue.failures + 1 if row["error"] else 0
        self._count(request.id not in self.repairing)
        self.repairing.discard(request.id)
        if queue.failures >= FAILURES_IN_A_ROW:
            self._stop_all(
                UserError(
                    f"{queue.failures} calls in a row failed, the last with: {row['error']}; finished calls are kept: "
                    "mend the teacher and run again to continue"
                )
            )
        self._follow(request, row)


def _declines(texts: Sequence[str] | None) -> bool:
    return bool(texts) and all(map(is_refusal, texts or ()))


def _row(request: ChatRequest, answer: ChatReply | ChatError, *, refusals: bool) -> dict[str, Any]:
    # Here pass the answers of all engines, so that nobody else need know of reasoning and of halves of characters.
    if isinstance(answer, ChatReply):
        answer = settle(answer, request.max_tokens)
    declined = {}
    if isinstance(answer, ChatReply) and not refusals and _declines(answer.texts):
        declined = {"declined": answer.texts}
        answer = ChatError("it declined to answer, in words", final=True, attempts=answer.attempts, cost=answer.cost)
    reply = answer if isinstance(answer, ChatReply) else None
    error = answer if isinstance(answer, ChatError) else None
    return {
        "id": request.id,
        "teacher": request.teacher,
        "model": reply.model if reply else None,
        "texts": reply.texts if reply else None,
        "usage": reply.usage if reply else {},
        "attempts": answer.attempts,
        "seconds": round(reply.seconds, 3) if reply else 0.0,
        "cost": answer.cost,
        "finish": reply.finish if reply else [],
        **({"reasoning": reply.reasoning} if reply and any(reply.reasoning) else declined),
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

"""The OpenAI Batch API as a chat model: answered within a day, for less (`price.batch_factor`, as a rule a half).

Requests are written to files of at most `teacher.batch_requests` lines, uploaded, and submitted as batches that are
looked at with growing pauses. `raw/batches.jsonl` holds a line before and after each step: after a kill at any moment
the next run looks for what was submitted, takes it up where it is, and pays for nothing twice. A batch that expires,
fails or is cancelled leaves the answers that it has; its other calls are errors, which the next run makes again.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsmith.batch_api import SETTLE_SECONDS, BatchApi, open_api
from medsmith.batch_book import CREATED, DONE, STORED, UPLOADED, VOID, Batch, BatchBook, read_lines
from medsmith.chat import ChatError, ChatReply, ChatRequest
from medsmith.errors import UserError
from medsmith.limits import BudgetReached
from medsmith.llm import TeacherConfig
from medsmith.openai_chat import TRY_AGAIN, OpenAIChat
from medsmith.replies import read_choice, read_usage, reply_of, whole_number

MOST_BYTES = 190_000_000
"""Of an input file; the API takes 200 MB."""
AT_A_TIME = 4
"""Batches under way at once."""
LOST_BATCHES = 8
"""So many that were submitted and are unknown to the endpoint end the run; else it would submit them for ever."""
LONGEST_PAUSE_SECONDS = 60.0
LONGEST_LOCAL_PAUSE_SECONDS = 2.0
ENDED = {"completed", "failed", "expired", "cancelled"}

Done = Callable[[ChatRequest, ChatReply | ChatError], None]
Sleep = Callable[[float], Awaitable[None]]


class BatchChat:
    """A BulkChat over the files and batches of an OpenAI-compatible endpoint."""

    bulk_size = 100_000

    def __init__(
        self,
        base_url: str,
        config: TeacherConfig,
        folder: Path,
        *,
        transport: Any = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`folder` is the run's. `transport` (an httpx2 one) and `sleep` are given by tests.

        Raises:
            UserError: the variable of `api_key_env` is empty, or a remote endpoint has none named.
        """
        self.base_url = base_url
        self.config = config
        self.book = BatchBook(folder / "raw", config.name)
        self.kept: dict[str, tuple[Batch, int, bool]] = {}
        """Answers on disk that nobody has asked for yet: id → (batch, offset in its output, is it charged?)."""
        self.left: Counter[str] = Counter()
        """How many of them there are, by the key of their batch."""
        self.http = OpenAIChat(base_url, config, transport=transport, sleep=sleep)
        self.budget = self.http.budget
        self.sleep = sleep
        self.note: Callable[[str], None] = lambda text: None

    def tell_progress(self, note: Callable[[str], None]) -> None:
        """From now on say by `note` how far the batches are."""
        self.note = note

    def count_earlier(self, attempts: int, cost: float) -> None:
        """Charge the budget with what an earlier try has spent."""
        self.http.count_earlier(attempts, cost)

    def refuse_remote(self) -> None:
        """Raise a UserError unless data under a use agreement may go to this endpoint."""
        self.http.refuse_remote()

    async def close(self) -> None:
        """Nothing is left open between two bulks."""

    async def complete_all(self, requests: Sequence[ChatRequest], done: Done) -> None:
        """Submit what no batch holds yet, wait, and call `done` once for each request.

        Raises:
            UserError: the endpoint refuses or cannot be reached, or the budget is reached; batches under way go on.
        """
        async with open_api(self.http, self.book) as api:
            await _Bulk(self, api, requests, done).run()

    def bound(self, request: ChatRequest) -> float:
        """The most that a request may cost."""
        price = self.http.price
        return price.batch_factor * self.http.bound_cost(request, request.n) if price else 0.0

    def cost(self, line: dict[str, Any], batch: Batch) -> float:
        """What a line of an output file did cost: nothing where it failed, its share of the bound without usage."""
        response = _response(line)
        price = self.http.price
        if response.get("status_code") != 200 or price is None:
            return 0.0
        body = response.get("body")
        used = read_usage(body.get("usage")) if isinstance(body, dict) else None
        return batch.bound / batch.requests if used is None else price.cost(*used, batch=True)

    def line(self, request: ChatRequest) -> bytes:
        """A request as a line of an input file."""
        body = self.http.build_body(request, request.n)
        row = {"custom_id": request.id, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(row, ensure_ascii=False).encode("utf-8", errors="surrogatepass") + b"\n"


class _Bulk:
    """One `complete_all`."""

    def __init__(self, chat: BatchChat, api: BatchApi, requests: Sequence[ChatRequest], done: Done) -> None:
        self.chat = chat
        self.api = api
        self.book = chat.book
        self.budget = chat.budget
        self.done = done
        self.waiting = {request.id: request for request in requests}
        self.queue: deque[ChatRequest] = deque()
        self.under_way: dict[str, tuple[Batch, set[str]]] = {}
        self.lost = 0

    async def run(self) -> None:
        for key in [key for key in self.waiting if key in self.chat.kept]:
            self._hand_over_kept(key)
        for batch in self.book.open_batches():
            await self._take_up(batch)
        held = {key for _, ids in self.under_way.values() for key in ids}
        self.queue.extend(request for key, request in self.waiting.items() if key not in held)
        pause = self.chat.config.retry_seconds
        longest = LONGEST_LOCAL_PAUSE_SECONDS if self.chat.http.local else LONGEST_PAUSE_SECONDS
        while self.queue or self.under_way:
            while self.queue and len(self.under_way) < AT_A_TIME and await self._submit():
                pause = self.chat.config.retry_seconds
            await self.chat.sleep(pause)
            pause = min(longest, 1.5 * pause)
            await self._look()
        assert not self.waiting, "a request was neither answered nor failed"

    async def _take_up(self, batch: Batch) -> None:
        """Go on with a batch of an earlier try, wherever it was left."""
        if batch.state == STORED:
            if batch.key not in self.chat.left:
                self._hand_over(batch, fresh=False)
            return
        if batch.state != CREATED:
            await self.chat.sleep(SETTLE_SECONDS)
            found = await self.api.find(batch)
            if found is None:
                await self.api.delete(batch.input_file)
                self.book.write(batch.now(VOID))
                return
            batch = self.book.write(batch.now(CREATED, id=found))
        self.budget.requests += batch.requests
        self.budget.reserved += batch.bound
        self.under_way[batch.key] = (batch, self.book.ids(batch))

    async def _submit(self) -> bool:
        """Submit a batch of the first requests in the queue; False where the budget holds it back for now."""
        batch, ids = self._prepare()
        if not ids:
            if not self.under_way:
                raise BudgetReached(
                    f"the next call fits neither {self.budget.max_requests} requests nor a cost of "
                    f"{self.budget.max_cost} any more ({self.budget.requests} and {self.budget.cost:.4f} are spent); "
                    "finished calls are kept: raise teacher.budget and run again to continue"
                )
            return False
        batch = self.book.write(batch)
        batch = self.book.write(batch.now(UPLOADED, input_file=await self.api.upload(self.book.file(batch, "input"))))
        batch = self.book.write(batch.now(CREATED, id=await self.api.create(batch)))
        self.under_way[batch.key] = (batch, ids)
        return True

    def _prepare(self) -> tuple[Batch, set[str]]:
        """Write as many requests as fit a file and the budget, and reserve what they may cost."""
        batch = Batch(uuid.uuid4().hex, self.book.teacher, 0, 0.0)
        ids: set[str] = set()
        size, bound = 0, 0.0
        path = self.book.file(batch, "input")
        with path.open("wb") as file:
            while self.queue and len(ids) < self.chat.config.batch_requests:
                line, more = self.chat.line(self.queue[0]), self.chat.bound(self.queue[0])
                if (ids and size + len(line) > MOST_BYTES) or not self._fits(len(ids) + 1, bound + more):
                    break
                file.write(line)
                size, bound = size + len(line), bound + more
                ids.add(self.queue.popleft().id)
        if not ids:
            path.unlink()
        self.budget.requests += len(ids)
        self.budget.reserved += bound
        return replace(batch, requests=len(ids), bound=bound), ids

    def _fits(self, requests: int, bound: float) -> bool:
        budget = self.budget
        if budget.max_requests is not None and budget.requests + requests > budget.max_requests:
            return False
        return budget.max_cost is None or budget.cost + budget.reserved + bound <= budget.max_cost

    async def _look(self) -> None:
        """Ask how far the batches are, and collect those that have ended."""
        finished = total = 0
        for batch, ids in list(self.under_way.values()):
            remote = await self.api.look(batch)
            if remote is None:
                self.lost += 1
                if self.lost == LOST_BATCHES:
                    raise UserError(
                        f"{self.chat.base_url} has lost {self.lost} batches of this run; use engine=local with it"
                    )
                self._take_back(batch, ids)
            elif remote.status in ENDED:
                await self._collect(batch, ids, remote)
            elif remote.request_counts is not None:
                finished += remote.request_counts.completed
                total += remote.request_counts.total
        if self.under_way:
            self.chat.note(f"{finished} of {total} answered in {len(self.under_way)} batches under way")

    async def _collect(self, batch: Batch, ids: set[str], remote: Any) -> None:
        """Bring the answers of a batch here, and those that asked to their answers."""
        problems = remote.errors.data or [] if remote.errors else []
        if len(self.under_way) > 1 and any(problem.code == "token_limit_exceeded" for problem in problems):
            # There is room again as soon as another one has ended.
            await self.api.delete(batch.input_file)
            self._take_back(batch, ids)
            return
        await self.api.fetch(remote.output_file_id, self.book.file(batch, "output"))
        await self.api.fetch(remote.error_file_id, self.book.file(batch, "errors"))
        batch = self.book.write(batch.now(STORED, status=remote.status))
        await self.api.delete(batch.input_file, remote.output_file_id, remote.error_file_id)
        del self.under_way[batch.key]
        self.budget.settle(batch.bound, 0.0)
        self._hand_over(batch, fresh=True)
        said = f": {problems[0].code}: {problems[0].message}" if problems else ""
        said += "; lower teacher.batch_requests" if "token_limit_exceeded" in said else ""
        for key in ids & self.waiting.keys():
            error = f"batch {batch.id} is {batch.status} and has no answer{said}"
            self.done(self.waiting.pop(key), ChatError(error))

    def _take_back(self, batch: Batch, ids: set[str]) -> None:
        """Queue the requests of a batch that never ran."""
        del self.under_way[batch.key]
        self.budget.requests -= batch.requests
        self.budget.settle(batch.bound, 0.0)
        self.book.write(batch.now(VOID))
        self.queue.extend(self.waiting[key] for key in ids & self.waiting.keys())

    def _hand_over(self, batch: Batch, *, fresh: bool) -> None:
        """Give every answer of a stored batch to whom it belongs; keep those that nobody asks for yet.

        `fresh`: it was collected just now, so that its costs and its errors are news.
        """
        seen: set[str] = set()
        for offset, line in read_lines(self.book.file(batch, "output")):
            key = str(line.get("custom_id"))
            if key in seen:
                continue
            seen.add(key)
            if fresh:
                self.budget.settle(0.0, self.chat.cost(line, batch))
            if key in self.waiting:
                self._answer(batch, line, charged=fresh)
            else:
                self.chat.kept[key] = (batch, offset, fresh)
                self.chat.left[batch.key] += 1
        for _, line in read_lines(self.book.file(batch, "errors")) if fresh else ():
            if str(line.get("custom_id")) in self.waiting:
                self._answer(batch, line, charged=True)
        if not self.chat.left[batch.key]:
            self.book.write(batch.now(DONE))

    def _hand_over_kept(self, key: str) -> None:
        batch, offset, charged = self.chat.kept.pop(key)
        with self.book.file(batch, "output").open("rb") as file:
            file.seek(offset)
            line = json.loads(file.readline())
        self._answer(batch, line, charged=charged)
        self.chat.left[batch.key] -= 1
        if not self.chat.left[batch.key]:
            self.book.write(batch.now(DONE))

    def _answer(self, batch: Batch, line: dict[str, Any], *, charged: bool) -> None:
        request = self.waiting.pop(line["custom_id"])
        cost = self.chat.cost(line, batch)
        if not charged:
            self.budget.requests += 1
            self.budget.settle(0.0, cost)
        self.done(request, read_answer(request, line, self.chat.config.model, cost))


def _response(line: dict[str, Any]) -> dict[str, Any]:
    response = line.get("response")
    return response if isinstance(response, dict) else {}


def read_answer(request: ChatRequest, line: dict[str, Any], model: str, cost: float) -> ChatReply | ChatError:
    """One line of an output or error file as the answer to its request."""
    response = _response(line)
    status = whole_number(response.get("status_code")) or 0
    if status != 200:
        said = line.get("error") or response.get("body")
        said = said if isinstance(said, dict) else {"message": said}
        reason = f"HTTP {status}" if status else f"{said.get('code')}"
        text = " ".join(json.dumps(said.get("error") or said.get("message") or said).split())[:300]
        final = 400 <= status < 500 and status not in TRY_AGAIN
        return ChatError(f"{reason}: {text}", final=final, cost=cost)
    body: Any = response.get("body")
    try:
        said_by_choice = [read_choice(choice) for choice in body["choices"][: request.n]]
    except (KeyError, TypeError, AttributeError):
        return ChatError(f"not a chat completion: {json.dumps(body)[:200]}", cost=cost)
    if len(said_by_choice) < request.n:
        reason = f"{len(said_by_choice)} of {request.n} texts: the endpoint ignores n in batches; use engine=local"
        return ChatError(reason, final=True, cost=cost)
    return reply_of(said_by_choice, read_usage(body.get("usage")), str(body.get("model") or model), cost=cost)

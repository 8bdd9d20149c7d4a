"""Chat requests spread over the workers of a Ray cluster; answers come to this process, which owns journal and budget.

With an address (`teacher.base_url` or `serve`) each worker is a client with its part of the concurrency and the rates.
Without one each is a vLLM engine with its own GPUs (`teacher.vllm`). Chunks go to whoever is free; the chunk of a
worker that is lost goes to another, and a new worker takes its place. Each chunk carries its part of the budget, so
that all workers together never pass it.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from medsmith.chat import ChatError, ChatReply, ChatRequest
from medsmith.errors import UserError
from medsmith.limits import Budget, BudgetReached
from medsmith.llm import BudgetConfig, TeacherConfig, is_loopback
from medsmith.ray_worker import Answers, HttpWorker, Share, Unmade, VllmWorker
from medsmith.spread import ray_cluster

CALLS_PER_WORKER = 64
"""Calls in flight that one client process serves well; more calls make more workers."""
LOST_CHUNKS = 3
"""So many workers may be lost over a call before it is given up: it may be what ends them."""
FAILURES_IN_A_ROW = 24
"""As in medsmith.calls: the teacher is down, no further chunk is sent."""

Done = Callable[[ChatRequest, ChatReply | ChatError], None]


@dataclass
class _Worker:
    """An actor; it is ready once it has answered."""

    actor: Any
    chunks: int = 0


@dataclass(frozen=True)
class _Chunk:
    """Requests that are with a worker, and the part of the budget that is held back for them."""

    worker: _Worker
    requests: list[ChatRequest]
    share: Share
    bounds: float


@dataclass
class _Tried:
    """What a request had used before it is sent again."""

    attempts: int = 0
    cost: float = 0.0
    lost: int = 0


@dataclass
class _Pool:
    """The workers of one cluster."""

    make: Callable[[], Any]
    wanted: int
    depth: int
    """Chunks that a worker may have at a time."""
    chunk: int
    ready: list[_Worker] = field(default_factory=list)
    starting: dict[asyncio.Future[Any], _Worker] = field(default_factory=dict)


class RayChat:
    """A BulkChat over a Ray cluster."""

    bulk_size = 8192

    def __init__(self, base_url: str | None, config: TeacherConfig, address: str | None = None) -> None:
        """`base_url` None: the workers compute with vLLM. `address` None: RAY_ADDRESS, or a cluster of this machine.

        Raises:
            UserError: the variable of `api_key_env` is empty, or a remote endpoint has none named.
        """
        self.base_url = base_url
        self.config = config
        self.address = address
        self.budget = Budget(config.budget.max_requests, config.budget.max_cost)
        self._http: Any = None
        if base_url is not None:
            from medsmith.openai_chat import OpenAIChat

            self._http = OpenAIChat(base_url, config)
        self._record: Callable[[str, float], None] | None = None
        self._stack = ExitStack()
        self._ray: Any = None
        self._pool: _Pool | None = None

    def count_earlier(self, attempts: int, cost: float) -> None:
        """Charge the budget with what an earlier try has spent."""
        self.budget.requests += attempts
        self.budget.cost += cost

    def record_starts(self, record: Callable[[str, float], None]) -> None:
        """Say of each request that is sent out what it may cost, if there is a budget to keep."""
        self._record = record if self.budget.limited else None

    def refuse_remote(self) -> None:
        """Raise a UserError unless data under a use agreement may go to the endpoint."""
        if self._http is not None:
            self._http.refuse_remote()

    async def close(self) -> None:
        """End the workers, and the cluster if it is ours."""
        if self._pool is not None:
            for future in self._pool.starting:
                future.cancel()
            for worker in [*self._pool.ready, *self._pool.starting.values()]:
                self.kill(worker)
            self._pool = None
        self._stack.close()

    async def complete_all(self, requests: Sequence[ChatRequest], done: Done) -> None:
        """Have all requests answered by the workers.

        Raises:
            UserError: no worker can be had, no call can succeed, or the budget is reached.
        """
        if self._pool is None:
            self._pool = self._open()
        await _Spread(self, self._pool, requests, done).run()

    def bound(self, request: ChatRequest) -> float:
        """The most that one attempt may cost."""
        return float(self._http.bound_cost(request, request.n)) if self._http and self._http.price else 0.0

    def note_start(self, request: ChatRequest, bound: float) -> None:
        """Note that a request is sent out, for the budget of a run after a kill."""
        if self._record is not None:
            self._record(request.id, bound)

    def watch(self, reference: Any) -> asyncio.Future[Any]:
        """A Ray reference as a future of this event loop."""
        return asyncio.wrap_future(reference.future())

    def kill(self, worker: _Worker) -> None:
        """Make sure that a worker is gone."""
        self._ray.kill(worker.actor)

    def _open(self) -> _Pool:
        config = self.config
        self._ray = self._stack.enter_context(ray_cluster(self.address, os.cpu_count()))
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        hosts = {node["NodeManagerAddress"] for node in nodes}
        if self.base_url is not None and is_loopback(self.base_url) and len(hosts) > 1:
            raise UserError(
                f"{self.base_url} is an address of this machine, and the Ray cluster has {len(hosts)}; start the "
                "server where all of them reach it and give that address as teacher.base_url"
            )
        have = self._ray.cluster_resources()
        if self.base_url is None:
            return self._vllm_pool(have, len(nodes))
        most = min(config.concurrency, max(1, int(have.get("CPU", 1))))
        wanted = min(most, max(len(nodes), -(-config.concurrency // CALLS_PER_WORKER)))
        key = os.environ.get(config.api_key_env) if config.api_key_env else None
        actor = self._ray.remote(HttpWorker).options(num_cpus=1, scheduling_strategy="SPREAD")
        part = _part(config, wanted)
        # Two chunks at a time, so that the end of one is no pause.
        chunk = max(1, min(256, 2 * part.concurrency))
        return _Pool(lambda: actor.remote(self.base_url, part, key), wanted, 2, chunk)

    def _vllm_pool(self, have: dict[str, float], nodes: int) -> _Pool:
        arguments = self.config.vllm or {}
        each = int(arguments.get("tensor_parallel_size", 1)) * int(arguments.get("pipeline_parallel_size", 1))
        gpus = int(have.get("GPU", 0))
        if 0 < gpus < each:
            raise UserError(f"teacher.vllm asks for {each} GPUs an engine, the Ray cluster has {gpus}")
        actor = self._ray.remote(VllmWorker).options(num_cpus=1, num_gpus=each if gpus else 0)
        config = self.config.model_copy(update={"budget": BudgetConfig()})
        return _Pool(lambda: actor.remote(config), gpus // each if gpus else nodes, 1, 1024)


def _part(config: TeacherConfig, workers: int) -> TeacherConfig:
    """The config of one of so many workers: its part of places and rates, and a budget that only chunks fill."""
    limit = config.budget
    return config.model_copy(
        update={
            "concurrency": max(1, config.concurrency // workers),
            "requests_per_minute": config.requests_per_minute and config.requests_per_minute / workers,
            "tokens_per_minute": config.tokens_per_minute and config.tokens_per_minute / workers,
            "budget": BudgetConfig(
                max_requests=None if limit.max_requests is None else 0, max_cost=None if limit.max_cost is None else 0.0
            ),
        }
    )


class _Spread:
    """One `complete_all`."""

    def __init__(self, chat: RayChat, pool: _Pool, requests: Sequence[ChatRequest], done: Done) -> None:
        self.chat = chat
        self.pool = pool
        self.budget = chat.budget
        self.done = done
        self.queue = deque(requests)
        self.tried: dict[str, _Tried] = {}
        self.flying: dict[asyncio.Future[Any], _Chunk] = {}
        self.failures = 0
        self.stop: UserError | None = None

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            for future in self.flying:
                future.cancel()
        self._write_off()
        if self.stop is not None:
            raise self.stop

    async def _run(self) -> None:
        while self.flying or (self.queue and self.stop is None):
            if self.stop is None:
                self._staff()
                self._hand_out()
            waiting = [*self.flying, *(() if self.stop else self.pool.starting)]
            if not waiting:
                break
            patience = None if self.pool.ready or self.flying else self.chat.config.serve_timeout_seconds
            ended, _ = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not ended:
                raise UserError(
                    f"no worker of the Ray cluster was ready within {patience:g} s; free some of its CPUs or GPUs, or "
                    "raise teacher.serve_timeout_seconds"
                )
            for future in ended:
                if future in self.flying:
                    self._land(future)
                else:
                    self._welcome(future)

    def _staff(self) -> None:
        """Start workers until there are as many as wanted."""
        while len(self.pool.ready) + len(self.pool.starting) < self.pool.wanted:
            worker = _Worker(self.pool.make())
            self.pool.starting[self.chat.watch(worker.actor.ready.remote())] = worker

    def _welcome(self, future: asyncio.Future[Any]) -> None:
        worker = self.pool.starting.pop(future)
        error = future.exception()
        if error is None:
            self.pool.ready.append(worker)
            return
        self.chat.kill(worker)
        said = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        self.stop = UserError(f"a worker of the Ray cluster cannot start: {said.strip()[:300]}")

    def _hand_out(self) -> None:
        """Give chunks to the workers that have the fewest, as far as the budget goes."""
        while self.queue and self.pool.ready:
            worker = min(self.pool.ready, key=lambda one: one.chunks)
            if worker.chunks >= self.pool.depth:
                return
            chunk = self._take(worker)
            if chunk is None:
                if not self.flying:
                    budget = self.budget
                    self.stop = BudgetReached(
                        f"the next call fits neither {budget.max_requests} requests nor a cost of {budget.max_cost} "
                        f"any more ({budget.requests} and {budget.cost:.4f} are spent); finished calls are kept: "
                        "raise teacher.budget and run again to continue"
                    )
                return
            worker.chunks += 1
            self.flying[self.chat.watch(worker.actor.answer.remote(chunk.requests, chunk.share))] = chunk

    def _take(self, worker: _Worker) -> _Chunk | None:
        """The next requests that the budget allows, with what is held back for them; None where it allows none."""
        budget = self.budget
        # Few requests that are left go to all workers rather than to the first.
        even = -(-len(self.queue) // (self.pool.depth * len(self.pool.ready)))
        size = max(1, min(self.pool.chunk, even))
        free = None if budget.max_requests is None else budget.max_requests - budget.requests
        taken: list[ChatRequest] = []
        bounds = 0.0
        while self.queue and len(taken) < (size if free is None else min(size, free)):
            more = self.chat.bound(self.queue[0])
            if budget.max_cost is not None and budget.cost + budget.reserved + bounds + more > budget.max_cost:
                break
            bounds += more
            taken.append(self.queue.popleft())
            self.chat.note_start(taken[-1], more)
        if not taken:
            return None
        # As many again for retries, where there is room.
        share = Share(None if free is None else min(free, 2 * len(taken)), None if budget.max_cost is None else bounds)
        budget.requests += share.requests or 0
        budget.reserved += bounds
        return _Chunk(worker, taken, share, bounds)

    def _land(self, future: asyncio.Future[Any]) -> None:
        chunk = self.flying.pop(future)
        chunk.worker.chunks -= 1
        error = future.exception()
        if error is not None:
            cause = getattr(error, "cause", None)
            if isinstance(cause, Exception):
                # The worker lives and says what is wrong: a bug, not a loss.
                raise cause
            self._lose(chunk, error)
            return
        answers: Answers = future.result()
        requests = {request.id: request for request in chunk.requests}
        used = sum(answer.attempts for _, answer in answers.by_id)
        self.budget.requests += used - (chunk.share.requests or 0)
        self.budget.settle(chunk.bounds, sum(answer.cost for _, answer in answers.by_id))
        self.stop = self.stop or answers.stop
        for key, answer in answers.by_id:
            if isinstance(answer, Unmade):
                tried = self.tried.setdefault(key, _Tried())
                tried.attempts += answer.attempts
                tried.cost += answer.cost
                self.queue.append(requests[key])
            else:
                self._answer(requests[key], answer)

    def _lose(self, chunk: _Chunk, error: BaseException | None) -> None:
        """The worker is gone, and with it what its attempts did: they count at the most that they may have cost."""
        if chunk.worker in self.pool.ready:
            self.pool.ready.remove(chunk.worker)
            self.chat.kill(chunk.worker)
        each = chunk.bounds / len(chunk.requests)
        self.budget.settle(chunk.bounds, chunk.bounds)
        if chunk.share.requests is None:
            self.budget.requests += len(chunk.requests)
        for request in chunk.requests:
            tried = self.tried.setdefault(request.id, _Tried())
            tried.attempts += (chunk.share.requests or len(chunk.requests)) // len(chunk.requests)
            tried.cost += each
            tried.lost += 1
            if tried.lost < LOST_CHUNKS:
                self.queue.appendleft(request)
            else:
                name = type(error).__name__
                self._answer(request, ChatError(f"{tried.lost} workers were lost over this call ({name})", attempts=0))

    def _answer(self, request: ChatRequest, answer: ChatReply | ChatError) -> None:
        tried = self.tried.pop(request.id, _Tried())
        if isinstance(answer, ChatReply):
            answer = replace(answer, attempts=answer.attempts + tried.attempts, cost=answer.cost + tried.cost)
        else:
            answer.attempts += tried.attempts
            answer.cost += tried.cost
        self.failures = self.failures + 1 if isinstance(answer, ChatError) else 0
        self.done(request, answer)
        if self.failures >= FAILURES_IN_A_ROW and isinstance(answer, ChatError):
            self.stop = self.stop or UserError(f"{self.failures} calls in a row failed, the last with: {answer}")

    def _write_off(self) -> None:
        """Put on record what was used by calls that the stop leaves unanswered; the next run makes them again."""
        for request in self.queue:
            if request.id in self.tried:
                self._answer(request, ChatError(f"not finished: {self.stop}", attempts=0))

"""Calls spread over workers: shares of the budget, lost workers, and a real two-node cluster on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from mediflow.prompt import request_block
from medsmith.chat import ChatError, ChatReply, ChatRequest
from medsmith.errors import UserError
from medsmith.limits import BudgetReached
from medsmith.llm import BudgetConfig, Journal, Price, TeacherConfig, open_teacher, run_calls
from medsmith.ray_chat import RayChat, _part, _Pool
from medsmith.ray_worker import HttpWorker
from medsmith.serve import local_server

LOCAL = "http://127.0.0.1:9/v1"
PRICE = Price(prompt_per_million=1e6, completion_per_million=1e6)
Answer = ChatReply | ChatError
ROOT = Path(__file__).parent.parent


def teacher(**settings: Any) -> TeacherConfig:
    return TeacherConfig(**{"base_url": LOCAL, "model": "m", "retry_seconds": 0.001, **settings})


def ask(config: TeacherConfig, count: int, **settings: Any) -> list[ChatRequest]:
    return [config.request([{"role": "user", "content": f"question {n}"}], **settings) for n in range(count)]


class Remote:
    """A method of an actor, called as Ray calls it."""

    def __init__(self, method: Callable[..., Coroutine[Any, Any, Any]], lost: Callable[[], bool]) -> None:
        self.method = method
        self.lost = lost

    def remote(self, *arguments: Any) -> Any:
        async def call() -> Any:
            # As over a wire: nothing that cannot be pickled comes through.
            answer = await self.method(*pickle.loads(pickle.dumps(arguments)))
            if self.lost():
                raise ConnectionError("the actor died")
            return pickle.loads(pickle.dumps(answer))

        return call()


class Cluster(RayChat):
    """Real workers in this process instead of on a cluster.

    Attributes:
        sent: the requests that reached the endpoint.
        made: how many workers were started.
        lose: numbers of the workers' chunks, counted over all of them, with which their worker dies.
    """

    def __init__(self, config: TeacherConfig, handle: Callable[[httpx2.Request], httpx2.Response], **pool: int) -> None:
        super().__init__(LOCAL, config)
        self.handle = handle
        self.settings = {"wanted": 2, "depth": 2, "chunk": 4} | pool
        self.sent: Counter[str] = Counter()
        self.made = self.chunks = self.killed = 0
        self.lose: set[int] = set()

    def _open(self) -> _Pool:
        return _Pool(self._make, self.settings["wanted"], self.settings["depth"], self.settings["chunk"])

    def _make(self) -> Any:
        self.made += 1
        worker = HttpWorker(LOCAL, _part(self.config, 2), None, httpx2.MockTransport(self._serve))
        return SimpleNamespace(
            ready=Remote(worker.ready, lambda: False), answer=Remote(worker.answer, self._next_is_lost)
        )

    def _serve(self, request: httpx2.Request) -> httpx2.Response:
        self.sent[json.loads(request.content)["messages"][0]["content"]] += 1
        return self.handle(request)

    def _next_is_lost(self) -> bool:
        self.chunks += 1
        return self.chunks in self.lose

    def watch(self, reference: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.ensure_future(reference)
        return future

    def kill(self, worker: Any) -> None:
        self.killed += 1


def good(request: httpx2.Request) -> httpx2.Response:
    asked = json.loads(request.content)
    choice = {"message": {"content": "re: " + asked["messages"][0]["content"]}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 5}
    return httpx2.Response(200, json={"model": "m-1", "choices": [choice], "usage": usage})


def answers(chat: RayChat, requests: Sequence[ChatRequest]) -> dict[str, Answer]:
    got: dict[str, Answer] = {}

    def done(request: ChatRequest, answer: Answer) -> None:
        assert request.id not in got, "answered twice"
        got[request.id] = answer

    async def run() -> None:
        try:
            await chat.complete_all(requests, done)
        except UserError as error:
            error.args = (*error.args, got)
            raise
        finally:
            await chat.close()

    asyncio.run(run())
    return got


def test_every_call_is_answered_once_by_workers_that_share_them() -> None:
    """30 calls in chunks of at most 4 go to both workers, each to the endpoint once, each answer to its request."""
    config = teacher()
    chat = Cluster(config, good)
    requests = ask(config, 30)
    got = answers(chat, requests)
    texts = [got[request.id].texts for request in requests]  # type: ignore[union-attr]
    assert texts == [[f"re: question {n}"] for n in range(30)]
    assert (set(chat.sent.values()), chat.made, chat.killed) == ({1}, 2, 2)
    assert chat.chunks >= 8


def test_few_calls_go_to_all_workers() -> None:
    """Four calls are four chunks for two workers that hold two each, not one chunk for the first."""
    config = teacher()
    chat = Cluster(config, good)
    assert len(answers(chat, ask(config, 4))) == 4
    assert chat.chunks == 4


def test_the_chunk_of_a_lost_worker_goes_to_another() -> None:
    """A worker dies with its chunk: all calls are answered, a new worker is made, its attempts count twice."""
    config = teacher(price=PRICE)
    chat = Cluster(config, good)
    chat.lose = {2}
    requests = ask(config, 30)
    got = answers(chat, requests)
    assert len(got) == 30 and all(isinstance(answer, ChatReply) for answer in got.values())
    twice = [answer for answer in got.values() if answer.attempts == 2]
    assert 1 <= len(twice) <= 4
    bound = chat.bound(requests[0])
    assert all(answer.cost > bound for answer in twice), "what the lost attempt may have cost is in it"
    assert chat.made == 3


def test_a_call_that_ends_its_workers_is_given_up() -> None:
    """One chunk is lost again and again: after three workers its calls are errors, and the run is over."""
    config = teacher()
    chat = Cluster(config, good, wanted=1, depth=1, chunk=2)
    chat.lose = {1, 2, 3}
    got = answers(chat, ask(config, 2))
    assert [str(answer) for answer in got.values()] == ["3 workers were lost over this call (ConnectionError)"] * 2
    assert not any(answer.final for answer in got.values() if isinstance(answer, ChatError))


def test_all_workers_together_keep_the_budget() -> None:
    """Money for some of the calls: what is spent stays below it, and no call that still fits is left out."""
    config = teacher(price=PRICE)
    bound = RayChat(LOCAL, config).bound(ask(config, 1, max_tokens=10)[0])
    limited = teacher(price=PRICE, budget=BudgetConfig(max_cost=4 * bound))
    chat = Cluster(limited, good)
    with pytest.raises(BudgetReached, match="raise teacher.budget") as reached:
        answers(chat, ask(limited, 60, max_tokens=10))
    got = reached.value.args[1]
    spent = sum(answer.cost for answer in got.values())
    assert spent == 10 * len(got) == chat.budget.cost
    assert 3 * bound - 10 < spent <= 4 * bound
    few = teacher(budget=BudgetConfig(max_requests=7))
    chat = Cluster(few, good)
    with pytest.raises(BudgetReached):
        answers(chat, ask(few, 60))
    assert sum(chat.sent.values()) == 7


def test_retries_are_within_the_budget_of_requests() -> None:
    """Every first try is refused: with 20 requests no more than 20 are sent, and what was tried is on record."""
    config = teacher(budget=BudgetConfig(max_requests=20), max_retries=9)
    seen: set[str] = set()

    def refuse_first(request: httpx2.Request) -> httpx2.Response:
        question = json.loads(request.content)["messages"][0]["content"]
        if question in seen:
            return good(request)
        seen.add(question)
        return httpx2.Response(429, text="later")

    chat = Cluster(config, refuse_first)
    starts: list[str] = []
    chat.record_starts(lambda key, bound: starts.append(key))
    with pytest.raises(BudgetReached) as reached:
        answers(chat, ask(config, 30))
    got = reached.value.args[1]
    assert sum(chat.sent.values()) == 20 == sum(answer.attempts for answer in got.values())
    assert 5 <= sum(isinstance(answer, ChatReply) for answer in got.values()) <= 10
    assert set(starts) >= set(got), "what is sent out is noted before, for the budget after a kill"


def test_what_no_call_survives_stops_all_workers() -> None:
    """A wrong key, and a teacher that is down: one error, and not every call is tried."""
    config = teacher()
    chat = Cluster(config, lambda request: httpx2.Response(401, text="no key"))
    with pytest.raises(UserError, match="refuses every call with HTTP 401"):
        answers(chat, ask(config, 500))
    assert sum(chat.sent.values()) <= 16
    down = teacher(max_retries=0)
    chat = Cluster(down, lambda request: httpx2.Response(500, text="down"))
    with pytest.raises(UserError, match="calls in a row failed, the last with: HTTP 500: down"):
        answers(chat, ask(down, 500))
    assert 24 <= sum(chat.sent.values()) < 60


def test_rates_and_places_are_divided() -> None:
    """Three workers have a third of the rates each, and at least one place."""
    part = _part(teacher(concurrency=2, requests_per_minute=30, budget=BudgetConfig(max_requests=5)), 3)
    assert (part.concurrency, part.requests_per_minute, part.tokens_per_minute) == (1, 10, None)
    assert part.budget.max_requests == 0


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    """A Ray cluster of two nodes on this machine; its address."""
    pytest.importorskip("ray")
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    nodes.add_node(num_cpus=2)
    yield nodes.address
    nodes.shutdown()


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[TeacherConfig]:
    """A running simulated teacher."""
    command = f"python -m mediflow.teacher --port 0 --log {tmp_path / 'server.jsonl'}"
    with local_server(command, 60.0) as base_url:
        yield TeacherConfig(base_url=base_url, concurrency=16, retry_seconds=0.01)


def judge_requests(config: TeacherConfig, count: int) -> list[ChatRequest]:
    """Requests that the simulated teacher understands, each another one."""
    example = {"input": "Fever.", "output": "Yes."}
    return [
        config.request(
            [
                {
                    "role": "user",
                    "content": request_block(
                        {"kind": "judge", "instruction": f"Number {n}", "examples": [example], "facts": [None]}
                    ),
                }
            ],
            temperature=1.0,
        )
        for n in range(count)
    ]


@pytest.mark.slow
def test_a_cluster_gives_the_rows_of_a_local_run(two_nodes: str, simulated: TeacherConfig, tmp_path: Path) -> None:
    """200 calls over two nodes and by this process: the same texts, each call made once, a worker lost on the way."""
    import ray

    requests = judge_requests(simulated, 200)
    with open_teacher(simulated) as chat, Journal(tmp_path / "local.jsonl") as journal:
        local = {key: row["texts"] for key, row in run_calls(requests, chat, journal, 16, "local").items()}
    chat = RayChat(simulated.base_url, simulated, two_nodes)
    counted = 0

    def lose_one(request: ChatRequest, row: dict[str, Any]) -> None:
        nonlocal counted
        counted += 1
        if counted == 20:
            assert chat._pool is not None and len(chat._pool.ready) == 2
            assert len({node["NodeID"] for node in ray.nodes() if node["Alive"]}) == 2
            ray.kill(chat._pool.ready[0].actor)

    with Journal(tmp_path / "ray.jsonl") as journal:
        spread = run_calls(requests, chat, journal, 16, "ray", follow_up=lose_one)
        assert {key: row["texts"] for key, row in spread.items()} == local
        assert all(row["error"] is None for row in spread.values())
        again = sum(row["attempts"] - 1 for row in spread.values())
    assert counted == 200
    assert 0 < again <= 2 * 64, "calls of the lost worker only"
    assert not ray.is_initialized(), "the connection is closed"


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_one_line(two_nodes: str) -> None:
    """vLLM is not installed where the workers are: the reason is told, and nothing hangs."""
    try:
        import vllm  # noqa: F401  # only asked whether it is there
    except ImportError:
        config = TeacherConfig(model="m", vllm={})
        chat = RayChat(None, config, two_nodes)
        with pytest.raises(UserError, match="cannot start.*medsmith\\[vllm\\]"):
            answers(chat, ask(config, 2))
    with pytest.raises(UserError, match="no Ray cluster at 127.0.0.1:1"):
        answers(RayChat(LOCAL, teacher(), "127.0.0.1:1"), ask(teacher(), 1))

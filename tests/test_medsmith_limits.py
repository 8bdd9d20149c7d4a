"""Budgets that are never passed, and rates that are kept to."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx2
import pytest

from medsmith.limits import Budget, BudgetReached, RateLimit
from medsmith.llm import BudgetConfig, Journal, Price, run_calls
from tests.toy_teacher import Endpoint, answer, ask, refused, teacher


def test_the_budget_of_requests_is_never_passed(tmp_path: Path) -> None:
    """Sixteen calls at once with refusals in between send exactly 20 requests; a higher budget finishes the work."""
    rng = random.Random(1)
    script = [refused(500) if rng.random() < 0.3 else None for _ in range(200)]

    class Flaky(Endpoint):
        def handle(self, request: httpx2.Request) -> httpx2.Response:
            step = script.pop(0)
            self.script = [step] if step else []
            return super().handle(request)

    config = teacher(concurrency=16, budget=BudgetConfig(max_requests=20))
    requests = ask(config, 50)
    first = Flaky(config)
    with (
        Journal(tmp_path / "j.jsonl") as journal,
        pytest.raises(BudgetReached, match=r"budget of 20 requests.*calls left"),
    ):
        run_calls(requests, first.chat, journal, 16, "test")
    assert len(first.requests) == 20
    more = teacher(concurrency=16, budget=BudgetConfig(max_requests=150))
    second = Flaky(more)
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.spent_attempts == 20
        rows = run_calls(requests, second.chat, journal, 16, "test")
    assert all(row["texts"] == ["yes"] for row in rows.values())
    assert len(rows) == 50


def test_the_budget_of_money_is_never_passed(tmp_path: Path) -> None:
    """Calls of unequal price, twelve at once, some cut off: what was spent at most stays below max_cost."""
    rng = random.Random(2)
    spent = 0.0

    class Paid(Endpoint):
        def handle(self, request: httpx2.Request) -> httpx2.Response:
            nonlocal spent
            completion = rng.randint(1, 100)
            spent += (10 * 1.0 + completion * 2.0) / 1e6
            if rng.random() < 0.1:
                raise httpx2.ReadError("cut after it was made")
            return answer(request, completion=completion)

    price = Price(prompt_per_million=1.0, completion_per_million=2.0)
    config = teacher(concurrency=12, price=price, budget=BudgetConfig(max_cost=0.004))
    endpoint = Paid(config)
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(BudgetReached, match=r"budget of 0\.004"):
        run_calls(ask(config, 500, max_tokens=100), endpoint.chat, journal, 12, "test")
    assert 0.003 < spent <= endpoint.chat.budget.cost <= 0.004
    assert endpoint.chat.budget.reserved == 0.0
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.spent_cost == pytest.approx(endpoint.chat.budget.cost)


def test_a_reservation_waits_for_calls_in_flight() -> None:
    """With 1.0 to spend and 0.8 reserved, 0.5 more waits until the first settles at 0.1, then fits."""

    async def play() -> list[str]:
        budget = Budget(max_cost=1.0)
        said = []
        await budget.reserve(0.8)
        waiting = asyncio.create_task(budget.reserve(0.5))
        await asyncio.sleep(0)
        said.append("waits" if not waiting.done() else "went")
        budget.settle(0.8, 0.1)
        await waiting
        budget.settle(0.5, 0.5)
        with pytest.raises(BudgetReached):
            await budget.reserve(0.5)
        return [*said, f"{budget.cost:.1f}"]

    assert asyncio.run(play()) == ["waits", "0.6"]


def test_starts_are_spaced() -> None:
    """At 600 a minute the fifth start is due 0.4 s after the first."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def play() -> None:
        rate = RateLimit(600, sleep=sleep)
        for _ in range(5):
            await rate.wait()

    asyncio.run(play())
    assert len(pauses) == 4
    assert pauses[-1] == pytest.approx(0.4, abs=0.05)


def test_tokens_are_spaced_by_what_calls_do_use() -> None:
    """At 6,000 tokens a minute calls that may use 1,000 and use 100 start a second apart in the long run."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def play() -> list[float]:
        rate = RateLimit(None, 6000, sleep)
        reserved = []
        for _ in range(60):
            reserved.append(await rate.wait(1000))
            rate.settle(1000, reserved[-1], 100)
        return reserved

    reserved = asyncio.run(play())
    assert reserved[0] == 1000
    assert reserved[-1] == pytest.approx(100 + 900 * (15 / 16) ** 59)
    assert pauses[-1] == pytest.approx(59, abs=0.2)


def test_tokens_of_a_call_without_answer_stay_reserved_and_those_of_a_refused_one_do_not() -> None:
    """After one that was cut the next waits ten seconds; after one that was refused it does not wait."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def play(used: int | None) -> list[float]:
        pauses.clear()
        rate = RateLimit(None, 6000, sleep)
        rate.settle(1000, await rate.wait(1000), used)
        await rate.wait(1000)
        return [*pauses]

    assert asyncio.run(play(None)) == [pytest.approx(10, abs=0.1)]
    assert asyncio.run(play(0)) == []


def test_both_rates_are_kept_by_a_teacher(tmp_path: Path) -> None:
    """Ten calls of 15 tokens each at 90 a minute: the last one starts about a minute and a half after the first."""
    config = teacher(tokens_per_minute=90, requests_per_minute=600, concurrency=1)
    endpoint = Endpoint(config)
    with Journal(tmp_path / "j.jsonl") as journal:
        for request in ask(config, 10, max_tokens=10):
            run_calls([request], endpoint.chat, journal, 1, "test")
    # Each run has its own clock, so that only what is reserved within a run is waited for: nothing here.
    assert endpoint.pauses == []
    with Journal(tmp_path / "k.jsonl") as journal:
        run_calls(ask(config, 10, max_tokens=10), endpoint.chat, journal, 1, "test")
    assert max(endpoint.pauses) > 60

"""Many calls: once each, pulled as they are needed, by one teacher or several, one by one or in bulk."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from medsmith.calls import FAILURES_IN_A_ROW, LOOK_AHEAD
from medsmith.chat import Lane, Teachers
from medsmith.errors import UserError
from medsmith.limits import BudgetReached
from medsmith.llm import ChatError, ChatReply, ChatRequest, FakeChat, Journal, Summary, run_calls
from tests.toy_teacher import ask, teacher


def test_what_failed_is_called_again_by_the_next_run(tmp_path: Path) -> None:
    """Of an answer, a refused call and a passing failure, the next run calls the last two and keeps the first."""
    config = teacher()
    requests = ask(config, 3)
    first = FakeChat(["a", ChatError("bad", final=True), ChatError("down")])
    with Journal(tmp_path / "j.jsonl") as journal:
        rows = run_calls(requests, first, journal, 1, "test")
    assert [(rows[r.id]["error"], rows[r.id]["final"]) for r in requests] == [
        (None, True),
        ("bad", True),
        ("down", False),
    ]
    assert Summary.of(rows.values()).facts()["failed"] == 2
    with pytest.raises(UserError, match="2 of 3 calls had no answer, the last with"):
        Summary.of(rows.values()).refuse_silence(0.6)
    Summary.of(rows.values()).refuse_silence(0.7)
    second = FakeChat(["b", "c"])
    with Journal(tmp_path / "j.jsonl") as journal:
        rows = run_calls(requests, second, journal, 1, "test")
    assert [r.id for r in second.requests] == [requests[1].id, requests[2].id]
    assert [rows[r.id]["texts"] for r in requests] == [["a"], ["b"], ["c"]]


def test_equal_requests_are_one_call_and_follow_ups_are_journaled(tmp_path: Path) -> None:
    """A repair follows a bad answer without a barrier; on the next run nothing is called, and all rows are there."""
    config = teacher()
    requests = ask(config, 3)

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
        if len(request.messages) > 1 or row["texts"] != ["bad"]:
            return None
        return config.request([*request.messages, {"role": "user", "content": "again"}])

    chat = FakeChat(["good", "bad", "good", "mended"])
    with Journal(tmp_path / "j.jsonl") as journal:
        first = run_calls([*requests, requests[0]], chat, journal, 4, "test", follow_up=follow_up)
    assert len(chat.requests) == len(first) == 4
    with Journal(tmp_path / "j.jsonl") as journal:
        second = run_calls(requests, FakeChat([]), journal, 4, "test", follow_up=follow_up)
    assert first == second
    assert sorted(row["texts"][0] for row in second.values()) == ["bad", "good", "good", "mended"]


def test_a_teacher_that_is_down_stops_the_run(tmp_path: Path) -> None:
    """After so many failures in a row no more calls are spent on a dead endpoint."""
    config = teacher()
    chat = FakeChat([RuntimeError("boom")] * 99)
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(UserError, match=r"RuntimeError: boom.*75 calls left"):
        run_calls(ask(config, 99), chat, journal, 1, "test")
    assert len(chat.requests) == FAILURES_IN_A_ROW


def test_ctrl_c_cancels_what_is_in_flight_and_keeps_what_is_done(tmp_path: Path) -> None:
    """The third call presses Ctrl-C and hangs: two rows are in the journal and the interrupt comes through."""

    class Interrupted:
        def __init__(self) -> None:
            self.calls = 0

        async def complete(self, request: ChatRequest) -> ChatReply:
            self.calls += 1
            if self.calls == 3:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(60)
            return ChatReply(["x"], {}, "m")

    config = teacher()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(KeyboardInterrupt):
        run_calls(ask(config, 9), Interrupted(), journal, 1, "test")
    assert 2 <= len((tmp_path / "j.jsonl").read_text().splitlines()) <= 8


class Echo:
    """Answers every request, after as many turns of the loop as told; notes who was answered when."""

    def __init__(self, turns: int = 1, log: list[str] | None = None) -> None:
        self.turns = turns
        self.log: list[str] = [] if log is None else log
        self.in_flight = self.most = 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        for _ in range(self.turns):
            await asyncio.sleep(0)
        self.in_flight -= 1
        self.log.append(request.teacher)
        return ChatReply([request.messages[-1]["content"]], {}, "echo")


def test_requests_are_pulled_as_they_are_needed(tmp_path: Path) -> None:
    """Of three thousand no more than the workers' (and ten equal ones) are pulled ahead; rows stay."""
    chat = Echo()
    pulled = 0
    ahead: list[int] = []

    def requests() -> Iterator[ChatRequest]:
        nonlocal pulled
        for number in range(3000):
            pulled += 1
            ahead.append(pulled - len(chat.log))
            yield teacher().request([{"role": "user", "content": str(number % 2990)}])

    with Journal(tmp_path / "j.jsonl") as journal:
        rows = run_calls(requests(), chat, journal, 4, "test")
    assert (len(chat.log), len(rows)) == (2990, 2990)
    assert 16 <= max(ahead) <= 26
    assert sorted(int(row["texts"][0]) for row in rows.values()) == list(range(2990))
    assert len(set(rows)) == 2990
    wanted = ask(teacher(), 1)[0]
    assert wanted.id not in rows


def test_several_requests_may_follow_one_and_go_before_new_ones(tmp_path: Path) -> None:
    """Every question gets two more, answered before other questions are begun; a rerun from the journal sees all."""
    config = teacher()
    seen: list[str] = []

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> list[ChatRequest] | None:
        text = row["texts"][0]
        seen.append(text)
        return None if "/" in text else [config.request([{"role": "user", "content": f"{text}/{n}"}]) for n in (1, 2)]

    with Journal(tmp_path / "j.jsonl") as journal:
        first = run_calls(iter(ask(config, 12)), Echo(), journal, 1, "test", follow_up=follow_up)
    assert len(first) == 36
    assert seen.index("question 0/2") < seen.index("question 4")
    again, seen = seen, []
    with Journal(tmp_path / "j.jsonl") as journal:
        second = run_calls(iter(ask(config, 12)), FakeChat([]), journal, 1, "test", follow_up=follow_up)
    assert (sorted(seen), dict(second)) == (sorted(again), dict(first))


def test_a_slow_teacher_holds_nobody_up(tmp_path: Path) -> None:
    """Two teachers in turn, one a hundred times slower: the fast one is done before the slow one has two answers."""
    slow, fast = teacher(model="slow"), teacher(model="fast")
    log: list[str] = []
    lanes = {"slow": Lane(Echo(200, log), 1), "fast": Lane(Echo(1, log), 2)}
    requests = [one for pair in zip(ask(slow, 20), ask(fast, 20), strict=True) for one in pair]
    with Journal(tmp_path / "j.jsonl") as journal:
        rows = run_calls(iter(requests), Teachers(lanes), journal, 9, "test")
    # A lane begins four calls for each that may be in flight, and the chat model holds them back.
    assert log.index("slow") >= 20
    assert {name: sum(row["teacher"] == name for row in rows.values()) for name in lanes} == {"slow": 20, "fast": 20}


def test_what_waits_for_a_slow_teacher_is_bounded(tmp_path: Path) -> None:
    """Where nearly all requests are for the slow one, no more than the look-ahead is pulled at once."""
    lanes = {"slow": Lane(Echo(), 1), "fast": Lane(Echo(), 8)}
    log = lanes["slow"].chat.log = lanes["fast"].chat.log = []  # type: ignore[union-attr]
    pulled = 0
    ahead = 0

    def requests() -> Iterator[ChatRequest]:
        nonlocal pulled, ahead
        for number in range(4 * LOOK_AHEAD):
            pulled += 1
            ahead = max(ahead, pulled - len(log))
            yield teacher(model="fast" if number % 50 == 0 else "slow").request(
                [{"role": "user", "content": str(number)}]
            )

    with Journal(tmp_path / "j.jsonl") as journal:
        rows = run_calls(requests(), Teachers(lanes), journal, 1, "test")
    assert len(rows) == 4 * LOOK_AHEAD
    assert LOOK_AHEAD <= ahead <= 1.1 * LOOK_AHEAD


def test_a_teacher_without_money_does_not_stop_the_others(tmp_path: Path) -> None:
    """One budget ends with three calls in flight: the other teacher answers all of its own, then the rest is named."""

    class Poor(Echo):
        async def complete(self, request: ChatRequest) -> ChatReply:
            if len(self.log) >= 3:
                raise BudgetReached("the budget is used up")
            return await super().complete(request)

    poor, rich = teacher(model="poor"), teacher(model="rich")
    lanes = {"poor": Lane(Poor(), 1), "rich": Lane(Echo(), 1)}
    requests = [one for pair in zip(ask(poor, 30), ask(rich, 30), strict=True) for one in pair]
    with Journal(tmp_path / "j.jsonl") as journal:
        with pytest.raises(BudgetReached, match=r"used up \(24 calls left\)"):
            run_calls(requests, Teachers(lanes), journal, 1, "test")
        names = [row["teacher"] for row in journal.rows.values()]
    assert (names.count("poor"), names.count("rich")) == (6, 30)


class Bulk:
    """A chat model that is given many at once."""

    bulk_size = 4

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def complete_all(
        self, requests: Sequence[ChatRequest], done: Callable[[ChatRequest, ChatReply | ChatError], None]
    ) -> None:
        self.sizes.append(len(requests))
        for request in reversed(requests):
            done(request, ChatReply([request.messages[-1]["content"]], {}, "bulk"))


def test_a_bulk_engine_is_given_handfuls_with_the_repairs_first(tmp_path: Path) -> None:
    """Ten requests, of which two get a repair: handfuls of four, all answered once, and a rerun makes no call."""
    config = teacher()
    chat = Bulk()

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> ChatRequest | None:
        repaired = row["texts"][0] in ("question 1", "question 9")
        return config.request([{"role": "user", "content": "repair of " + row["texts"][0]}]) if repaired else None

    for sizes in ([4, 4, 3, 1], []):
        chat.sizes.clear()
        with Journal(tmp_path / "j.jsonl") as journal:
            rows = run_calls(iter(ask(config, 10)), chat, journal, 1, "test", follow_up=follow_up, total=10)
        assert (chat.sizes, len(rows)) == (sizes, 12)


@pytest.mark.parametrize("error", [UserError("the passages end here"), ValueError("a bug")])
def test_an_error_of_the_caller_comes_through_as_it_is(tmp_path: Path, error: Exception) -> None:
    """Raised while requests are pulled or followed up it reaches the caller, and finished calls are kept."""

    def requests() -> Iterator[ChatRequest]:
        yield from ask(teacher(), 5)
        raise error

    def follow_up(request: ChatRequest, row: dict[str, Any]) -> None:
        raise error

    for number, (given, follow) in enumerate([(requests(), None), (iter(ask(teacher(), 5)), follow_up)]):
        with Journal(tmp_path / f"{number}.jsonl") as journal, pytest.raises(type(error), match=str(error)):
            run_calls(given, Echo(), journal, 1, "test", follow_up=follow)

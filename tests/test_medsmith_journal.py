"""The journal: a kill loses calls in flight only, and what they may have cost is charged."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import httpx2
import pytest

from medsmith.ids import IdMap, IdSet
from medsmith.journal import Journal
from medsmith.limits import BudgetReached
from medsmith.llm import BudgetConfig, FakeChat, Price, run_calls
from medsmith.records import content_id
from tests.toy_teacher import Endpoint, ask, refused, teacher


def test_a_torn_tail_is_cut_off_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A half line at the end goes and is called again; rows before it stay; a broken middle line is passed over."""
    path = tmp_path / "raw" / "calls.jsonl"
    config = teacher()
    requests = ask(config, 3)
    with Journal(path) as journal:
        run_calls(requests, FakeChat(["a", "b", "ü"]), journal, 1, "test")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    chat = FakeChat(["new"])
    with Journal(path) as journal:
        assert (journal.torn, len(journal.done())) == (1, 2)
        rows = run_calls(requests, chat, journal, 1, "test")
    assert [rows[r.id]["texts"] for r in requests] == [["a"], ["b"], ["new"]]
    assert len(path.read_text().splitlines()) == 3
    path.write_bytes(b"{]\n" + whole)
    with Journal(path) as journal:
        assert (journal.damaged, len(journal.done()), len(list(journal.rows.values()))) == (1, 3, 3)
    assert "1 lines are no rows" in capsys.readouterr().err


def test_the_last_row_of_an_id_counts_and_rows_are_read_from_the_file(tmp_path: Path) -> None:
    """Failed, then answered, then another failed: what is looked up, listed and counted agrees, before and after."""
    path = tmp_path / "j.jsonl"
    rows: list[dict[str, Any]] = [
        {"id": "a", "error": "no"},
        {"id": "b", "error": None, "x": "ü\ud800" * 9000},
        {"id": "a", "error": None},
    ]
    with Journal(path) as journal:
        for row in [*rows, {"id": "c", "error": "no"}]:
            journal.append(row)
    with Journal(path) as again:
        for one in (journal, again):
            assert dict(one.rows) == {"b": rows[1], "a": rows[2], "c": {"id": "c", "error": "no"}}
            assert (len(one.rows), list(one.done()), len(one.done()), "c" in one.done()) == (3, ["b", "a"], 2, False)
            some = IdSet()
            some.add("c")
            some.add("unknown")
            assert (dict(one.rows_of(some)), len(one.rows_of(some))) == ({"c": {"id": "c", "error": "no"}}, 1)
            assert one.rows.get("d") is None


def test_a_journal_costs_few_bytes_a_row(tmp_path: Path) -> None:
    """Opening twenty thousand rows of 600 bytes keeps less than 50 bytes of each."""
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        for number in range(20_000):
            journal.append({"id": content_id(number), "error": None, "text": "x" * 560})
    tracemalloc.start()
    try:
        again = Journal(path)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with again:
        assert len(again.rows) == 20_000
        assert kept < 50 * 20_000


def test_ids_are_found_whatever_they_look_like() -> None:
    """Against a dictionary: content ids, other texts, zeros; numbers given twice, and ids that are not there."""
    rng = random.Random(0)
    keys = [content_id(n) for n in range(3000)] + [f"trial {n}" for n in range(500)] + ["0" * 16, "0" * 15 + "2", ""]
    held, members = IdMap(), IdSet()
    found: dict[str, int] = {}
    for key in [*keys, *rng.sample(keys, 1000)]:
        value = rng.randrange(2**64)
        assert held.set(key, value) == found.get(key)
        assert members.add(key) is (key not in found)
        found[key] = value
    assert len(held) == len(members) == len(found)
    assert all(held.get(key) == found[key] for key in found)
    assert held.get(content_id("other")) is None
    assert content_id("other") not in members


def test_attempts_without_an_end_are_charged(tmp_path: Path) -> None:
    """Two attempts begin, one ends, the process is killed: the other is charged, also after its call was made again."""
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.start("a", 0.5, "t")
        journal.start("b", 0.25, "t")
        journal.start("b", 0.25, "t")
        journal.append({"id": "b", "teacher": "t", "attempts": 2, "cost": 0.125, "error": None})
    for _ in range(2):
        with Journal(path) as journal:
            assert (journal.spent_attempts, journal.spent_cost) == (3, 0.625)
    with Journal(path) as journal:
        journal.start("a", 0.5, "t")
        journal.append({"id": "a", "teacher": "t", "attempts": 1, "cost": 0.0625, "error": None})
        journal.append({"id": "c", "teacher": "u", "attempts": 1, "cost": 1.0, "error": None})
        assert (journal.spent["t"].attempts, journal.spent["t"].cost) == (4, 0.6875)
    with Journal(path) as journal:
        assert (journal.spent["t"].attempts, journal.spent["t"].cost) == (4, 0.6875)
        assert (journal.spent_attempts, journal.spent_cost, len(journal.rows)) == (5, 1.6875, 3)


class Killed(BaseException):
    """As sudden as a kill: nothing after it is written."""


def test_the_budget_holds_over_kills(tmp_path: Path) -> None:
    """Killed again and again with calls in flight: never more requests than allowed are sent, all starts together."""
    sent = 0
    rng = random.Random(3)

    class Mortal(Endpoint):
        left = 0

        def handle(self, request: httpx2.Request) -> httpx2.Response:
            nonlocal sent
            sent += 1
            self.left -= 1
            if self.left == 0:
                raise Killed
            return super().handle(request) if rng.random() < 0.8 else refused(500)

    price = Price(prompt_per_million=0.0, completion_per_million=1e6)
    config = teacher(concurrency=6, price=price, budget=BudgetConfig(max_requests=60, max_cost=600.0))
    requests = ask(config, 200, max_tokens=10)
    kills = 0
    for _ in range(60):
        endpoint = Mortal(config)
        endpoint.left = rng.randint(2, 9)
        with Journal(tmp_path / "j.jsonl") as journal:
            assert sent <= journal.spent_attempts <= 60
            try:
                run_calls(requests, endpoint.chat, journal, 6, "test")
            except Killed:
                kills += 1
            except BudgetReached:
                break
    assert kills >= 4
    assert 40 <= sent <= 60
    with Journal(tmp_path / "j.jsonl") as journal:
        assert sent <= journal.spent_attempts == 60
        answered = len(journal.done())
        assert 5 * answered < journal.spent_cost <= 600

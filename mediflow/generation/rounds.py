"""From answers in any order to records in the plan's order: repairs, admission, and calls that fill what is short.

Round 0 is the plan. When its calls have been admitted in their order, those that came short have each a call in round
1, and so on; a call of the next round is issued as soon as its shortfall is known, and admitted when its turn comes. So
what is accepted depends on the settings and the replies alone, not on which came first, and a restart from the
journal gives the same bytes. In memory are the calls in flight and the places of those that wait for their turn; their
texts are in the journal, and read again from there where more than HELD wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mediflow.generation.calls import Call, Calls, Place
from mediflow.generation.ledger import Books, Outcome
from mediflow.generation.readings import Reading, better_of, no_answer, read_reply
from mediflow.generation.sources import Material
from medsmith.journal import Journal
from medsmith.llm import ChatRequest
from medsmith.replies import cut_note

HELD = 2_000
AT_ONCE = 64
"""Calls admitted at a stretch while others are in flight, which must not wait for it."""

Row = dict[str, Any]


@dataclass(slots=True)
class _Open:
    """A call that was issued and is not yet answered, or its repair is not."""

    call: Call
    material: Material
    reading: Reading | None = None


@dataclass(slots=True)
class _Settled:
    """A call that waits for its turn. `outcome` is None where it is to be read again from the journal."""

    call: Call
    call_id: str
    repair_id: str | None
    outcome: Outcome | None


class Rounds:
    """The state of one run: give `requests()` and `follow_up` to run_calls."""

    def __init__(self, calls: Calls, books: Books, journal: Journal, *, repair: bool, refills: int) -> None:
        """`refills` is the number of rounds after the plan."""
        self.calls = calls
        self.books = books
        self.journal = journal
        self.repair = repair
        self.refills = refills
        self.open: dict[str, _Open] = {}
        self.repairs: dict[str, str] = {}
        self.settled: dict[Place, _Settled] = {}
        self.held = 0
        self.unanswered = calls.planned
        """Requests that are known of and have no answer yet."""
        self.round = 0
        self.turn = 0
        self.later: list[list[Place]] = [[] for _ in range(refills + 1)]

    @property
    def finished(self) -> bool:
        """Has every call of every round been admitted?"""
        return self.unanswered == 0 and not self.settled and not self.open

    def requests(self) -> Iterator[ChatRequest]:
        """The requests of the plan, in order."""
        for call in self.calls.plan():
            yield self._issue(call)

    def follow_up(self, request: ChatRequest, row: Row) -> Sequence[ChatRequest]:
        """Take an answer; what is to be asked next: its repair, or calls that fill what is short."""
        self.unanswered -= 1
        first_id = self.repairs.pop(request.id, None)
        if first_id is None:
            one = self.open[request.id]
            one.reading = self._read(one.call, one.material, row)
            repair = self._repair(one, request, row)
            if repair is not None:
                self.repairs[repair.id] = request.id
                self.unanswered += 1
                return [repair]
            self._settle(request.id, None, row, None)
        else:
            self._settle(first_id, request.id, None, row)
        return self._admit()

    def _issue(self, call: Call) -> ChatRequest:
        material = self.calls.material(call)
        request = self.calls.request(call, material)
        assert request.id not in self.open, "two calls have one id"
        self.open[request.id] = _Open(call, material)
        return request

    def _read(self, call: Call, material: Material, row: Row) -> Reading:
        if row["texts"] is None:
            return no_answer(row["error"])
        return read_reply(self.calls.form(call), material, row["texts"][0], cut=cut_note(row))

    def _repair(self, one: _Open, request: ChatRequest, row: Row) -> ChatRequest | None:
        if not self.repair or row["texts"] is None:
            return None
        assert one.reading is not None, "a reply is read before it is repaired"
        return self.calls.repair(one.call, list(request.messages), row["texts"][0], one.reading)

    def _settle(self, call_id: str, repair_id: str | None, first: Row | None, second: Row | None) -> None:
        one = self.open.pop(call_id)
        outcome = None
        if self.held < HELD or one.call.place == self._next():
            self.held += 1
            first = first or self.journal.rows[call_id]
            outcome = self._outcome(one.call, one.material, one.reading, first, second)
        self.settled[one.call.place] = _Settled(one.call, call_id, repair_id, outcome)

    def _outcome(
        self, call: Call, material: Material, reading: Reading | None, first: Row, second: Row | None
    ) -> Outcome:
        reading = reading or self._read(call, material, first)
        if second is not None and second["texts"] is not None:
            again = read_reply(self.calls.form(call), material, second["texts"][0], attempt=2, cut=cut_note(second))
            reading = better_of(reading, again)
        return Outcome(
            call,
            material,
            reading,
            first["id"],
            second["id"] if second else None,
            self.calls.teacher(call.place).name,
            first["model"],
            first["cost"] + (second["cost"] if second else 0.0),
        )

    def _next(self) -> Place | None:
        """Whose turn it is; None where nobody's is left."""
        while True:
            places = self.later[self.round]
            count = self.calls.planned if self.round == 0 else len(places)
            if self.turn < count:
                return Place(0, self.turn) if self.round == 0 else places[self.turn]
            if self.round == self.refills:
                return None
            self.round, self.turn = self.round + 1, 0

    def _admit(self) -> list[ChatRequest]:
        """Admit those whose turn has come; the requests for what they have left short."""
        issued: list[ChatRequest] = []
        count = 0
        while (place := self._next()) is not None and place in self.settled:
            # With nothing in flight this is the last chance.
            if count == AT_ONCE and self.unanswered:
                break
            count += 1
            self.turn += 1
            outcome = self._take(self.settled.pop(place))
            short = self.books.admit(outcome)
            if short and place.round < self.refills:
                call = self.calls.refill(outcome.call, short, outcome.call_id)
                self.later[call.place.round].append(call.place)
                self.unanswered += 1
                issued.append(self._issue(call))
        return issued

    def _take(self, one: _Settled) -> Outcome:
        if one.outcome is not None:
            self.held -= 1
            return one.outcome
        second = self.journal.rows[one.repair_id] if one.repair_id else None
        material = self.calls.material(one.call)
        return self._outcome(one.call, material, None, self.journal.rows[one.call_id], second)

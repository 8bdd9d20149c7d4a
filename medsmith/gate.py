"""How many calls may be in flight: as many as help, found out while they run."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

START = 16
"""Calls in flight at the beginning; doubled each round until something stands against it."""

SMALLEST_ROUND = 16
FALL = 0.7
CLIMB = 1.25
EXCESS = 0.15
"""Of the answers of a round, so many more than usual must be troubles before they count as congestion."""

SLOW = 3.0
TOO_SLOW = 6.0
SLACK_SECONDS = 0.2
"""Latency may be three times the best (and a little) while the limit rises; beyond six times the limit falls."""

DRIFT = 0.02
HURT = 0.85
"""A fall of the limit that lets the good answers per second fall below this share of what they were was in vain."""


@dataclass
class _Round:
    """About as many answers as calls in flight, so about one latency long."""

    answers: int = 0
    troubles: int = 0
    seconds: float = 0.0
    in_flight: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.troubles / self.answers

    @property
    def goodput(self) -> float:
        """Good answers a second, by Little's law, so that the length of the round need not be known."""
        return self.in_flight / self.answers * len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def latency(self) -> float | None:
        """The median: a few calls that stood still say nothing about the others."""
        return statistics.median(self.latencies) if self.latencies else None


class Gate:
    """At most `limit` calls in flight. The limit rises while latency holds and falls, once a round, under congestion.

    Congestion is more refusals (429), errors (5xx, timeouts, cut connections) than usual, or a latency far above the
    best. A gateway that refuses one call in twenty whatever the load, or answers that are longer than before, are not
    congestion: where a fall of the limit only costs answers, it is taken back and what was seen counts as usual.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`most` is the highest limit, a sixteenth of it the lowest; `clock` is given by tests."""
        self.most = most
        self.floor = max(1, most // 16)
        self.limit = float(min(most, START))
        self.in_flight = 0
        self.falls = 0
        self.best: float | None = None
        self.usual = 0.0
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._round = _Round()
        self._before: _Round | None = None
        self._limit_before = self.limit
        self._fell_at = float("-inf")
        self._was_full = False

    async def enter(self) -> None:
        """Take a place, waiting for one if need be; give it back by `leave`."""
        if self.in_flight < int(self.limit) and not self._waiting:
            self.in_flight += 1
            return
        self._was_full = True
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place back."""
        self.in_flight -= 1
        self._wake()

    def report(self, trouble: bool, seconds: float) -> None:
        """Count an answer that took so long. `trouble`: refused for too many requests, an error, or no answer."""
        if self._clock() - seconds < self._fell_at:
            # It began before the limit fell and says nothing about the limit of now.
            return
        now = self._round
        now.answers += 1
        now.seconds += seconds
        now.in_flight += self.in_flight
        if trouble:
            now.troubles += 1
        else:
            now.latencies.append(seconds)
        if now.answers >= max(SMALLEST_ROUND, int(self.limit)):
            self._end_round(now)
            self._round = _Round()
            self._was_full = bool(self._waiting)
            self._wake()

    def _end_round(self, now: _Round) -> None:
        latency = now.latency
        if self._before is not None:
            in_vain = self._was_in_vain(self._before, now)
            self._before = None
            if in_vain:
                self.limit = self._limit_before
                self.usual = max(self.usual, now.share)
                self.best = latency or self.best
        if latency is not None:
            self.best = latency if self.best is None else min(latency, self.best + DRIFT * (latency - self.best))
        self.usual = min(self.usual, self.usual + (now.share - self.usual) / 4)
        slow = latency / (self.best + SLACK_SECONDS / SLOW) if latency is not None and self.best is not None else 0.0
        if now.troubles > now.answers * (self.usual + EXCESS) + 2 or slow > TOO_SLOW:
            self._fall(now)
        elif slow <= SLOW and self._was_full:
            self._rise()

    def _was_in_vain(self, before: _Round, now: _Round) -> bool:
        """Did what made the limit fall stay as it was, while fewer answers came?"""
        latency, latency_before = now.latency or 0.0, before.latency or 0.0
        better = now.share < FALL * before.share or (before.troubles == 0 and latency < FALL * latency_before)
        return not better and now.goodput < HURT * before.goodput

    def _fall(self, now: _Round) -> None:
        self._before = now
        self._limit_before = self.limit
        self._fell_at = self._clock()
        self.limit = max(float(self.floor), FALL * self.limit)
        self.falls += 1

    def _rise(self) -> None:
        if not self.falls:
            higher = 2 * self.limit
        elif self.limit < 0.9 * self._limit_before:
            higher = CLIMB * self.limit
        else:
            higher = self.limit + max(1.0, self.limit / 16)
        self.limit = min(float(self.most), higher)

    def _wake(self) -> None:
        while self._waiting and self.in_flight < int(self.limit):
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)

"""What holds calls back: a budget that is never passed, a rate of requests, and a number of calls in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from medsmith.errors import UserError


class Stopped(UserError):
    """A call met what ends the run; `attempts` and `cost` are what it had already used."""

    attempts = 0
    cost = 0.0


class BudgetReached(Stopped):
    """No further request fits the budget; what is finished is in the journal."""


@dataclass
class Budget:
    """Requests and money, spent and reserved. What a call may cost at most is reserved before it is sent."""

    max_requests: int | None = None
    max_cost: float | None = None
    requests: int = 0
    cost: float = 0.0
    reserved: float = 0.0

    def __post_init__(self) -> None:
        """Start with nobody waiting."""
        self._settled = asyncio.Event()

    async def reserve(self, bound: float) -> None:
        """Count one request and hold back `bound`; wait while only calls in flight stand in the way.

        Raises:
            BudgetReached: the request cannot fit any more.
        """
        while True:
            if self.max_requests is not None and self.requests >= self.max_requests:
                raise BudgetReached(
                    f"the budget of {self.max_requests} requests is used up; finished calls are kept: raise "
                    "teacher.budget.max_requests and run again to continue"
                )
            if self.max_cost is None or self.cost + self.reserved + bound <= self.max_cost:
                self.requests += 1
                self.reserved += bound
                return
            if self.reserved <= 0:
                raise BudgetReached(
                    f"{self.cost:.4f} of the budget of {self.max_cost} is spent, the next call may cost {bound:.4f}; "
                    "finished calls are kept: raise teacher.budget.max_cost and run again to continue"
                )
            await self._settled.wait()

    def settle(self, bound: float, cost: float) -> None:
        """Turn a reservation into what the call did cost."""
        self.reserved = self.reserved - bound if self.reserved - bound > 1e-12 else 0.0
        self.cost += cost
        self._settled.set()
        self._settled = asyncio.Event()


class RateLimit:
    """At most `per_minute` starts in any minute, evenly spaced; None is no limit."""

    def __init__(self, per_minute: float | None, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """`sleep` is given by tests."""
        self._spacing = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._sleep = sleep

    async def wait(self) -> None:
        """Return when the next start is due."""
        if not self._spacing:
            return
        now = asyncio.get_running_loop().time()
        due = max(now, self._next)
        self._next = due + self._spacing
        if due > now:
            await self._sleep(due - now)


class Gate:
    """At most `limit` calls in flight; the limit halves under congestion and grows back.

    A gateway that refuses one call in twenty whatever the load is not congestion: the limit falls only where more
    than a fifth of the calls since its last fall were refused, and never below an eighth of what it was given.
    """

    def __init__(self, limit: int) -> None:
        """`limit` is where it starts, and the most it ever is."""
        self.most = limit
        self.limit = float(limit)
        self.in_flight = 0
        self._recent: deque[bool] = deque(maxlen=max(8, 2 * limit))
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Hold one of the places."""
        while self.in_flight >= int(self.limit):
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                self._wake()
                raise
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._wake()

    def report(self, refused: bool) -> None:
        """Count an answer: refused for too many requests (429), or not."""
        self._recent.append(refused)
        if refused and len(self._recent) >= min(8, 2 * self.most) and sum(self._recent) > 0.2 * len(self._recent):
            self.limit = max(1.0, self.most / 8, self.limit / 2)
            self._recent.clear()
        elif not refused and self.limit < self.most:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)
            self._wake()

    def _wake(self) -> None:
        for _ in range(max(0, int(self.limit) - self.in_flight)):
            while self._waiting:
                place = self._waiting.popleft()
                if not place.done():
                    place.set_result(None)
                    break

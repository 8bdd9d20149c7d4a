"""What holds calls back: a budget that is never passed, and a rate of requests and tokens."""

from __future__ import annotations

import asyncio
import email.utils
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from medsmith.errors import UserError
from medsmith.replies import whole_number


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
        self._waiting = 0

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
            self._waiting += 1
            try:
                await self._settled.wait()
            finally:
                self._waiting -= 1

    @property
    def limited(self) -> bool:
        """Is there a limit at all?"""
        return self.max_requests is not None or self.max_cost is not None

    def settle(self, bound: float, cost: float) -> None:
        """Turn a reservation into what the call did cost."""
        self.reserved = self.reserved - bound if self.reserved - bound > 1e-12 else 0.0
        self.cost += cost
        if self._waiting:
            self._settled.set()
            self._settled = asyncio.Event()


class RateLimit:
    """So many starts and so many tokens in a minute, evenly spaced; None is no limit.

    What a call will use is not known before its answer: it is estimated by what the calls before it used of what they
    might have used at most, and set right when the answer is there. So the tokens are kept to on the average.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`sleep` is given by tests."""
        self._spacing = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_spacing = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next = 0.0
        self._next_by_tokens = 0.0
        self._used_share = 1.0
        self._sleep = sleep

    async def wait(self, most_tokens: int = 0) -> float:
        """Return when the next start is due, with the tokens that are reserved for it; `settle` them."""
        if not self._spacing and not self._token_spacing:
            return 0.0
        now = asyncio.get_running_loop().time()
        reserved = most_tokens * self._used_share
        due = max(now, self._next, self._next_by_tokens)
        self._next = due + self._spacing
        self._next_by_tokens = max(now, self._next_by_tokens) + reserved * self._token_spacing
        if due > now:
            await self._sleep(due - now)
        return reserved

    def settle(self, most_tokens: int, reserved: float, used: int | None) -> None:
        """Set right what was reserved; None where it is not known what the call used."""
        if used is not None and most_tokens:
            self._next_by_tokens += (used - reserved) * self._token_spacing
            if used:
                self._used_share += (used / most_tokens - self._used_share) / 16


def most_tokens(body: Mapping[str, Any], size: int) -> tuple[int, int | None]:
    """The most prompt and completion tokens of a request's body, which is JSON of `size` bytes; None without a limit.

    No token is shorter than a byte, and the JSON around texts is longer than what a template puts there.
    """
    limits = [whole_number(body[name]) for name in ("max_tokens", "max_completion_tokens") if name in body]
    limit = max((one for one in limits if one is not None), default=None)
    choices = max(whole_number(body.get(name)) or 1 for name in ("n", "best_of"))
    return size, None if limit is None else choices * limit


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that a Retry-After header asks for (a number or a date); 0.0 where there is none."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0

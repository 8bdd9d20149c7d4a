"""The gate against simulated servers, in simulated time."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from medsmith.gate import Gate

Server = Callable[[float, random.Random], tuple[bool, float]]
"""What the server does with a call that arrives now: is it trouble, and how long does the caller wait to hear?"""


@dataclass
class Play:
    """What came of a simulation."""

    gate: Gate
    good: int
    bad: int
    limits: list[tuple[float, float]]

    def limit(self, after: float, before: float) -> float:
        """The mean limit in a span of time."""
        seen = [limit for now, limit in self.limits if after <= now < before]
        return sum(seen) / len(seen)

    @property
    def reached(self) -> float:
        """When the limit was first the most that it may be."""
        return next(now for now, limit in self.limits if limit == self.gate.most)


def play(most: int, server: Server, seconds: float, *, pause: float = 1.0) -> Play:
    """Four callers for each place, for so long in simulated time; one whose call is trouble pauses before the next."""
    now, number, ready = 0.0, 0, 4 * most
    rng = random.Random(0)
    gate = Gate(most, clock=lambda: now)
    result = Play(gate, 0, 0, [])
    events: list[tuple[float, int, bool | None, float]] = []

    def push(after: float, trouble: bool | None) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (now + after, number, trouble, after))

    async def run() -> None:
        nonlocal now, ready
        waiting: set[asyncio.Task[None]] = set()
        while now < seconds:
            while ready:
                ready -= 1
                task = asyncio.create_task(gate.enter())
                waiting.add(task)
                await asyncio.sleep(0)
            for task in [task for task in waiting if task.done()]:
                waiting.remove(task)
                trouble, latency = server(now, rng)
                push(latency, trouble)
            now, _, trouble_or_back, latency = heapq.heappop(events)
            if trouble_or_back is None:
                ready += 1
                continue
            gate.report(trouble_or_back, latency)
            gate.leave()
            await asyncio.sleep(0)
            result.limits.append((now, gate.limit))
            if trouble_or_back:
                result.bad += 1
                push(pause, None)
            else:
                result.good += 1
                ready += 1
        for task in waiting:
            task.cancel()

    asyncio.run(run())
    return result


def latency(rng: random.Random, mean: float = 0.05) -> float:
    return mean * rng.uniform(0.8, 1.2)


def noisy(share: float) -> Server:
    """Refuses a share of all calls, whatever the load."""
    return lambda now, rng: (True, 0.002) if rng.random() < share else (False, latency(rng))


def narrow(places: int) -> Server:
    """Serves so many at once and refuses all others at once."""
    ends: list[float] = []

    def serve(now: float, rng: random.Random) -> tuple[bool, float]:
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        if len(ends) >= places:
            return True, 0.002
        took = latency(rng)
        heapq.heappush(ends, now + took)
        return False, took

    return serve


def queueing(places: int, mean: float) -> Server:
    """Serves so many at once; all others wait in line."""
    free = [0.0] * places

    def serve(now: float, rng: random.Random) -> tuple[bool, float]:
        end = max(now, heapq.heappop(free)) + latency(rng, mean)
        heapq.heappush(free, end)
        return False, end - now

    return serve


def test_the_limit_is_reached_at_once_where_nothing_stands_against_it() -> None:
    """At 50 ms all 128 places are in use after a third of a second, and stay so."""
    result = play(128, lambda now, rng: (False, latency(rng)), 2)
    assert result.reached < 0.35
    assert result.gate.falls == 0
    assert result.good > 0.85 * 2 * 128 / 0.05


def test_background_refusals_do_not_lower_the_limit() -> None:
    """One call in twenty refused whatever the load: the limit stays; one in five: it falls in vain and comes back."""
    assert play(128, noisy(0.05), 3).limit(1, 3) == 128
    worse = play(128, noisy(0.2), 5)
    assert worse.limit(3, 5) > 115
    assert worse.gate.usual > 0.05


def test_refusals_under_load_bring_the_limit_down_to_what_the_server_takes() -> None:
    """A server with 32 places: the limit settles about there, and the server is busy nearly all the time."""
    result = play(128, narrow(32), 6)
    assert 26 <= result.limit(3, 6) <= 40
    assert result.good > 0.8 * 6 * 32 / 0.05


def test_the_limit_never_falls_below_its_floor() -> None:
    """Where everything fails for ever the limit is a sixteenth of the most, and of few places one is left."""
    down = play(128, lambda now, rng: (True, 0.01), 20)
    assert (down.gate.limit, down.good) == (8, 0)
    assert play(4, lambda now, rng: (True, 0.01), 20).gate.limit == 1


def test_a_latency_that_grows_with_the_load_stops_the_rise() -> None:
    """Four places at a second each: with 16 callers they wait four times as long, and the limit ends at 64."""
    result = play(256, queueing(4, 1.0), 60)
    assert (max(limit for _, limit in result.limits), result.gate.falls) == (64, 0)
    assert result.good >= 0.9 * 60 * 4


def test_longer_answers_are_no_congestion() -> None:
    """From 0.5 s to 5 s whatever the load: the limit falls once, that is seen to be in vain, and it comes back."""
    result = play(64, lambda now, rng: (False, latency(rng, 0.5 if now < 20 else 5.0)), 120)
    assert result.gate.falls >= 1
    assert result.limit(60, 120) > 58


def test_a_stall_is_one_fall_and_soon_forgotten() -> None:
    """Nobody is answered for 20 seconds, or all time out: a second later the limit is what it was."""

    def stalls(now: float, rng: random.Random) -> tuple[bool, float]:
        return False, (23 - now if 3 < now < 23 else 0) + latency(rng)

    def times_out(now: float, rng: random.Random) -> tuple[bool, float]:
        return (True, 5.0) if 3 < now < 23 else (False, latency(rng))

    for server in (stalls, times_out):
        result = play(128, server, 31)
        assert 1 <= result.gate.falls <= 5
        assert result.limit(29.5, 31) == 128


def test_calls_that_began_before_a_fall_say_nothing_after_it() -> None:
    """128 calls time out together in the middle of a round: the limit falls once, not once for each part of them."""
    now = 100.0
    gate = Gate(128, clock=lambda: now)
    gate.limit = 128.0
    for _ in range(100):
        gate.report(False, 0.05)
    for _ in range(128):
        gate.report(True, 5.0)
    assert (gate.falls, gate.limit) == (1, 0.7 * 128)
    now = 110.0
    for _ in range(100):
        gate.report(True, 5.0)
    assert gate.falls == 2


def test_a_place_of_a_cancelled_call_is_given_on() -> None:
    """One of three that wait is cancelled in the moment in which it was let in: the next gets the place."""

    async def run() -> list[bool]:
        gate = Gate(1)
        await gate.enter()
        first, second = asyncio.create_task(gate.enter()), asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        gate.leave()
        first.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [first.cancelled(), second.done(), gate.in_flight == 1]

    assert asyncio.run(run()) == [True, True, True]


def test_the_gate_lets_no_more_in_than_its_limit() -> None:
    """Fifty tasks through a gate of five: never more than five inside, and all come through."""
    gate = Gate(5)
    inside: list[int] = []

    async def visit() -> None:
        await gate.enter()
        inside.append(gate.in_flight)
        await asyncio.sleep(0)
        gate.leave()

    async def play() -> None:
        await asyncio.gather(*(visit() for _ in range(50)))

    asyncio.run(play())
    assert (len(inside), max(inside), gate.in_flight) == (50, 5, 0)

"""One run of 20,000 records, killed by SIGKILL at ten random moments and started again each time.

    python -m benchmarks.kills --records 20000

At the end every id must stand in the journal once, and no call may have been made twice but those that were in flight
at a kill: begun at the server, and not yet in the journal when the process died.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.generate import parser
from benchmarks.measure import MockServer, machine, mock_server, table
from benchmarks.systems import Outcome, System, find_systems, run_system

LATENCY = 0.05


@dataclass(frozen=True)
class Kill:
    """What a kill found, and what it cost in the end."""

    requests: int
    journalled: int
    unanswered: int
    """In flight at the server: begun and not answered when the connections broke."""
    in_flight: int
    """In flight for the client: begun at the server since the start, and not in the journal."""
    repeats: int
    """Requests sent again until then, all kills before this one together."""


def main(arguments: list[str] | None = None) -> None:
    """Run, kill, restart, check; exit with 1 where the promise is broken."""
    known = parser(__doc__)
    known.add_argument("--kills", type=int, default=10)
    known.add_argument("--seed", type=int, default=0)
    known.set_defaults(records=20_000, systems=["medsmith:verified"], latency=[LATENCY])
    given = known.parse_args(arguments)
    (system,) = find_systems(given.systems)
    assert system.ours, "only the project's own journal can be read here"
    out = given.work / f"kills-{system.variant}"
    shutil.rmtree(out, ignore_errors=True)
    rng = random.Random(given.seed)
    moments = sorted(rng.sample(range(given.in_flight, given.records), given.kills))
    kills: list[Kill] = []
    began = time.monotonic()
    with mock_server() as server:
        server.reset(latency=given.latency[0])

        def once(watch: Callable[[], bool]) -> Outcome:
            return run_system(
                system, server, given.records, given.in_flight, out, given.limit, given.venvs, watch=watch
            )

        for moment in moments:
            outcome = once(past(server, moment, rng.uniform(0.0, 0.2)))
            assert outcome.used.stopped, f"the run ended with {outcome.used.code} before kill {len(kills) + 1}"
            kills.append(look(server, out, kills))
            print(f"kill {len(kills)}: {kills[-1]}", flush=True)
        outcome = once(lambda: False)
        print(f"\n{machine()}; {system.title}, {given.records} records, {given.in_flight} in flight\n")
        print(render(kills, server))
        faults = verdict(system, outcome, server, out, kills, given.records, given.in_flight)
    print(f"\nwhole time {time.monotonic() - began:.0f} s; " + ("; ".join(faults) or "every promise held"))
    raise SystemExit(1 if faults else 0)


def past(server: MockServer, moment: int, extra_seconds: float) -> Callable[[], bool]:
    """True a little after the server has seen `moment` requests. Looks twenty times a second."""
    state = {"looked": 0.0, "due": 0.0}

    def watch() -> bool:
        now = time.monotonic()
        if not state["due"] and now - state["looked"] > 0.05:
            state["looked"] = now
            if server.stats()["requests"] >= moment:
                state["due"] = now + extra_seconds
        return bool(state["due"]) and now >= state["due"]

    return watch


def journal_ids(out: Path) -> Counter[str]:
    """How often each id stands in the journal. A torn last line, which the next start cuts off, is none."""
    import json

    path = out / "run" / "raw" / "calls.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return Counter(json.loads(line)["id"] for line in lines)


def look(server: MockServer, out: Path, before: list[Kill]) -> Kill:
    """The state right after a kill, when the server has noticed it."""
    while True:
        stats = server.stats()
        if stats["in_flight"] == 0:
            break
        time.sleep(0.02)
    journalled = len(journal_ids(out))
    last = before[-1] if before else Kill(0, 0, 0, 0, 0)
    in_flight = (stats["requests"] - last.requests) - (journalled - last.journalled)
    unanswered = stats["abandoned"] - sum(kill.unanswered for kill in before)
    return Kill(stats["requests"], journalled, unanswered, in_flight, stats["repeats"])


def render(kills: list[Kill], server: MockServer) -> str:
    """One line a kill. What was in flight is sent again after it, at once or later: the order is the client's."""
    later = [kill.repeats for kill in kills[1:]] + [server.stats()["repeats"]]
    rows = [
        [number, kill.requests, kill.journalled, kill.unanswered, kill.in_flight, after - kill.repeats]
        for number, (kill, after) in enumerate(zip(kills, later, strict=True), 1)
    ]
    head = [
        "kill",
        "requests so far",
        "in the journal",
        "unanswered at the server",
        "in flight",
        "sent again by the next",
    ]
    total = ["all", server.stats()["requests"], "", *(sum(row[place] for row in rows) for place in (3, 4, 5))]
    return table(head, [*rows, total])


def verdict(
    system: System, outcome: Outcome, server: MockServer, out: Path, kills: list[Kill], records: int, in_flight: int
) -> list[str]:
    """The promises that were broken; none is what one wants to see."""
    stats = server.stats()
    ids = journal_ids(out)
    faults = []
    if outcome.used.code:
        faults.append(f"the last run ended with code {outcome.used.code}; see {out / 'log.txt'}")
    twice = sum(count > 1 for count in ids.values())
    if twice:
        faults.append(f"{twice} ids stand more than once in the journal")
    if len(ids) != stats["distinct"]:
        faults.append(f"{len(ids)} ids in the journal, {stats['distinct']} calls at the server")
    if len(ids) < records or outcome.checked.valid < records:
        faults.append(f"{len(ids)} ids and {outcome.checked.valid} valid records of {records} planned")
    allowed = stats["distinct"] + sum(kill.in_flight for kill in kills)
    if stats["requests"] > allowed:
        faults.append(f"{stats['requests']} calls, {allowed} allowed")
    above = [kill for kill in kills if kill.in_flight > in_flight]
    if above:
        faults.append(f"{len(above)} kills found more than {in_flight} calls in flight")
    return faults


if __name__ == "__main__":
    main()

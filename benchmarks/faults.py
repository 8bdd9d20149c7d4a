"""The same records from a server that misbehaves, each system beside its own clean run.

    python -m benchmarks.faults --records 5000

Of all requests 10 % are answered with broken JSON, 5 % with 429 and a Retry-After of one second, 2 % with 500, and 1 %
with a connection that closes half way; and once, half way through, the whole server is silent for 20 seconds. The
refusals do not depend on the load: that is what a shared gateway looks like, and it is hard on clients that take every
429 for congestion. A record is lost where it is missing at the end, and bad where it is handed over unusable.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.generate import available, parser, tell
from benchmarks.measure import machine, mock_server, table
from benchmarks.systems import Outcome, System, find_systems, install, run_system

FAULTS = {"broken": 0.10, "too_many": 0.05, "retry_after": 1, "error": 0.02, "cut": 0.01}
STALL_SECONDS = 20.0


@dataclass(frozen=True)
class Pair:
    """A clean run and a run with faults, and for ours what became of the plan."""

    clean: Outcome
    faulty: Outcome
    plan: str = ""

    def rate(self, outcome: Outcome, without: float = 0.0) -> float:
        """Valid records a second, from the first call on."""
        return outcome.checked.valid / max(1e-9, outcome.used.seconds - outcome.used.ready_seconds - without)


def main(arguments: list[str] | None = None) -> None:
    """Run everything and print the table."""
    known = parser(__doc__)
    known.set_defaults(latency=[0.05], repeats=1)
    given = known.parse_args(arguments)
    systems = find_systems(given.systems)
    if given.install:
        for system in {one.module: one for one in systems}.values():
            install(system, given.venvs)
    pairs: dict[System, Pair] = {}
    latency = given.latency[0]
    stall = {"stall_after": given.records // 2, "stall_seconds": STALL_SECONDS}
    with mock_server() as server:
        for system in available(systems, given.venvs):
            out = given.work / f"faults-{system.name.replace(':', '-')}"
            outcomes = []
            for faults in ({}, FAULTS | stall):
                server.reset(latency=latency, **faults)
                outcomes.append(
                    run_system(system, server, given.records, given.in_flight, out, given.limit, given.venvs)
                )
                tell(system, latency, len(outcomes) - 1, outcomes[-1])
            pairs[system] = Pair(*outcomes, plan=read_plan(out / "run", given.records))
    print(f"\n{machine()}; {given.records} records, {given.in_flight} in flight, {1000 * latency:g} ms\n")
    print(render(pairs, given.records))
    for system, pair in pairs.items():
        if pair.plan:
            print(f"\n{system.title}: {pair.plan}")
    if given.json:
        runs = [{"system": system.name, **asdict(pair)} for system, pair in pairs.items()]
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(
            json.dumps({"machine": machine(), "records": given.records, "runs": runs}, indent=1) + "\n"
        )


def render(pairs: dict[System, Pair], records: int) -> str:
    """One line a system."""
    rows = []
    for system, pair in pairs.items():
        clean, faulty = pair.rate(pair.clean), pair.rate(pair.faulty)
        moving = pair.rate(pair.faulty, STALL_SECONDS)
        stopped = " (stopped at the limit)" if pair.faulty.used.stopped else ""
        rows.append(
            [
                system.title,
                f"{pair.faulty.checked.valid}{stopped}",
                pair.faulty.checked.lost,
                pair.faulty.checked.bad,
                f"{pair.faulty.used.seconds:.0f}",
                f"{clean:.0f}",
                f"{faulty:.0f} ({faulty / max(clean, 1e-9):.0%})",
                f"{moving:.0f} ({moving / max(clean, 1e-9):.0%})",
                f"{1000 * pair.clean.used.cpu / records:.2f}",
                f"{1000 * pair.faulty.used.cpu / records:.2f}",
                pair.faulty.server["requests"],
            ]
        )
    head = [
        "system", "valid", "lost", "bad", "wall s", "clean records/s", "with faults", "without the stall's 20 s",
        "CPU s/1,000 clean", "with faults", "requests",
    ]  # fmt: skip
    return table(head, rows)


def read_plan(folder: Path, calls: int) -> str:
    """Is every planned cell of mediflow.generate filled, or listed with the reason why not? From its own files."""
    path = folder / "coverage.json"
    if not path.exists():
        return ""
    coverage = json.loads(path.read_text())
    cells = coverage["cells"]
    short = [cell for cell in cells if cell["missing"] > 0]
    unexplained = [cell for cell in short if not cell.get("reasons")]
    ledger = [
        json.loads(line) for part in sorted((folder / "ledger").iterdir()) for line in part.open(encoding="utf-8")
    ]
    reasons = Counter(line["reason"] for line in ledger if line["status"] != "accepted")
    accepted = [line["id"] for line in ledger if line["status"] == "accepted"]
    rows = [
        json.loads(line)["id"] for part in (folder / "instructions").iterdir() for line in part.open(encoding="utf-8")
    ]
    wrong = {
        "a cell is short without a reason": bool(unexplained),
        "the cells do not add up to the plan": sum(cell["planned"] for cell in cells) != calls,
        "a planned call is in no line of the ledger": {line["number"] for line in ledger} != set(range(calls)),
        "rows and ledger differ": sorted(accepted) != sorted(rows) or len(set(rows)) != len(rows),
        "accepted and missing are not what was planned": len(rows) + sum(one["missing"] for one in cells) != calls,
    }
    found = (
        "; ".join(name for name, is_so in wrong.items() if is_so) or "every planned cell is filled or has its reason"
    )
    return (
        f"{found}: {len(cells)} cells, {len(cells) - len(short)} filled, {len(short)} short with a reason; "
        f"{len(ledger)} records in the ledger, {len(accepted)} accepted, the others {dict(reasons)}"
    )


if __name__ == "__main__":
    main()

"""Five thousand records from the same mock server: this project beside its peers, each a whole process.

    python -m benchmarks.generate --install
    python -m benchmarks.generate --records 5000 --latency 0 0.05 --repeats 3 --json out/benchmarks/generate.json

The server is a process of its own, and its CPU is told apart. Repeats are interleaved, so that what else this machine
does falls on everybody. CPU seconds are the figure to compare; records per second depend on what else runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict
from itertools import product
from pathlib import Path

from benchmarks.measure import ROOT, machine, median_spread, mock_server, table
from benchmarks.systems import VENVS, Outcome, System, find_systems, install, run_system, version, why_not

Results = dict[tuple[System, float], list[Outcome]]


def main(arguments: list[str] | None = None) -> None:
    """Run everything and print one table a latency."""
    given = parser(__doc__).parse_args(arguments)
    systems = find_systems(given.systems)
    if given.install:
        for system in {one.module: one for one in systems}.values():
            install(system, given.venvs)
    systems = available(systems, given.venvs)
    results: Results = defaultdict(list)
    turns = list(product(range(given.repeats), given.latency, systems))
    with mock_server() as server, suppress(KeyboardInterrupt):
        # Ctrl-C ends the measuring; what was measured is shown.
        for repeat, latency, system in turns:
            server.reset(latency=latency)
            out = given.work / system.name.replace(":", "-")
            outcome = run_system(system, server, given.records, given.in_flight, out, given.limit, given.venvs)
            results[system, latency].append(outcome)
            tell(system, latency, repeat, outcome)
    done = f"{sum(map(len, results.values()))} of {len(turns)} runs"
    print(f"\n{machine()}; {given.records} records, {given.in_flight} in flight; {done}, median (range)")
    for latency in given.latency:
        shown = [system for system in systems if results[system, latency]]
        if shown:
            print(f"\nLatency {1000 * latency:g} ms\n\n{render(shown, latency, results, given.records)}")
    if given.json:
        write_json(given.json, systems, results, given)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that the side-by-side commands share."""
    known = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks…"
    )
    known.add_argument("--systems", nargs="+", default=[], metavar="NAME", help="module or module:variant; default all")
    known.add_argument("--records", type=int, default=5000)
    known.add_argument("--in-flight", type=int, default=128)
    known.add_argument("--latency", type=float, nargs="+", default=[0.0, 0.05], metavar="SECONDS")
    known.add_argument("--repeats", type=int, default=3)
    known.add_argument("--limit", type=float, default=600.0, help="seconds after which a system is killed")
    known.add_argument("--venvs", type=Path, default=VENVS, help="where the environments of the peers are")
    known.add_argument("--install", action="store_true", help="make the environments first")
    known.add_argument("--work", type=Path, default=ROOT / "out" / "benchmarks", help="a folder for what runs write")
    known.add_argument("--json", type=Path, help="write all figures here too")
    return known


def available(systems: list[System], venvs: Path) -> list[System]:
    """Those that can run; a note is printed for each of the others."""
    reasons = {system: why_not(system, venvs) for system in systems}
    for system, reason in reasons.items():
        print(f"{system.title}: {f'skipped, {reason}' if reason else version(system, venvs)}", flush=True)
    return [system for system, reason in reasons.items() if reason is None]


def tell(system: System, latency: float, repeat: int, outcome: Outcome) -> None:
    """One line a run, while it goes on."""
    used, checked = outcome.used, outcome.checked
    state = "stopped at the limit" if used.stopped else f"code {used.code}"
    print(
        f"{time.strftime('%H:%M:%S')} {system.name} {1000 * latency:g} ms #{repeat + 1}: {checked.valid} valid, "
        f"{checked.bad} bad, {checked.missing} missing, {used.cpu:.1f} CPU s in {used.seconds:.1f} s, {state}",
        flush=True,
    )


def render(systems: list[System], latency: float, results: Results, records: int) -> str:
    """The table of one latency. The last column compares the CPU of whole processes with the project's own."""
    ours = next((one for one in systems if one.name == "medsmith:generate"), systems[0])
    base = statistics.median(cpu(results[ours, latency], records))
    rows = []
    for system in systems:
        outcomes = results[system, latency]
        whole = cpu(outcomes, records)
        rows.append(
            [
                system.title,
                median_spread(whole),
                median_spread([1000 * (one.used.cpu - one.used.ready_cpu) / records for one in outcomes]),
                median_spread([one.checked.valid / (one.used.seconds - one.used.ready_seconds) for one in outcomes], 0),
                median_spread([one.used.peak_mb for one in outcomes], 0),
                median_spread([one.checked.valid for one in outcomes], 0),
                median_spread([1000 * float(str(one.server["cpu_seconds"])) / records for one in outcomes], 3),
                f"{statistics.median(whole) / base:.2f}"
                + (" (stopped)" if any(o.used.stopped for o in outcomes) else ""),
            ]
        )
    head = [
        "system",
        "CPU s/1,000",
        "run only",
        "records/s",
        "peak MB",
        "valid",
        "server CPU s/1,000",
        f"× {ours.title}",
    ]
    return table(head, rows)


def trouble(outcomes: list[Outcome]) -> str:
    """What ended otherwise than well, behind the figures of the others."""
    stopped = sum(one.used.stopped for one in outcomes)
    failed = sum(bool(one.used.code) and not one.used.stopped for one in outcomes)
    notes = [f"{stopped} stopped at the limit"] * bool(stopped) + [f"{failed} failed"] * bool(failed)
    return f" ({', '.join(notes)})" if notes else ""


def cpu(outcomes: list[Outcome], records: int) -> list[float]:
    """CPU seconds per 1,000 records of the whole process tree, start-up included."""
    return [1000 * one.used.cpu / records for one in outcomes]


def write_json(path: Path, systems: list[System], results: Results, given: argparse.Namespace) -> None:
    """Everything that was measured, run by run."""
    runs = [
        {"system": system.name, "latency": latency, **asdict(one)}
        for (system, latency), outcomes in results.items()
        for one in outcomes
    ]
    versions = {system.name: version(system, given.venvs) for system in systems}
    facts = {"machine": machine(), "records": given.records, "in_flight": given.in_flight, "versions": versions}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()

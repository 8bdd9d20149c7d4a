"""One evaluation as a table to read: result.json, laid out. No number is made here."""

from __future__ import annotations

from typing import Any


def to_markdown(result: dict[str, Any]) -> str:
    """Headline and interval of every benchmark, what could not be read, the other metrics, and what was not run."""
    parts = [
        f"# {result['model']}",
        "",
        f"Suite `{result['suite']}`, protocol `{result['protocol']}`; percent, 95 % intervals.",
        "",
    ]
    benchmarks = result["benchmarks"]
    if benchmarks:
        parts += ["| benchmark | metric | value | n | not read | data |", "| --- | --- | ---: | ---: | ---: | --- |"]
        parts += [_line(name, entry) for name, entry in benchmarks.items()]
        average = result["average"]
        parts += [f"| **AVG** | plain mean of {len(benchmarks)} | **{_interval(average)}** | | | |", ""]
        parts += ["## Every metric", "", "| benchmark | metric | value | definition |", "| --- | --- | ---: | --- |"]
        parts += [
            f"| {name} | {metric} | {_interval(found)} | {found['definition']} |"
            for name, entry in benchmarks.items()
            for metric, found in entry["metrics"].items()
        ]
        missing = [f"{name}: {', '.join(entry['not_run'])}" for name, entry in benchmarks.items() if entry["not_run"]]
        if missing:
            parts += ["", "Not run, and in no mean: " + "; ".join(missing) + "."]
    if result["perplexity"]:
        parts += ["", "| corpus | perplexity per token | per byte | documents |", "| --- | ---: | ---: | ---: |"]
        parts += [
            f"| {name} | {entry['per_token']:.2f} ({_ends(entry)}) | {entry['per_byte']:.3f} | {entry['documents']} |"
            for name, entry in result["perplexity"].items()
        ]
    return "\n".join(parts) + "\n"


def _line(name: str, entry: dict[str, Any]) -> str:
    data = "simulated" if entry["simulated"] else f"published file, {entry['access']}" if entry["published"] else "made"
    share = f"{100 * entry['unreadable'] / entry['n']:.1f} %" if entry["unreadable"] else "0"
    return f"| {name} | {entry['metric']} | {_interval(entry)} | {entry['n']:,} | {share} | {data} |"


def _interval(entry: dict[str, Any]) -> str:
    if entry["low"] is None:  # of one item there is none
        return f"{100 * entry['value']:.1f}"
    return f"{100 * entry['value']:.1f} ({100 * entry['low']:.1f}–{100 * entry['high']:.1f})"


def _ends(entry: dict[str, Any]) -> str:
    return "no interval" if entry["low"] is None else f"{entry['low']:.2f}–{entry['high']:.2f}"

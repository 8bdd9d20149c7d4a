"""One evaluation as a table to read: result.json, laid out. No number is made here."""

from __future__ import annotations

from typing import Any

BEYOND = "beyond the limit"  # as eval.asking counts them


def to_markdown(result: dict[str, Any]) -> str:
    """Headline and interval of every benchmark, its caveats, the other metrics, and what was not run."""
    parts = [
        f"# {result['model']}",
        "",
        f"Suite `{result['suite']}`, protocol `{result['protocol']}`; percent, 95 % intervals.",
        "",
    ]
    benchmarks = result["benchmarks"]
    if benchmarks:
        parts += ["| benchmark | metric | value | items | shots | not read | data |"]
        parts += ["| --- | --- | ---: | ---: | ---: | ---: | --- |"]
        parts += [_line(name, entry) for name, entry in benchmarks.items()]
        average = result["average"]
        parts += [f"| **AVG** | plain mean of {len(benchmarks)} | **{_interval(average)}** | | | | |", ""]
        parts += [line for name, entry in benchmarks.items() if (line := _caveats(name, entry))]
        parts += [*([""] if parts[-1] else []), "## Every metric", ""]
        parts += ["| benchmark | metric | value | items | definition |", "| --- | --- | ---: | ---: | --- |"]
        parts += [
            f"| {name} | {metric} | {_interval(found)} | {found['n']:,} | {found['definition']} |"
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
    share = f"{100 * entry['unreadable'] / entry['n']:.1f} %" if entry["unreadable"] else "0"
    items = items_of(entry["n"], entry["left_out"].get(BEYOND, 0))
    data = data_of(entry, entry["notes"].get("as_published"))
    shots = entry["settings"]["shots"]
    return f"| {name} | {entry['metric']} | {_interval(entry)} | {items} | {shots} | {share} | {data} |"


def items_of(n: int, beyond: int) -> str:
    """How many items were scored, and of how many where a limit left some out."""
    return f"{n:,} of {n + beyond:,}" if beyond else f"{n:,}"


def data_of(entry: dict[str, Any], as_published: bool | None) -> str:
    """Where the items are from; a file in a published format is called published only where its digest says so."""
    if entry["simulated"]:
        return "simulated"
    if part := entry.get("part"):  # absent in an evaluation of an older version
        return f"{entry['access']} file, {part}"
    if not entry["published"]:
        return "made"
    state = {True: "as published", False: "not as published"}.get(as_published, "not checked")  # type: ignore[arg-type]
    return f"{entry['access']} file, {state}"


def _caveats(name: str, entry: dict[str, Any]) -> str:
    """What happened to a benchmark's items that its line in the table does not tell; empty where nothing did."""
    said = [f"{entry['truncated']:,} prompts cut to fit the model's context"] if entry["truncated"] else []
    if entry["unfinished"]:
        said.append(f"{entry['unfinished']:,} answers stopped at {entry['max_new_tokens']:,} tokens")
    said += [f"{count:,} left out: {reason}" for reason, count in entry["left_out"].items() if reason != BEYOND]
    return f"- {name}: {'; '.join(said)}." if said else ""


def _interval(entry: dict[str, Any]) -> str:
    if entry["low"] is None:  # of one item there is none
        return f"{100 * entry['value']:.1f}"
    return f"{100 * entry['value']:.1f} ({100 * entry['low']:.1f}–{100 * entry['high']:.1f})"


def _ends(entry: dict[str, Any]) -> str:
    return "no interval" if entry["low"] is None else f"{entry['low']:.2f}–{entry['high']:.2f}"

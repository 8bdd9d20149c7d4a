"""compare.md: what a comparison found, laid out for reading. No number is made here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CORRECTIONS = {"holm": "Holm", "benjamini_hochberg": "Benjamini–Hochberg"}
LONGEST = 80  # characters of a text in a table
MOST = 20  # items in the table; all are in changed.jsonl
COLUMNS = (
    "benchmark", "metric", "n", "before", "after", "difference (95 %)", "p", "p corrected", "verdict", "detectable",
    "unreadable", "agreement",
)  # fmt: skip


def render(found: dict[str, Any], changed: Sequence[dict[str, Any]]) -> str:
    """The whole page."""
    names = found["before"], found["after"]
    correction = CORRECTIONS[found["correction"]]
    parts = [f"# {names[1]} against {names[0]}", ""]
    if found["simulated"]:
        parts += ["**Simulated data**: at least one benchmark is written by a simulation.", ""]
    parts += [f"Protocol `{found['protocol']}`. Percent and points; differences are paired, after minus before.", ""]
    parts += _only_lines(found)
    if found["benchmarks"]:
        parts += [*_score_lines(found), "", overall_line(found["average"]), ""]
    if found["perplexity"]:
        parts += [*_document_lines(found["perplexity"]), ""]
    parts += [*_notes(found, correction), ""]
    if any(entry["secondary"] for entry in found["benchmarks"].values()):
        second = CORRECTIONS[found["secondary_correction"]]
        parts += [f"## Secondary metrics (p corrected after {second})", "", *_secondary_lines(found["benchmarks"]), ""]
    parts += [f"## Items that changed ({len(changed)})", "", *_item_lines(changed)]
    return "\n".join(parts).rstrip() + "\n"


def overall_line(average: dict[str, Any]) -> str:
    """Average, #DG and CV in one sentence."""
    gained, cv = average["datasets_gained"], average["cv"]
    spread = "CV without meaning" if cv["value"] is None else f"CV {_span(cv, 1, '.1f')}"
    seen = "" if average["detectable"] is None else f"; detectable {percent(average['detectable'])}"
    return (
        f"**Average** {percent(average['before'])} → {percent(average['after'])}, {points(average)}, "
        f"p {_p(average['p'])}: **{average['verdict']}**{seen}. "
        f"#DG {_span(gained, 1, '.0f')} of {average['of']}, {spread}."
    )


def percent(value: float) -> str:
    """A share as percent, without the sign."""
    return f"{100 * value:.1f}"


def points(found: dict[str, Any]) -> str:
    """A difference in points with its interval."""
    if found["low"] is None:
        return f"{100 * found['value']:+.1f} (no interval)"
    return _span(found, 100, "+.1f")


def _span(found: dict[str, Any], factor: float, form: str) -> str:
    """A value and its interval; the value alone where there is none."""
    text = format(factor * found["value"], form)
    if found["low"] is None:
        return text
    return f"{text} ({format(factor * found['low'], form)} to {format(factor * found['high'], form)})"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _score_lines(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, entry in found["benchmarks"].items():
        unreadable = entry["unreadable"]
        rows.append(
            [
                name,
                *_cells(entry["metric"], entry),
                f"{unreadable['before']} → {unreadable['after']}",
                percent(entry["agreement"]),
            ]
        )
    return _lines(COLUMNS, rows)


def _cells(metric: str, entry: dict[str, Any]) -> list[str]:
    alone = entry["n"] == entry["groups"]
    return [
        metric,
        str(entry["n"]) if alone else f"{entry['n']} in {entry['groups']}",
        percent(entry["before"]),
        percent(entry["after"]),
        points(entry),
        _p(entry["p"]),
        _p(entry["p_corrected"]),
        entry["verdict"],
        "–" if entry["detectable"] is None else percent(entry["detectable"]),
    ]


def _secondary_lines(benchmarks: dict[str, Any]) -> list[str]:
    rows = [
        [name, *_cells(metric, found)]
        for name, entry in benchmarks.items()
        for metric, found in entry["secondary"].items()
    ]
    return _lines(COLUMNS[:10], rows)


def _only_lines(found: dict[str, Any]) -> list[str]:
    """What only one of the two was asked: it is in no number below."""
    said = [
        f"Only {found[side]} was asked {', '.join(found[f'only_{side}'])}."
        for side in ("before", "after")
        if found[f"only_{side}"]
    ]
    return [f"{' '.join(said)} Below, and in the average, is what both were asked.", ""] if said else []


def _document_lines(corpora: dict[str, Any]) -> list[str]:
    """Perplexities, and the difference in nats: below zero is a gain."""
    rows = []
    for name, one in corpora.items():
        off = "no interval" if one["low"] is None else f"{one['low']:+.3f} to {one['high']:+.3f}"
        rows.append(
            [
                name,
                str(one["n"]),
                f"{one['before']:.2f}",
                f"{one['after']:.2f}",
                f"{one['value']:+.3f} ({off}) a {one['unit']}",
                _p(one["p"]),
                _p(one["p_corrected"]),
                one["verdict"],
                "–" if one["detectable"] is None else f"{one['detectable']:.3f}",
            ]
        )
    header = ("corpus", "documents", "perplexity before", "after", "nats (95 %)", *COLUMNS[6:10])
    return _lines(header, rows)


def _notes(found: dict[str, Any], correction: str) -> list[str]:
    entries = [*found["benchmarks"].items(), *found["perplexity"].items()]
    family = sum(entry["p_corrected"] is not None for _, entry in entries)
    lines = [
        "- A **real** gain or loss has an interval off zero and a p below 0.05 after correction over the "
        f"{family} tested lines of benchmarks and corpora ({correction}); a **weak** one only the interval; the rest "
        "is **noise**.",
        "- **detectable**: the smallest true difference that such a test finds with 80 % power; a smaller one is "
        "likely missed, so noise does not mean equal.",
    ]
    if found["benchmarks"]:
        lines += [
            "- **n** items (in so many independent groups); **agreement**: items with the same score before and after.",
            "- **#DG** benchmarks with a gain, however small; **CV** how uneven the gains are: their standard "
            "deviation over the size of their mean.",
        ]
    if found["perplexity"]:
        lines.append(
            "- **nats**: of the same documents, after minus before; below zero is a gain. Perplexity is e^nats."
        )
    for name, entry in entries:
        if entry["verdict"] == "not tested":
            lines.append(f"- {name} is not tested: of {entry['groups']} independent groups no p can be below 0.05.")
    return lines


def _item_lines(changed: Sequence[dict[str, Any]]) -> list[str]:
    """The largest losses, then the largest gains."""
    if not changed:
        return ["None."]
    losses = [row for row in changed if row["change"] < 0]
    gains = [row for row in reversed(changed) if row["change"] > 0]
    rows = []
    for row in [*losses[:MOST], *gains[:MOST]]:
        texts = [_cell(row[part]) for part in ("gold", "before", "after")]
        unread = f" (unreadable {' and '.join(row['unreadable'])})" if row["unreadable"] else ""
        rows.append([row["benchmark"], str(row["id"]), f"{row['turned']}{unread}", *texts])
    left = len(changed) - len(rows)
    lines = _lines(("benchmark", "item", "turned", "gold", "before", "after"), rows)
    return [*lines, "", f"{left} more are in changed.jsonl."] if left else lines


def _cell(text: Any) -> str:
    """A text as a cell: one line, not too long."""
    if text is None:
        return "(withheld)"
    line = " ".join(str(text).split()).replace("|", "\\|")
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows]]

"""The report's page and its Markdown twin: table.json, laid out for reading. No number is made here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.metrics import find_metric
from eval.report_figures import SYMBOLS, draw_averages, draw_finding, draw_profile, heat_class, heat_reach, signed
from eval.report_tables import paper_row
from eval.summary import data_of, items_of

STAGE_NAMES = {
    "base": "base",
    "raw_expert": "raw expert",
    "expert": "expert (SLERP)",
    "merge": "merge",
    "sft": "SFT",
    "dpo": "DPO",
    "derived": "summary",
}
TABLES = (
    ("experts", "Table 2", "Base and experts", ("base", "raw_expert", "expert", "derived"),
     "Raw experts come out of training on one corpus; SLERP merges each back into the base."),
    ("merges", "Table 3", "Merging the experts", ("base", "merge"),
     "One model out of all experts, without training."),
    ("alignment", "Table 4", "Alignment", ("base", "merge", "sft", "dpo"),
     "The merge, tuned on synthetic clinical instructions (SFT), then on preferences (DPO)."),
)  # fmt: skip
VERDICTS = {
    "holds": "✓",
    "partly": "◐",
    "does not hold": "✗",
    "no real difference": "○",
    "undecided": "○",
    "not tested": "–",
}
HEAT_SYMBOLS = {"gain": "▼", "weak gain": "▽", "noise": "○", "weak loss": "△", "loss": "▲"}
"""By the sign of the number: a lower perplexity is a gain."""
MARKS = {
    "gain": "a real gain: the interval is above zero, also after Holm's correction",
    "weak gain": "a gain by its own interval only; among so many comparisons it may be chance",
    "noise": "noise: the interval holds zero",
    "weak loss": "a loss by its own interval only",
    "loss": "a real loss",
}
READINGS = ("repaired", "empty", "unreadable")


def tables_of(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The paper's tables as far as there are models for them: a table needs more than the baseline."""
    shown = []
    for name, number, title, stages, caption in TABLES:
        rows = [row for row in [*table["models"], *table["derived"]] if row["stage"] in stages]
        if name == "merges":
            rows += [row for row in table["derived"] if row["name"].startswith("mean")]
        if any(row["stage"] in stages[1:] and row["stage"] != "derived" for row in rows) and table["benchmarks"]:
            # Without a new row of its own the table would repeat the one before.
            if name == "alignment" and not any(row["stage"] in ("sft", "dpo") for row in rows):
                continue
            if name == "alignment":
                rows = _on_the_way(rows)
            rows = [row | {"paper": paper_row(row["stage"], row["name"])} for row in rows]
            shown.append({"name": name, "number": number, "title": title, "caption": caption, "rows": rows})
    return shown


def render_page(table: dict[str, Any], extras: dict[str, Any]) -> str:
    """The whole report as one HTML text that needs nothing else.

    `extras` is what is not in table.json: lineage and curves as drawings, samples, costs, sources.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "signed": signed, "effect": effect, "count": count, "size": size}
    environment.filters |= {"css": lambda text: "".join(c if c.isalnum() else "-" for c in str(text).lower())}
    reach = heat_reach(table)
    tested = [finding for finding in table["findings"] if finding["verdict"] != "not tested"]
    values = {
        "table": table,
        "tables": tables_of(table),
        "headline": headline(table),
        "averages": draw_averages(table),
        "findings": [finding | {"drawing": draw_finding(finding)} for finding in tested],
        "verdicts": Counter(finding["verdict"] for finding in table["findings"]),
        "verdict_marks": VERDICTS,
        "marks": MARKS,
        "symbols": SYMBOLS,
        "heat_symbols": HEAT_SYMBOLS,
        "lead": lead(table, extras["way"]),
        "stages": STAGE_NAMES,
        "sources": {one["name"]: data_of(one, one["as_published"]) for one in table["benchmarks"]},
        "sizes": {one["name"]: items_of(one["n"], one["beyond_the_limit"]) for one in table["benchmarks"]},
        "caveats": {one["name"]: caveats(one) for one in table["benchmarks"]},
        "definitions": {one["name"]: find_metric(one["metric"]).definition for one in table["benchmarks"]},
        "profiles": profiles(table),
        "readings": readings(table),
        "letters_written": any(cell["written"] for row in table["models"] for cell in row["benchmarks"].values()),
        "untested": [finding for finding in table["findings"] if finding["verdict"] == "not tested"],
        "by_chance": 100 * (1 - 0.95 ** len(tested)),
        "heat": lambda cell: heat_class(cell.get("change"), reach),
        "style": Markup((Path(__file__).parent / "report.css").read_text(encoding="utf-8")),
        **extras,
    }
    return environment.get_template("report.html.jinja").render(values)


def profiles(table: dict[str, Any]) -> list[dict[str, Any]]:
    """A drawing for every model made from another: beside its parent and the baseline; the finished one first."""
    rows = {row["name"]: row for row in table["models"]}
    final = headline(table)["final"]["name"]
    drawn = []
    for row in sorted(table["models"], key=lambda row: row["name"] != final):
        others = [
            name for name in dict.fromkeys((row["parent"], table["baseline"])) if name in rows and name != row["name"]
        ]
        if others and row["benchmarks"]:
            drawing = draw_profile(table, row, [rows[name] for name in others])
            drawn.append({"name": row["name"], "others": others, "drawing": drawing})
    return drawn


def readings(table: dict[str, Any]) -> list[dict[str, Any]]:
    """By model and benchmark: how many answers could not be read or were mended; said and chosen letters."""
    rows = []
    for row in table["models"]:
        cells = {}
        for name, cell in row["benchmarks"].items():
            found = cell.get("readings") or {"unreadable": cell["unreadable"]}
            bad = sum(found.get(kind, 0) for kind in ("empty", "unreadable"))
            detail = ", ".join(f"{found[kind]} {kind}" for kind in READINGS if found.get(kind))
            cells[name] = {"share": bad / cell["n"], "detail": detail or "all read", "written": cell.get("written")}
        rows.append({"name": row["name"], "stage": row["stage"], "cells": cells})
    return rows


def _on_the_way(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the merges that no aligned model was made from, where that is known."""
    parents = {row["parent"] for row in rows if row["stage"] in ("sft", "dpo")}
    used = [row for row in rows if row["stage"] != "merge" or row["name"] in parents]
    return used if any(row["stage"] == "merge" for row in used) else rows


def lead(table: dict[str, Any], way: Sequence[str]) -> str:
    """What was made, from what, and how it was measured, in a sentence or two."""
    experts = headline(table)["experts"]
    names = ", ".join(row["name"] for row in experts)
    parts = []
    if experts:
        parts.append(f"{_spelled(len(experts), 'expert')} made from {table['baseline']} ({names})")
    if len(way) > 1:
        parts.append(f"the way from it to the finished model: {' → '.join(way)}")
    made = ", and ".join(parts)
    measured = []
    if table["benchmarks"]:
        measured.append(f"scored on {_spelled(len(table['benchmarks']), 'benchmark').lower()}")
    if table["corpora"]:
        corpora = _spelled(len(table["corpora"]), "held-out corpus", "held-out corpora").lower()
        measured.append(f"measured by perplexity on {corpora}")
    how = " and ".join(measured)
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in (made, how) if text)


def _spelled(number: int, one: str, many: str = "") -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    word = words[number] if number < len(words) else str(number)
    return f"{word.capitalize()} {one if number == 1 else many or one + 's'}"


def headline(table: dict[str, Any]) -> dict[str, Any]:
    """Base, experts' mean, merge and the last model: the four numbers that tell the story, as far as they are there."""
    rows = table["models"]
    base = next(row for row in rows if row["name"] == table["baseline"])
    mean = [row for row in table["derived"] if row["name"].startswith("mean")]
    steps = [base, *mean]
    for stage in ("merge", "sft", "dpo"):
        steps += [row for row in _on_the_way(rows) if row["stage"] == stage][-1:]
    return {
        "base": base,
        "final": steps[-1] if len(steps) > 1 else rows[-1],
        "steps": [step for step in steps if step["average"]],
        "experts": [row for row in rows if row["stage"] == "expert"] or [r for r in rows if r["stage"] == "raw_expert"],
    }


def render_markdown(table: dict[str, Any]) -> str:
    """The tables as Markdown: the same numbers, without drawings, times or places."""
    parts = [f"# {table['title']}", ""]
    if table["simulated"]:
        parts += ["**Simulated data**: the texts and tasks are written by a simulation, not by or about patients.", ""]
    parts += [
        f"Protocol `{table['protocol']}`. Percent, 95 % intervals; gains over `{table['baseline']}` are paired.",
        "",
    ]
    if table.get("groups"):
        parts += ["## By group of benchmarks", "", *_group_lines(table), ""]
    for shown in tables_of(table):
        parts += [f"## {shown['title']}", "", *_score_lines(shown["rows"], table), ""]
    if table["corpora"]:
        parts += ["## Perplexity per token (per byte), change against the base", "", *_perplexity_lines(table), ""]
    if table["benchmarks"]:
        parts += ["## Answers that could not be read, percent", "", *_reading_lines(table), ""]
        parts += ["## What was scored", "", *_benchmark_lines(table["benchmarks"]), ""]
    parts += ["## Findings of the paper", "", *_finding_lines(table["findings"]), ""]
    parts += [f"{SYMBOLS[name]} {text}" + "  " for name, text in MARKS.items()]
    return "\n".join(parts).rstrip() + "\n"


def _score_lines(rows: Sequence[dict[str, Any]], table: dict[str, Any]) -> list[str]:
    names = [benchmark["name"] for benchmark in table["benchmarks"]]
    body = []
    for row in rows:
        cells = [_score(row["benchmarks"].get(name)) for name in names]
        gained = f"{row['datasets_gained']['value']:.0f} of {row['of']}" if "datasets_gained" in row else "–"
        cv = row.get("cv", {}).get("value")
        gain = {"gain": row["gain"]} if "gain" in row else {}
        average = _score({**row["average"], **gain} if row["average"] else None, whole=True)
        body.append(
            [row["name"], STAGE_NAMES[row["stage"]], *cells, average, gained, "–" if cv is None else f"{cv:.1f}"]
        )
    return _lines(["model", "stage", *names, "AVG", "#DG", "CV"], body)


def _group_lines(table: dict[str, Any]) -> list[str]:
    groups = table["groups"]
    body = [
        [row["name"], STAGE_NAMES[row["stage"]], *(_score(one["models"][row["name"]], whole=True) for one in groups)]
        for row in table["models"]
    ]
    said = [f"- {one['name']} ({one['items']:,} items): {', '.join(one['parts'])}" for one in groups]
    return [*_lines(["model", "stage", *(one["name"] for one in groups)], body), "", *said]


def _benchmark_lines(benchmarks: Sequence[dict[str, Any]]) -> list[str]:
    """Metric, items, shots and source of every benchmark; what was not run or was cut, where anything was."""
    body = []
    for one in benchmarks:
        data = data_of(one, one["as_published"])
        body.append([one["name"], one["metric"], items_of(one["n"], one["beyond_the_limit"]), str(one["shots"]), data])
    said = [f"- {one['name']}: {caveat}." for one in benchmarks if (caveat := caveats(one))]
    return [*_lines(["benchmark", "metric", "items", "shots", "data"], body), *(["", *said] if said else [])]


def caveats(benchmark: dict[str, Any]) -> str:
    """What the headline does not hold, and which models did not see whole prompts; empty where neither is so."""
    said = [f"not run, and in no mean: {', '.join(benchmark['not_run'])}"] if benchmark["not_run"] else []
    cut = ", ".join(f"{count:,} by {model}" for model, count in benchmark["cut"].items())
    return "; ".join([*said, f"prompts cut to fit the model's context: {cut}"] if cut else said)


def _score(cell: dict[str, Any] | None, whole: bool = False) -> str:
    if cell is None:
        return "–"
    text = f"{percent(cell['value'])} ({percent(cell['low'])}–{percent(cell['high'])})"
    gain = cell.get("gain")
    if gain is None:
        return text
    text += f" {SYMBOLS.get(gain.get('mark', ''), '')}{signed(100 * gain['value'])}"
    return text + (f" ({signed(100 * gain['low'])} to {signed(100 * gain['high'])})" if whole else "")


def _perplexity_lines(table: dict[str, Any]) -> list[str]:
    names = [corpus["name"] for corpus in table["corpora"]]
    body = []
    for row in table["models"]:
        cells = []
        for name in names:
            cell = row["perplexity"].get(name)
            if cell is None:
                cells.append("–")
                continue
            text = f"{cell['per_token']:.2f} ({cell['per_byte']:.3f})"
            if "change" in cell:
                change = cell["change"]
                text += f" {signed(100 * change['value'])} % "
                text += f"({signed(100 * change['low'])} to {signed(100 * change['high'])})"
            cells.append(f"**{text}**" if cell["own"] else text)
        body.append([row["name"], STAGE_NAMES[row["stage"]], *cells])
    return _lines(["model", "stage", *names], body)


def _reading_lines(table: dict[str, Any]) -> list[str]:
    names = [benchmark["name"] for benchmark in table["benchmarks"]]
    body = []
    for row in readings(table):
        cells = [row["cells"].get(name) for name in names]
        body.append([row["name"], *("–" if cell is None else percent(cell["share"]) for cell in cells)])
    return _lines(["model", *names], body)


def _finding_lines(findings: Sequence[dict[str, Any]]) -> list[str]:
    body = [
        [
            finding["claim"],
            f"{VERDICTS[finding['verdict']]} {finding['verdict']}",
            effect(finding) or finding["note"],
            finding["paper"],
        ]
        for finding in findings
    ]
    return _lines(["finding", "verdict", "here", "in the paper"], body)


def _lines(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows]]


def effect(part: dict[str, Any], unit: str = "") -> str:
    """A contrast in words: value and interval, in points, percent or data sets; empty where there is none."""
    if part.get("value") is None or part.get("low") is None:
        return ""
    unit = unit or part.get("unit", "points")
    factor = 1.0 if unit == "data sets" else 100.0
    low, high = (signed(factor * part[key]) for key in ("low", "high"))
    return f"{signed(factor * part['value'])} {unit} ({low} to {high})"


def percent(value: float) -> str:
    """A share as percent, without the sign."""
    return f"{100 * value:.1f}"


def count(value: int | None) -> str:
    """A number in short: 1,234 or 1.2 M."""
    if value is None:
        return "–"
    return f"{value:,}" if value < 100_000 else f"{value / 1e6:,.1f} M"


def size(value: float) -> str:
    """Bytes as MiB or GiB."""
    return f"{value / 2**20:,.0f} MiB" if value < 2**30 else f"{value / 2**30:.1f} GiB"

"""report.html of a curated set: one static file that needs no network. The numbers are made here; page.js draws."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediflow.curation.coverage import AXES, KEPT, document_of

if TYPE_CHECKING:
    import polars

CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")
PARTS = ("instruction", "input", "output")
SCORE_BINS, LENGTH_BINS = 15, 24
# A page must open at once: what is longer is cut, and says so.
TEXT_CHARACTERS, SAMPLE_CHARACTERS, POINTS, POINT_CHARACTERS = 4000, 1_800_000, 5000, 200
GROUPS = {
    "people": ("review_rejected", "review_conflict"),
    "not fit to use": (
        "empty", "too_short", "too_long", "markup", "refusal", "echo", "invalid_json", "invalid", "repetition",
        "foreign", "private", "contradicted",
    ),
    "repeats": ("exact_duplicate", "near_duplicate", "semantic_duplicate"),
    "test data": ("contaminated",),
    "quality": ("unjudged", "low_quality"),
    "number": ("beyond_top_rows",),
}  # fmt: skip
"""Why rows go, in the order in which a reader would ask; a reason that is not listed comes under "other"."""


@dataclass(frozen=True)
class Described:
    """What the page tells.

    `rows`: one line a row that came in: task_type, document, section, input_data, output_format, difficulty_level, the
    five scores (null: not judged), instruction_words, input_words, output_words, decision ("kept" or the reason).
    `points`: x, y, task_type, input_data, decision, text; a sample of an embedding, may be empty.
    `samples`: kept rows with their texts, spread over the cells; best first within a cell.
    `coverage`: as `coverage.describe_coverage` gives it. `contamination`: {benchmark: {count's name: number}}.
    `facts`: of the run. Read are simulated, instructions, teacher, and where they are there: teachers {name: {rows,
    kept, cost, …}}, verification {checked, contradicted, rows, by_kind: {kind: {checked, contradicted}}}, where rows
    are those that were checked.
    """

    title: str
    rows: polars.DataFrame
    points: polars.DataFrame
    samples: Sequence[Mapping[str, Any]]
    coverage: Mapping[str, Any]
    contamination: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]


def write_page(path: Path, described: Described) -> None:
    """Write the page; equal contents give equal bytes."""
    here = Path(__file__).parent
    script = (here / "page.js").read_text(encoding="utf-8")
    # Only this very script may run, whatever a row holds.
    allowed = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'; img-src data:"
    title, values = escape(described.title), json_for_script(page_data(described))
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{(here / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header><div><div class="kicker">mediflow · curated set</div><h1>{title}</h1><div id="lead"></div></div></header>
<noscript><p>The drawings need JavaScript; the numbers are in coverage.json and run.json.</p></noscript>
<nav><ul id="contents"></ul></nav>
<main id="main"></main>
<div id="tip" role="tooltip" hidden></div>
<script type="application/json" id="data">{values}</script>
<script>
{script}</script>
</body>
</html>
"""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def page_data(described: Described) -> dict[str, Any]:
    """Everything that the page shows, as JSON values; pure."""
    import polars

    axes = {axis: list(described.coverage["axes"][axis]) for axis in AXES}
    counts = dict(described.rows["decision"].cast(polars.String).value_counts(sort=True).iter_rows())
    drops = [
        {"group": group, "reason": reason, "rows": counts[reason]}
        for group, reason in sorted_reasons([reason for reason in counts if reason != KEPT])
    ]
    kept = counts.get(KEPT, 0)
    assert kept + sum(drop["rows"] for drop in drops) == len(described.rows), "a row vanished"
    return {
        "came": len(described.rows),
        "kept": kept,
        "axes": axes,
        "documents": [document_of(place) for place in axes["input_data"]],
        "drops": drops,
        "scores": [one for name in CRITERIA if (one := histogram(described.rows, name, axes["task_type"], score=True))],
        "lengths": [
            one for name in PARTS if (one := histogram(described.rows, f"{name}_words", axes["task_type"], score=False))
        ],
        "cells": _cells(described.coverage, axes),
        "planned": described.coverage.get("planned"),
        "holes": [
            [axes["task_type"].index(hole["task_type"]), axes["input_data"].index(hole["input_data"]), hole["why"]]
            for hole in described.coverage["holes"]
        ],
        "samples": _samples(described.samples),
        "points": _points(described.points),
        "contamination": described.contamination,
        "facts": dict(described.facts),
    }


def sorted_reasons(reasons: Sequence[str]) -> list[tuple[str, str]]:
    """(group, reason) in the order of GROUPS, then the others by name."""
    known = [(group, reason) for group, listed in GROUPS.items() for reason in listed]
    met = [pair for pair in known if pair[1] in set(reasons)]
    return met + [("other", reason) for reason in sorted(set(reasons) - {reason for _, reason in known})]


def histogram(rows: polars.DataFrame, column: str, tasks: Sequence[str], *, score: bool) -> dict[str, Any] | None:
    """Counts in bins of all rows and of those kept, over everything ("") and by task; None without a value.

    Scores have 15 bins from 1 to 4. Lengths have 24 bins up to the 99th percentile; the last holds all that is longer.
    """
    import polars

    values = rows.select("task_type", "decision", column).drop_nulls(column)
    if values.is_empty():
        return None
    value = polars.col(column)
    if score:
        low, bins, step = 1.0, SCORE_BINS, 3 / SCORE_BINS
    else:
        high = values[column].quantile(0.99)
        assert high is not None, "a column with values has a quantile"
        low, bins, step = 0.0, LENGTH_BINS, float(max(1, -(-int(high) // LENGTH_BINS)))
    # The small sum keeps means such as 1.4 from falling below the edge that they are meant to stand on.
    place = ((value - low) / step + 1e-9).floor().clip(0, bins - 1).cast(polars.Int32)
    binned = values.with_columns(place.alias("bin"), (polars.col("decision") == KEPT).alias("is_kept"))
    counts = {name: {"all": [0] * bins, "kept": [0] * bins} for name in ("", *tasks)}
    for task, number, is_kept, count in binned.group_by("task_type", "bin", "is_kept").len().iter_rows():
        for name in ("", task):
            counts[name]["all"][number] += count
            counts[name]["kept"][number] += count if is_kept else 0
    left = binned.filter("is_kept")
    medians = {"": left[column].median(), **dict(left.group_by("task_type").agg(value.median()).iter_rows())}
    return {
        "name": column.removesuffix("_words"),
        "low": low,
        "step": step,
        "counts": {name: one for name, one in counts.items() if not name or any(one["all"])},
        "medians": dict(sorted((str(name), median) for name, median in medians.items() if median is not None)),
    }


def json_for_script(value: Any) -> str:
    """JSON that can stand in a script element: no text in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _cells(coverage: Mapping[str, Any], axes: Mapping[str, list[str]]) -> list[int]:
    """Seven numbers a fine cell: the places on the four axes, planned, generated, kept."""
    places = {axis: {value: number for number, value in enumerate(axes[axis])} for axis in AXES}
    flat: list[int] = []
    for cell in coverage["cells"]:
        flat += [places[axis][cell[axis]] for axis in AXES]
        flat += [cell["planned"], cell["generated"], cell["kept"]]
    return flat


def _samples(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Samples with their texts cut, as many as the page bears."""
    shown, used = [], 0
    for sample in samples:
        texts = {part: str(sample[part]) for part in PARTS}
        cut = {part: text[:TEXT_CHARACTERS] for part, text in texts.items()}
        used += sum(map(len, cut.values()))
        if used > SAMPLE_CHARACTERS:
            break
        about = {name: sample[name] for name in ("id", *AXES, *CRITERIA) if sample.get(name) is not None}
        shown.append({**about, **cut, "cut": [part for part in PARTS if len(texts[part]) > TEXT_CHARACTERS]})
    return shown


def _points(points: polars.DataFrame) -> dict[str, list[Any]] | None:
    """Columns of the map, x and y from 0 to 10,000 with their proportion kept; None without a point."""
    import polars

    if points.is_empty():
        return None
    points = points.head(POINTS)
    spans = []
    for axis in ("x", "y"):
        low, high = points[axis].min(), points[axis].max()
        spans.append((float(low), float(high)))  # type: ignore[arg-type]
    width = max(high - low for low, high in spans) or 1.0
    placed = {
        axis: [round(10_000 * (value - low) / width) for value in points[axis].to_list()]
        for axis, (low, _) in zip(("x", "y"), spans, strict=True)
    }
    names = {name: points[name].cast(polars.String).to_list() for name in ("task_type", "input_data", "decision")}
    return {**placed, **names, "text": [str(text)[:POINT_CHARACTERS] for text in points["text"].to_list()]}

"""report.html of a curated set: one static file, no script, no network. The pictures are inline SVG."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mediflow.coverage import document_of
from mediflow.shingles import split_words
from medsmith.records import Instruction

CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")
PARTS = ("instruction", "input", "output")
SAMPLES = 40


def write_page(
    path: Path,
    title: str,
    generated: Sequence[Instruction],
    kept: Sequence[Instruction],
    coverage: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write the page; equal rows give equal bytes."""
    reasons: Mapping[str, int] = facts["reasons"]
    parts = [
        f"<h1>{escape(title)}</h1><p>{len(kept):,} of {len(generated):,} generated rows were kept.</p>",
        '<p class="warn">Simulated data: written by rules about invented patients. Not for clinical use.</p>'
        if facts["simulated"]
        else "",
        _tiles(generated, kept, reasons, facts),
        _section("Why rows were dropped", "", bars(reasons) if reasons else "<p>No row was dropped.</p>"),
        _section(
            "Scores",
            "The judge's means, 1 to 4. Pale: all generated rows. Colour: kept.",
            _score_charts(generated, kept),
        ),
        _section("Lengths", "Words. The last bar holds all that is longer.", _length_charts(generated, kept)),
        _section(
            "Coverage",
            f"Rows kept by task and document. Of the combinations of task, document and format, "
            f"{len(coverage['holes'])} have no row; {len(coverage['lost'])} finer cells "
            "had rows and lost them all (see coverage.json).",
            heat_map(Counter((row.task_type, document_of(row)) for row in kept)),
        ),
        _section("Test data kept out", "", _contamination(facts["contamination"])),
        _section("Rows to read", "The best row of each cell, highest rank first.", _samples(kept)),
    ]
    style = f'<meta name="viewport" content="width=device-width"><style>{_style()}</style>'
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>{style}'
    path.write_text(f"{page}<main>{''.join(parts)}</main></html>\n", encoding="utf-8")


def bars(counts: Mapping[str, int]) -> str:
    """Horizontal bars, largest first, each with its name and number."""
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    longest = max(counts.values())
    marks = []
    for place, (name, count) in enumerate(rows):
        y = place * 26
        width = max(2.0, 500 * count / longest)
        marks.append(
            f'<text x="170" y="{y + 16}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="180" y="{y + 4}" width="{width:.1f}" height="16" rx="3" fill="var(--bad)"/>'
            f'<text x="{188 + width:.1f}" y="{y + 16}">{count:,}</text>'
        )
    return f'<div class="card">{_svg(760, 26 * len(rows), "".join(marks), "rows dropped by reason")}</div>'


def histogram(name: str, every: Sequence[float], kept: Sequence[float], low: float, high: float, bins: int) -> str:
    """Two histograms over one another, as shares of all: everything pale, what was kept in colour."""
    edges = np.linspace(low, high, bins + 1)
    clipped = [np.histogram(np.clip(values, low, high), edges)[0] for values in (every, kept)]
    top = max(1, int(clipped[0].max()))
    step = 240 / bins
    marks = [f'<text x="0" y="12">{escape(name)}</text>']
    for counts, colour in zip(clipped, ("var(--all)", "var(--kept)"), strict=True):
        for place, count in enumerate(counts):
            height = 90 * int(count) / top
            if count:
                marks.append(
                    f'<rect x="{place * step + 0.5:.1f}" y="{112 - height:.1f}" width="{step - 1:.1f}" '
                    f'height="{height:.1f}" fill="{colour}"/>'
                )
    middle = float(np.median(kept)) if len(kept) else float("nan")
    marks.append(
        f'<line x1="0" x2="240" y1="112.5" y2="112.5" stroke="var(--line)"/><text x="0" y="126">{low:g}</text>'
    )
    marks.append(f'<text x="240" y="126" text-anchor="end">{high:g}</text>')
    marks.append(f'<text x="240" y="12" text-anchor="end">median {middle:.4g}</text>')
    return f'<div class="card">{_svg(240, 130, "".join(marks), f"histogram of {name}")}</div>'


def heat_map(counts: Mapping[tuple[str, str], int]) -> str:
    """A table of rows × columns; the deeper the colour, the more; an empty cell shows a dot."""
    rows = sorted({row for row, _ in counts})
    columns = sorted({column for _, column in counts})
    most = max(counts.values())
    head = "".join(f"<th>{escape(_spaced(column))}</th>" for column in columns)
    body = []
    for row in rows:
        cells = []
        for column in columns:
            count = counts.get((row, column), 0)
            # The square root, so that small cells can be told from empty ones.
            depth = 0.08 + 0.72 * (count / most) ** 0.5 if count else 0.0
            where = escape(f"{_spaced(row)} · {_spaced(column)}: {count}")
            cells.append(f'<td style="background:rgba(var(--heat),{depth:.2f})" title="{where}">{count or "·"}</td>')
        body.append(f"<tr><th>{escape(_spaced(row))}</th>{''.join(cells)}</tr>")
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="card heat">{table}</div>'


def _tiles(
    generated: Sequence[Instruction], kept: Sequence[Instruction], reasons: Mapping[str, int], facts: Mapping[str, Any]
) -> str:
    repeats = reasons.get("exact_duplicate", 0) + reasons.get("near_duplicate", 0)
    figures = {
        "generated": len(generated),
        "kept": len(kept),
        "instructions": facts["instructions"],
        "duplicates out": repeats,
        "contaminated out": reasons.get("contaminated", 0),
        "private out": reasons.get("private", 0),
    }
    tiles = "".join(f'<div class="card tile"><b>{number:,}</b>{name}</div>' for name, number in figures.items())
    return f'<div class="grid">{tiles}</div>'


def _score_charts(generated: Sequence[Instruction], kept: Sequence[Instruction]) -> str:
    charts = []
    for name in CRITERIA:
        every, left = ([s for row in rows if (s := getattr(row, name)) is not None] for rows in (generated, kept))
        if every:
            charts.append(histogram(name, every, left, 1, 4, 15))
    return f'<div class="grid">{"".join(charts)}</div>' if charts else "<p>No judge's scores were given.</p>"


def _length_charts(generated: Sequence[Instruction], kept: Sequence[Instruction]) -> str:
    charts = []
    for name in PARTS:
        every, left = ([len(split_words(getattr(row, name))) for row in rows] for rows in (generated, kept))
        high = max(5, int(np.percentile(every, 99)))
        charts.append(histogram(name, every, left, 0, high, 24))
    return f'<div class="grid">{"".join(charts)}</div>'


def _contamination(counts: Mapping[str, Mapping[str, int]]) -> str:
    if not counts:
        return '<p class="warn">No blocklist was given: rows were not compared with any benchmark.</p>'
    names = ("benchmark", "texts", "rows out, long sequence", "rows out, most of a text", "template", "too short")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>" + "".join(f"<td>{number:,}</td>" for number in one.values()) + "</tr>"
        for name, one in counts.items()
    )
    note = (
        "<p>Template: texts that so many rows hold that they are standard phrases. Too short: items without a text "
        "long enough to tell a copy from a coincidence. Neither is looked for.</p>"
    )
    return f'{note}<div class="card"><table><tr>{head}</tr>{rows}</table></div>'


def _samples(kept: Sequence[Instruction]) -> str:
    cells: dict[tuple[str, str], list[Instruction]] = defaultdict(list)
    for row in kept:
        cells[row.task_type, row.output_format].append(row)
    shown = []
    for (task, form), rows in sorted(cells.items())[:SAMPLES]:
        row = rows[0]
        quality = "" if row.quality is None else f" · quality {row.quality:.2f}"
        label = escape(f"{_spaced(row.input_data)} · {row.difficulty_level} · {form}{quality} · {len(rows):,} rows")
        texts = "".join(
            f'<div class="dim">{part}</div><pre class="{part}">{escape(getattr(row, part))}</pre>' for part in PARTS
        )
        shown.append(
            f'<details><summary>{escape(_spaced(task))} <span class="dim">{label}</span></summary>{texts}</details>'
        )
    return "".join(shown)


def _section(title: str, note: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{f'<p>{escape(note)}</p>' if note else ''}{body}"


def _style() -> str:
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def _svg(width: int, height: int, marks: str, label: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{marks}</svg>'


def _spaced(name: str) -> str:
    return name.replace("_", " ")

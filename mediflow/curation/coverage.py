"""Which cells of the taxonomy (task × input × difficulty × format) are filled: planned, generated, kept; the holes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediflow.taxonomy import DIFFICULTIES, FORMATS, WHOLE, Taxonomy, load_taxonomy
from medsmith.records import read_json

if TYPE_CHECKING:
    import polars

AXES = ("task_type", "input_data", "difficulty_level", "output_format")
KEPT = "kept"


def describe_coverage(
    rows: polars.DataFrame, planned: Iterable[Mapping[str, Any]] = (), taxonomy: Taxonomy | None = None
) -> dict[str, Any]:
    """Counts over the whole taxonomy, by axis and by cell, and where nothing was kept.

    `rows` has one line a row that came in: the four axes and `decision` ("kept", or why not). `planned` are cells with
    the number that was asked for, as `read_planned` gives them. Values that the taxonomy does not know are added to it.

    `cells` are the fine cells with any number above 0. `holes` are the pairs of task and input of which nothing was
    kept, each with why: "not planned" (or, where nothing is known of a plan, "no row"), "not generated", or the reason
    that dropped most of its rows. `lost` are the fine cells that had rows and kept none.
    """
    import polars

    taxonomy = taxonomy or load_taxonomy()
    column = polars.col
    counted = (
        rows.group_by(AXES)
        .agg(polars.len().alias("generated"), (column("decision") == KEPT).sum().alias("kept"))
        .with_columns(column(axis).cast(polars.String) for axis in AXES)
    )
    cells: dict[tuple[str, ...], list[int]] = {tuple(line[:4]): [0, *line[4:]] for line in counted.iter_rows()}
    plan = list(planned)
    for cell in plan:
        place = tuple(str(cell[axis]) for axis in AXES)
        cells.setdefault(place, [0, 0, 0])[0] += int(cell["planned"])
    axes = _axes(taxonomy, cells)
    filled = [{**dict(zip(AXES, place, strict=True)), **_named(cells[place])} for place in sorted(cells)]
    totals = [sum(numbers[part] for numbers in cells.values()) for part in range(3)]
    pairs = _sum(cells, (0, 1))
    missing = "not planned" if plan else "no row"
    by_axis = [_sum(cells, (number,)) for number in range(len(AXES))]
    reasons = _main_reasons(rows)
    holes = []
    for task in axes["task_type"]:
        for name in axes["input_data"]:
            asked, came, kept = pairs.get((task, name), [0, 0, 0])
            if not kept:
                why = reasons[task, name] if came else "not generated" if asked else missing
                holes.append({"task_type": task, "input_data": name, "planned": asked, "generated": came, "why": why})
    return {
        "planned": totals[0] if plan else None,
        "generated": totals[1],
        "kept": totals[2],
        "pairs": len(axes["task_type"]) * len(axes["input_data"]),
        "pairs_filled": len(axes["task_type"]) * len(axes["input_data"]) - len(holes),
        "axes": {
            axis: {value: _named(sums.get((value,), [0, 0, 0])) for value in axes[axis]}
            for axis, sums in zip(AXES, by_axis, strict=True)
        },
        "cells": filled,
        "holes": holes,
        "lost": [{axis: cell[axis] for axis in AXES} for cell in filled if cell["generated"] and not cell["kept"]],
    }


def read_planned(path: Path) -> list[dict[str, Any]]:
    """The plan's cells {the four axes, planned} of a generate folder's coverage.json; empty where it is missing."""
    if not path.is_file():
        return []
    return [
        dict(zip(AXES, _place(cell), strict=True)) | {"planned": cell["planned"]} for cell in read_json(path)["cells"]
    ]


def input_name(document: str, section: str | None) -> str:
    """How rows name an input: `soap_note`, or `soap_note: Plan` for one section of it."""
    return document if section in (None, "", WHOLE) else f"{document}: {section}"


def document_of(input_data: str) -> str:
    """The document type of an input, without its section."""
    return input_data.partition(":")[0].strip()


def _place(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """The four axes of a cell, by the names of rows or of the plan."""
    place = cell.get("input_data") or input_name(cell["document_type"], cell.get("section"))
    return (cell["task_type"], place, cell.get("difficulty_level") or cell["difficulty"], cell["output_format"])


def _axes(taxonomy: Taxonomy, cells: Iterable[tuple[str, ...]]) -> dict[str, list[str]]:
    """Every value of every axis: the taxonomy's in its order, then what else was met."""
    known: tuple[Sequence[str], ...] = (
        list(taxonomy.tasks),
        [input_name(*pair) for pair in taxonomy.inputs()],
        DIFFICULTIES,
        FORMATS,
    )
    met = [sorted({cell[number] for cell in cells}) for number in range(4)]
    return {
        axis: [*values, *(one for one in others if one not in set(values))]
        for axis, values, others in zip(AXES, known, met, strict=True)
    }


def _sum(cells: Mapping[tuple[str, ...], list[int]], keep: tuple[int, ...]) -> dict[tuple[str, ...], list[int]]:
    sums: dict[tuple[str, ...], list[int]] = {}
    for place, numbers in cells.items():
        held = sums.setdefault(tuple(place[number] for number in keep), [0, 0, 0])
        for part, number in enumerate(numbers):
            held[part] += number
    return sums


def _main_reasons(rows: polars.DataFrame) -> dict[tuple[str, str], str]:
    """The most frequent reason by (task, input), the first in the alphabet of equally frequent ones."""
    import polars

    found = (
        rows.filter(polars.col("decision") != KEPT)
        .group_by("task_type", "input_data", "decision")
        .len()
        .with_columns(polars.col(name).cast(polars.String) for name in ("task_type", "input_data", "decision"))
        .sort(["len", "decision"], descending=[True, False])
    )
    reasons: dict[tuple[str, str], str] = {}
    for task, place, reason, _ in found.iter_rows():
        reasons.setdefault((task, place), reason)
    return reasons


def _named(numbers: Sequence[int]) -> dict[str, int]:
    return dict(zip(("planned", "generated", "kept"), numbers, strict=True))

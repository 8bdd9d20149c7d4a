"""The picture of a search: candidates in the order of asking, the best so far, and each number beside the score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_PANELS = 18
INK, POINT, BEST = "#333333", "#4477aa", "#ee6677"


def draw(rows: Sequence[Mapping[str, Any]], objective: str, direction: str, path: Path) -> None:
    """Draw `history.png` from the rows of trials.jsonl (best first); the same rows give the same bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scored = sorted((row for row in rows if "error" not in row), key=lambda row: int(row["number"]))
    numbers = [int(row["number"]) + 1 for row in scored]
    # An infinite score is written as null: such a candidate is left out of the picture.
    scores = [math.nan if row["objectives"][objective] is None else row["objectives"][objective] for row in scored]
    names = [name for name in scored[0]["values"] if all(_is_number(row["values"][name]) for row in scored)]
    names = names[:MOST_PANELS]
    lines = 2 if len(names) <= 8 else 3
    columns = 1 + math.ceil(len(names) / lines)
    figure = pyplot.figure(figsize=(4.2 + 2.2 * (columns - 1), 1.8 * lines), layout="constrained")
    grid = figure.add_gridspec(lines, columns, width_ratios=[2.0, *[1.0] * (columns - 1)])
    axes = figure.add_subplot(grid[:, 0])
    axes.scatter(numbers, scores, s=16, color=POINT, label="candidate", zorder=2)
    better: Callable[[float, float], float] = max if direction == "maximize" else min
    axes.step(numbers, _running(scores, better), where="post", color=BEST, label="best so far", zorder=1)
    axes.set(xlabel="candidate, in the order of asking", ylabel=f"{objective} (validation)")
    axes.legend(frameon=False, fontsize=8)
    for place, name in enumerate(names):
        panel = figure.add_subplot(grid[place % lines, 1 + place // lines], sharey=axes)
        panel.scatter([row["values"][name] for row in scored], scores, s=8, color=POINT)
        panel.set_xlabel(name.replace("models.", "").replace("parameters.", ""), fontsize=7)
        panel.tick_params(labelsize=7, labelleft=False)
    for one in figure.axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(colors=INK)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _running(scores: Sequence[float], better: Callable[[float, float], float]) -> list[float]:
    best: list[float] = []
    for score in scores:
        before = best[-1] if best else math.nan
        best.append(before if math.isnan(score) else score if math.isnan(before) else better(before, score))
    return best


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

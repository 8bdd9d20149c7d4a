"""A small line chart as SVG text. Colours are classes of the page's style sheet (`c0`, `c1` …), for light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 28
POINTS = 200
"""A curve of more steps is drawn by the means of so many stretches."""


class Curve(NamedTuple):
    """A line: its name and its points by step."""

    name: str
    points: Sequence[tuple[float, float]]


def draw(curves: Sequence[Curve], label: str) -> str:
    """The curves in one picture with a key below; empty where there is nothing to draw."""
    drawn = [(place, Curve(one.name, thin(_finite(one.points)))) for place, one in enumerate(curves)]
    drawn = [(place, one) for place, one in drawn if one.points]
    if not drawn:
        return ""
    steps = [step for _, one in drawn for step, _ in one.points]
    values = [value for _, one in drawn for _, value in one.points]
    x = _Scale(min(0.0, *steps), max(steps), LEFT, WIDTH - RIGHT)
    y = _Scale(min(values), max(values), HEIGHT - BOTTOM, TOP, pad=0.05)
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in y.ticks(4)
    ]
    parts += [
        f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{tick:g}</text>'
        for tick in x.ticks(5)
    ]
    for place, one in drawn:
        line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in one.points)
        parts.append(
            f'<polyline class="c{place % 6}" points="{line}"><title>{html.escape(one.name)}</title></polyline>'
        )
        if len(one.points) <= 20:
            parts += [
                f'<circle class="c{place % 6}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="3"><title>'
                f"{html.escape(one.name)}, step {step:g}: {value:.4g}</title></circle>"
                for step, value in one.points
            ]
    keys = " ".join(f'<span class="key c{place % 6}">{html.escape(one.name)}</span>' for place, one in drawn)
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    return f"<figure>{picture}<figcaption>{html.escape(label)}: {keys}</figcaption></figure>"


def thin(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """At most so many points: the means of equal stretches."""
    if len(points) <= most:
        return list(points)
    cuts = [round(place * len(points) / most) for place in range(most + 1)]
    stretches = [points[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    return [
        (sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in stretches
    ]


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


class _Scale:
    """A linear map from values to places."""

    def __init__(self, low: float, high: float, start: float, end: float, pad: float = 0.0) -> None:
        spread = (high - low) or abs(high) or 1.0
        self.low, self.high, self.start, self.end = low - pad * spread, low + (1 + pad) * spread, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round values within the scale, about so many."""
        raw = (self.high - self.low) / count
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(number * step, 10) for number in range(first, last + 1)]

"""The report's drawings, as SVG text. Colours are classes of the page's style sheet, for light, dark and paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from eval.report_lineage import NODE_HEIGHT, NODE_WIDTH, Drawing

POINTS = 160
"""A curve of more steps is drawn by the means of so many stretches."""
SYMBOLS = {"gain": "▲", "weak gain": "△", "noise": "○", "weak loss": "▽", "loss": "▼"}


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, the minus a real one; what rounds to zero has none."""
    text = f"{value:+.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def draw_averages(table: dict[str, Any]) -> Markup:
    """Dot and whisker of every model's average, the baseline as a line, the gain in words."""
    rows = [row for row in table["models"] if row["average"]]
    if not rows:
        return Markup("")
    left, right, top, step, width = 190, 306, 30, 28, 1120
    low = min(row["average"]["low"] for row in rows)
    high = max(row["average"]["high"] for row in rows)
    scale = _Scale(low, high, left, width - right)
    height = top + step * len(rows) + 12
    parts = [_axis(scale, top - 6, height - 8)]
    base = next((row for row in rows if row["name"] == table["baseline"]), None)
    if base:
        x = scale(base["average"]["value"])
        parts.append(f'<line class="baseline" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{height - 8}"/>')
    for number, row in enumerate(rows):
        y = top + step * number + step / 2
        parts.append(_whisker(row["average"], scale, y, row["stage"]))
        parts.append(_text("label", left - 16, y, row["name"], "end"))
        parts.append(_text("value", width - right + 62, y, f"{100 * row['average']['value']:.1f}", "end"))
        if "gain" in row:
            value, low, high = (signed(100 * row["gain"][key]) for key in ("value", "low", "high"))
            parts.append(
                _text(
                    f"m-{_css(row['gain']['mark'])}", width - right + 96, y, f"{SYMBOLS[row['gain']['mark']]} {value}"
                )
            )
            parts.append(_text("faint", width, y, f"({low} to {high})", "end"))
    return _svg(width, height, parts, "Average score of every model with its interval", "averages")


def draw_profile(table: dict[str, Any], model: dict[str, Any], others: Sequence[dict[str, Any]]) -> Markup:
    """One line a benchmark: the model as dot and whisker, the models it came from as hollow dots on the same scale."""
    names = [one["name"] for one in table["benchmarks"] if one["name"] in model["benchmarks"]]
    if not names:
        return Markup("")
    left, right, top, step, width = 190, 220, 54, 26, 860
    cells = [row["benchmarks"][name] for row in (model, *others) for name in names if name in row["benchmarks"]]
    scale = _Scale(min(cell["low"] for cell in cells), max(cell["high"] for cell in cells), left, width - right)
    parts = [_axis(scale, top - 6, top + step * len(names) + 4)]
    x: float = left
    for row, kind in [(model, "dot"), *((row, "hollow") for row in others)]:
        parts.append(f'<circle class="{kind} s-{row["stage"]}" cx="{x:.1f}" cy="12" r="6"/>')
        parts.append(_text("faint", x + 12, 12, row["name"]))
        x += 40 + 8 * len(row["name"])
    for number, name in enumerate(names):
        y = top + step * number + step / 2
        parts.append(_text("label", left - 16, y, name, "end"))
        own = model["benchmarks"][name]
        parts.append(_whisker(own, scale, y, model["stage"]))
        for row in others:
            if name in row["benchmarks"]:
                at = scale(row["benchmarks"][name]["value"])
                parts.append(f'<circle class="hollow s-{row["stage"]}" cx="{at:.1f}" cy="{y}" r="6"/>')
        parts.append(_text("value", width - right + 62, y, f"{100 * own['value']:.1f}", "end"))
        gain = own.get("gain", {})
        if "mark" in gain:
            said = f"{SYMBOLS[gain['mark']]} {signed(100 * gain['value'])}"
            parts.append(_text(f"m-{_css(gain['mark'])}", width - right + 90, y, said))
    label = f"{model['name']} beside {', '.join(row['name'] for row in others)}, benchmark by benchmark"
    return _svg(width, top + step * len(names) + 12, parts, label, "profile")


def draw_finding(finding: dict[str, Any]) -> Markup:
    """The interval of a contrast around zero, the paper's value as a diamond."""
    if finding["value"] is None:
        return Markup("")
    width, y = 240, 17
    paper = finding["paper_value"]
    reach = 1.12 * max(abs(value) for value in (finding["low"], finding["high"], paper or 0.0, 1e-9))

    def x(value: float) -> float:
        return float(width / 2 + value / reach * width / 2)

    parts = [
        f'<line class="grid" x1="0" x2="{width}" y1="{y}" y2="{y}"/>',
        f'<line class="zero" x1="{width / 2}" x2="{width / 2}" y1="2" y2="32"/>',
    ]
    if paper is not None:
        at = x(paper)
        parts.append(f'<path class="paper" d="M{at:.1f} {y - 7}l6 7l-6 7l-6 -7z"><title>the paper</title></path>')
    kind = _css(finding["verdict"])
    parts.append(
        f'<line class="bar v-{kind}" x1="{x(finding["low"]):.1f}" x2="{x(finding["high"]):.1f}" y1="{y}" y2="{y}"/>'
    )
    parts.append(f'<circle class="dot v-{kind}" cx="{x(finding["value"]):.1f}" cy="{y}" r="5"/>')
    return _svg(width, 34, parts, finding["claim"], "forest")


def draw_curve(curve: dict[str, Any], title: str, stage: str) -> Markup:
    """Loss by step of one training; evaluations as circles."""
    points = thin(curve["points"])
    every = [*points, *curve["checks"]]
    width, height, left, bottom, top = 300, 180, 40, 24, 44
    across = _Scale(0, max(step for step, _ in every), left, width - 10, pad=0)
    losses = [loss for _, loss in every]
    upward = _Scale(min(losses), max(losses), height - bottom, top)
    parts = [
        f'<line class="grid" x1="{left}" x2="{width - 10}" y1="{upward(tick):.1f}" y2="{upward(tick):.1f}"/>'
        f'<text class="tick" x="{left - 6}" y="{upward(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in upward.ticks(4)
    ]
    parts += [
        f'<text class="tick" x="{across(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>'
        for tick in across.ticks(4)
    ]
    parts.append(f'<text class="label" x="4" y="15">{escape(_short(title, 36))}</text>')
    if len(points) > 1:
        line = " ".join(f"{across(step):.1f},{upward(loss):.1f}" for step, loss in points)
        parts.append(f'<polyline class="curve s-{stage}" points="{line}"/>')
        last = f"{points[0][1]:.2f} → {points[-1][1]:.2f}"
        parts.append(f'<text class="faint" x="4" y="32">{last}</text>')
    parts += [
        f'<circle class="check s-{stage}" cx="{across(step):.1f}" cy="{upward(loss):.1f}" r="3"/>'
        for step, loss in curve["checks"]
    ]
    return _svg(width, height, parts, f"Loss by step: {title}", "curve-figure")


def thin(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most POINTS points: the means of equal stretches."""
    if len(points) <= POINTS:
        return [(float(step), loss) for step, loss in points]
    cuts = [round(number * len(points) / POINTS) for number in range(POINTS + 1)]
    stretches = [points[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    return [
        (sum(step for step, _ in stretch) / len(stretch), sum(loss for _, loss in stretch) / len(stretch))
        for stretch in stretches
    ]


def draw_lineage(drawing: Drawing, details: dict[str, str]) -> Markup:
    """The ancestry as boxes and lines; `details` by key are shown on hovering."""
    parts = []
    for edge in sorted(drawing.edges, key=lambda edge: not edge.implied):
        parts.append(f'<path class="edge{" implied" if edge.implied else ""}" d="{_route(edge.points)}"/>')
    for node in drawing.nodes:
        x, y = node.x - NODE_WIDTH / 2, node.y - NODE_HEIGHT / 2
        room = node.command.partition(".")[0]
        parts.append(
            f'<g class="node r-{_css(room)}"><title>{escape(details.get(node.key, node.name))}</title>'
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{NODE_WIDTH:.0f}" height="{NODE_HEIGHT:.0f}" rx="7"/>'
            f'<text class="name" x="{node.x:.1f}" y="{node.y - 3:.1f}">{escape(_short(node.name, 19))}</text>'
            f'<text class="command" x="{node.x:.1f}" y="{node.y + 13:.1f}">{escape(_short(node.command, 22))}</text>'
            "</g>"
        )
    return _svg(drawing.width, drawing.height, parts, "Lineage of the final model", "lineage-figure", margin=4)


def heat_class(change: dict[str, Any] | None, reach: float) -> str:
    """The colour step of a change of perplexity: h-5 (much lower) … h0 (noise) … h5; `reach` is the strongest one."""
    if change is None or change["mark"] == "noise":
        return "h0"
    strength = abs(math.log1p(change["value"])) / (reach or 1.0)
    return f"h{'-' if change['value'] < 0 else ''}{max(1, min(5, math.ceil(5 * strength)))}"


def heat_reach(table: dict[str, Any]) -> float:
    """The strongest change of perplexity in a table, as the absolute logarithm of its ratio."""
    cells = [cell for row in table["models"] for cell in row["perplexity"].values() if "change" in cell]
    return max((abs(math.log1p(cell["change"]["value"])) for cell in cells), default=0.0)


def _route(points: Sequence[tuple[float, float]]) -> str:
    """A smooth line that leaves and enters boxes vertically."""
    (x, y), *rest = points
    half = NODE_HEIGHT / 2
    text = f"M{x:.1f} {y + half:.1f}"
    x, y = x, y + half
    for number, (nx, ny) in enumerate(rest):
        last = number == len(rest) - 1
        end = ny - half
        middle = (y + end) / 2
        text += f"C{x:.1f} {middle:.1f} {nx:.1f} {middle:.1f} {nx:.1f} {end:.1f}"
        if not last:
            text += f"V{ny + half:.1f}"
        x, y = nx, ny + half
    return text


class _Scale:
    """A linear map from values to places, a little wider than the values."""

    def __init__(self, low: float, high: float, start: float, end: float, pad: float = 0.06) -> None:
        spread = (high - low) or abs(high) or 1.0
        self.low, self.high = low - pad * spread, high + pad * spread
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round values within the scale, about `count` of them."""
        raw = (self.high - self.low) / count
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
        first = math.ceil(self.low / step)
        return [round(number * step, 10) for number in range(first, math.floor(self.high / step) + 1)]


def _axis(scale: _Scale, top: float, bottom: float) -> str:
    return "".join(
        f'<line class="grid" x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" y1="{top}" y2="{bottom}"/>'
        f'<text class="tick" x="{scale(tick):.1f}" y="{top - 6}" text-anchor="middle">{100 * tick:g} %</text>'
        for tick in scale.ticks(7)
    )


def _whisker(interval: dict[str, float], scale: _Scale, y: float, stage: str) -> str:
    low, middle, high = (scale(interval[key]) for key in ("low", "value", "high"))
    return (
        f'<line class="bar s-{stage}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
        f'<circle class="dot s-{stage}" cx="{middle:.1f}" cy="{y}" r="6"/>'
    )


def _svg(width: float, height: float, parts: Sequence[str], label: str, kind: str, margin: float = 0) -> Markup:
    box = f"{-margin:g} {-margin:g} {width + 2 * margin:.0f} {height + 2 * margin:.0f}"
    head = f'<svg class="{kind}" viewBox="{box}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y + 5:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _css(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower())

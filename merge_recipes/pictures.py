"""The picture of merge_recipes.inspect: heat maps of where experts changed the base, and how alike they did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from merge_recipes.geometry import EMBEDDINGS, HEAD, NORMS, Array, Place, kind_order
from merge_recipes.wording import listed, number, percent, signed

WIDTH, LEFT, RIGHT, GAP, STEP = 10.0, 1.0, 0.8, 0.12, 2.25
"""Inches: of the page, what is left free left and right of it, between two maps, and from one triangle to the next."""

TOP, BETWEEN, LABELS, HEAD_HEIGHT = 1.28, 0.32, 0.75, 0.62
"""Inches: where the maps begin, from a line of them to the next, below them for labels, above them for headings."""

A_LINE = 5
"""Maps beside one another."""

MANY = 16
"""With more layers than this, not every one is named, and values are not written out."""

AMOUNTS, DIRECTIONS = "YlGnBu", "PuOr"
"""Colours that the colour-blind can tell apart: the darker the more; orange for conflict, violet for agreement."""

INK, FAINT, NO_VALUE = "#1f2328", "#59636e", "#e6e8eb"
IN_ALL = Place(None, "in all")
OUTSIDE = {EMBEDDINGS: "embeddings", NORMS: "last norm", HEAD: "head"}


class Row(NamedTuple):
    """A row of a heat map."""

    label: str
    place: Place = IN_ALL
    """For rows of layers, a place without a kind."""
    height: int = 1
    apart: bool = False
    """Whether it stands outside of the layers, with some space around it."""


def draw(table: dict[str, Any], path: Path) -> None:
    """Draw a table of merge_recipes.inspect into a PNG; the same table gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a person's own style would make other bytes
        inks = dict.fromkeys(("text.color", "xtick.color", "ytick.color"), INK)
        matplotlib.rcParams.update({"font.size": 8, "axes.titlesize": 8.5, **inks})
        layout = _lay_out(table)
        page = _Page(Figure(figsize=(WIDTH, layout.height), facecolor="white"), layout.height)
        FigureCanvasAgg(page.figure)
        _write_title(page, table)
        _draw_distances(page, table, layout)
        if len(table["experts"]) > 1:
            _draw_pairs(page, table, layout)
        if table["recipe"]:
            _draw_reach(page, table, layout)
        # Neither the program's version nor a date: only what was drawn.
        page.figure.savefig(path, dpi=150, metadata={"Software": None}, pil_kwargs={"optimize": True})


class _Layout(NamedTuple):
    """The rows of the layer maps, and how high things are and where they begin, in inches."""

    rows: list[Row]
    map_height: float
    side: float
    second: float
    height: float


def _lay_out(table: dict[str, Any]) -> _Layout:
    count, rows = len(table["experts"]), _rows(table)
    map_height = min(3.0, max(1.4, 0.19 * len(rows)))
    side = min(2.0, max(0.6, 0.4 * (count - 1)))
    end = TOP + -(-count // A_LINE) * (map_height + BETWEEN) - BETWEEN + LABELS
    below = max(side if count > 1 else 0, map_height if table["recipe"] else 0)
    return _Layout(rows, map_height, side, end + HEAD_HEIGHT, end + (HEAD_HEIGHT + below + LABELS if below else 0))


def _rows(table: dict[str, Any]) -> list[Row]:
    """A row for each layer, and one for each kind of weights outside: the embeddings above, the rest below."""
    layers = [one["layer"] for one in table["layers"] if one["layer"] is not None]
    outside = sorted((one["kind"] for one in table["cells"] if one["layer"] is None), key=kind_order)
    many = len(layers) > MANY
    named = [f"layer {layer}" if not many or layer % 4 == 0 else "" for layer in layers]
    inner = [Row(name, Place(layer, "")) for name, layer in zip(named, layers, strict=True)]
    # Higher than one of many layers, so that its name has room.
    height = max(1, round(len(layers) / 12))
    outer = [Row(OUTSIDE.get(kind, kind), Place(None, kind), height, True) for kind in outside]
    first = [row for row in outer if row.place.kind == EMBEDDINGS]
    return [*first, *inner, *(row for row in outer if row not in first)]


class _Page(NamedTuple):
    """A figure whose parts are placed in inches from the top left."""

    figure: Any
    height: float

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """An empty frame without lines."""
        place = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        made = self.figure.add_axes(place)
        made.tick_params(length=0, pad=3)
        for spine in made.spines.values():
            spine.set_visible(False)
        return made

    def scale(self, image: Any, left: float, top: float, height: float, form: str) -> None:
        """The colours of a map with their values."""
        bar = self.axes(left, top, 0.12, height)
        self.figure.colorbar(image, cax=bar, format=form).outline.set_visible(False)
        bar.tick_params(which="both", length=2, pad=2)

    def write(self, left: float, top: float, text: str, **style: Any) -> None:
        """A text by its upper left corner."""
        self.figure.text(left / WIDTH, 1 - top / self.height, text, va="top", **style)

    def head(self, left: float, top: float, title: str, remark: str) -> None:
        """A heading with a line of explanation, above what begins at `top`."""
        self.write(left, top - 0.45, title, fontsize=9, weight="bold")
        self.write(left, top - 0.26, remark, fontsize=7.5, color=FAINT)


def _write_title(page: _Page, table: dict[str, Any]) -> None:
    count = table["total"]["parameters"]
    size = f"{count / 1e9:.3g} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"
    size = size if count >= 1e6 else f"{count:,}"
    title = f"What {listed(table['experts'])} changed of the base"
    page.write(0.2, 0.16, title, fontsize=min(11.5, 1000 / len(title)), weight="bold")
    page.write(0.2, 0.41, f"{size} weights; a change is expert − base", fontsize=8, color=FAINT)


def _draw_distances(page: _Page, table: dict[str, Any], layout: _Layout) -> None:
    """A map an expert: rows are layers, columns kinds of module; one scale for all."""
    experts = table["experts"]
    within = {cell["kind"] for cell in table["cells"] if cell["layer"] is not None}
    kinds = [one["kind"] for one in table["kinds"] if one["kind"] in within]
    grids = [100 * _distances(table, layout.rows, kinds, name) for name in experts]
    limits = (0.0, max(map(_most, grids)) or 1.0)
    remark = "length of the change, in % of the length of the base's weights"
    page.head(LEFT, TOP - 0.14, "Distance to the base", remark)
    columns = min(len(experts), A_LINE)
    width = min(2.4, (WIDTH - LEFT - RIGHT - GAP * (columns - 1)) / columns)
    unnamed = [row._replace(label="") for row in layout.rows]
    for place, (name, grid) in enumerate(zip(experts, grids, strict=True)):
        line, column = divmod(place, A_LINE)
        top = TOP + line * (layout.map_height + BETWEEN)
        axes = page.axes(LEFT + column * (width + GAP), top, width, layout.map_height)
        last = place + A_LINE >= len(experts)
        image = _show(axes, grid, unnamed if column else layout.rows, _short(kinds) if last else (), AMOUNTS, limits)
        axes.set_title(f"{name} · {percent(table['total']['experts'][name]['relative'])}", pad=4)
    page.scale(image, LEFT + columns * (width + GAP), TOP, layout.map_height, "%g%%")


def _draw_pairs(page: _Page, table: dict[str, Any], layout: _Layout) -> None:
    """A triangle each for cosines, opposite signs and shared largest changes."""
    experts, total = table["experts"], table["total"]
    cosine = _triangle(total["cosine"])
    opposite, shared, chances = (100 * _triangle(total[key]) for key in ("sign_conflict", "top_overlap", "top_chance"))
    chance = float(np.nanmean(chances)) if np.isfinite(chances).any() else 100 * table["top"]
    # Never so narrow that what is nearly nothing looks like much.
    reach, swing = max(0.5, _most(np.abs(cosine))), max(25.0, _most(np.abs(opposite - 50)))
    most_shared = max(3 * chance, _most(shared))
    largest = f"of the largest {100 * table['top']:.3g}%; chance: {chance:.3g}"
    size = min(7.5, layout.side / (len(experts) - 1) * 72 / 3.2)

    def panel(place: int, title: str, remark: str, grid: Array, colours: str, limits: tuple[float, float]) -> None:
        left = LEFT + place * STEP
        page.head(left, layout.second, title, remark)
        axes = page.axes(left, layout.second, layout.side, layout.side)
        rows = [Row("" if place else name) for name in experts[1:]]
        image = _show(axes, grid, rows, experts[:-1], colours, limits, empty="white")
        _annotate(axes, image, grid, rows, signed if grid is cosine else _whole, size)

    panel(0, "Cosine of changes", "1: same way, 0: unrelated", cosine, DIRECTIONS, (-reach, reach))
    panel(1, "Opposite signs, %", "chance: 50", opposite, f"{DIRECTIONS}_r", (50 - swing, 50 + swing))
    panel(2, "Largest changes shared, %", largest, shared, AMOUNTS, (0, most_shared))


def _draw_reach(page: _Page, table: dict[str, Any], layout: _Layout) -> None:
    """How far the merge goes towards each expert, by layer and, in the last row, in all."""
    experts = table["experts"]
    found = {Place(one["layer"], one["kind"]): one for one in table["cells"]}
    found |= {Place(one["layer"], ""): one for one in table["layers"]} | {IN_ALL: table["total"]}
    rows = [*layout.rows, Row(IN_ALL.kind, IN_ALL, layout.rows[-1].height, True)]
    grid = _array([[found[row.place]["experts"][name]["projection"] for name in experts] for row in rows])
    left = LEFT + (3 * STEP + 0.3 if len(experts) > 1 else 0)
    written = len(rows) <= MANY and len(experts) <= 6
    width = min((0.38 if written else 0.3) * len(experts), WIDTH - left - (0.2 if written else 0.6))
    page.head(left, layout.second, f"Reach of {table['recipe']['merge_method']}", "1: the whole change of the expert")
    axes = page.axes(left, layout.second, width, layout.map_height)
    image = _show(axes, grid, rows, experts, AMOUNTS, (0, 1))
    if written:
        _annotate(axes, image, grid, rows, number)
    else:
        page.scale(image, left + width + GAP, layout.second, layout.map_height, "%g")


def _distances(table: dict[str, Any], rows: Sequence[Row], kinds: Sequence[str], expert: str) -> Array:
    """Relative distances, rows by kinds; what stands outside of layers fills its whole row."""
    found = {Place(one["layer"], one["kind"]): one["experts"][expert]["relative"] for one in table["cells"]}
    places = ([row.place if row.apart else row.place._replace(kind=kind) for kind in kinds] for row in rows)
    return _array([[found.get(place) for place in line] for line in places])


def _triangle(matrix: Sequence[Sequence[float | None]]) -> Array:
    """What stands below the diagonal of a symmetric matrix, without its empty first row and last column."""
    whole = _array(matrix)
    whole[np.triu_indices(len(whole))] = np.nan
    return whole[1:, :-1]


def _array(values: Sequence[Sequence[float | None]]) -> Array:
    return np.array([[np.nan if value is None else value for value in line] for line in values], np.float64)


def _most(grid: Array) -> float:
    return float(np.nanmax(grid)) if np.isfinite(grid).any() else 0.0


def _edges(rows: Sequence[Row]) -> Array:
    return np.cumsum([0, *(row.height for row in rows)])


def _show(
    axes: Any,
    grid: Array,
    rows: Sequence[Row],
    columns: Sequence[str],
    colours: str,
    limits: tuple[float, float],
    empty: str = NO_VALUE,
) -> Any:
    """A heat map with white lines between cells, wider ones around what stands outside of the layers."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    shades, down = colormaps[colours].with_extremes(bad=empty), _edges(rows)
    across = np.arange(grid.shape[1] + 1)
    image = axes.pcolormesh(across, down, np.ma.masked_invalid(grid), cmap=shades, norm=Normalize(*limits))
    axes.set_ylim(down[-1], 0)
    for place, values in enumerate(grid):
        if len(set(values)) > 1:  # else it is one value for the whole row
            axes.vlines(across[1:-1], down[place], down[place + 1], color="white", linewidth=0.6)
        if place:
            apart = rows[place].apart or rows[place - 1].apart
            axes.axhline(down[place], color="white", linewidth=3 if apart else 0.6)
    named = [(middle, row.label) for middle, row in zip((down[1:] + down[:-1]) / 2, rows, strict=True) if row.label]
    axes.set_yticks([middle for middle, _ in named], [label for _, label in named])
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=40, ha="right", rotation_mode="anchor")
    return image


def _annotate(
    axes: Any, image: Any, grid: Array, rows: Sequence[Row], say: Callable[[float], str], size: float = 7.5
) -> None:
    """Write each value on its cell, dark on light and light on dark."""
    down = _edges(rows)
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"
            middle = (down[row] + down[row + 1]) / 2
            axes.text(column + 0.5, middle, say(value), ha="center", va="center_baseline", fontsize=size, color=ink)


def _short(kinds: Sequence[str]) -> list[str]:
    """The last parts of kinds, where they alone tell them apart."""
    last = [kind.rpartition(".")[2] for kind in kinds]
    return last if len(set(last)) == len(last) else list(kinds)


def _whole(value: float) -> str:
    return f"{value:.0f}"

"""A layered drawing of an ancestry: parents above, children below, few crossings. Positions only; no drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NODE_WIDTH, NODE_HEIGHT, GAP, LAYER_GAP, BEND_WIDTH = 138.0, 44.0, 14.0, 40.0, 10.0
SWEEPS = 24


@dataclass(frozen=True)
class Node:
    """A run or a file; x and y are those of its centre."""

    key: str
    name: str
    command: str
    x: float
    y: float


@dataclass(frozen=True)
class Edge:
    """From parent to child, through the points between the layers; `implied` where a longer way says the same."""

    points: tuple[tuple[float, float], ...]
    implied: bool


@dataclass(frozen=True)
class Drawing:
    """A laid-out graph."""

    nodes: list[Node]
    edges: list[Edge]
    width: float
    height: float


def entries_of(record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The ancestry of a run with the run itself as the last entry."""
    own = {key: record[key] for key in ("key", "command", "facts", "counts")}
    return [*record["ancestry"], own | {"name": name, "parents": sorted(set(record["parents"].values()))}]


def lay_out(entries: Sequence[dict[str, Any]]) -> Drawing:
    """Place every entry: the layer by the longest way from a source, the order in it by its neighbours' middle."""
    known = {entry["key"]: entry for entry in entries}
    parents = {key: [one for one in entry.get("parents", []) if one in known] for key, entry in known.items()}
    layer = _layers(parents)
    rows, links, routes = _with_bends(parents, layer)
    rows = _untangle(rows, links)
    places, width = _coordinates(rows, links, known)
    nodes = [Node(key, entry["name"], entry["command"], *places[key]) for key, entry in known.items()]
    ancestors = _ancestors(parents)
    edges = [
        Edge(tuple(places[key] for key in route), any(route[0] in ancestors[other] for other in parents[route[-1]]))
        for route in routes
    ]
    height = len(rows) * NODE_HEIGHT + max(0, len(rows) - 1) * LAYER_GAP
    return Drawing(nodes, edges, width, height)


def _layers(parents: dict[str, list[str]]) -> dict[str, int]:
    """Longest way from a source; then every source is drawn down to just above its first child."""
    layer: dict[str, int] = {}

    def depth(key: str) -> int:
        if key not in layer:
            layer[key] = 1 + max((depth(parent) for parent in parents[key]), default=-1)
        return layer[key]

    for key in parents:
        depth(key)
    for key in sorted(parents, key=lambda key: -layer[key]):
        children = [layer[child] for child, above in parents.items() if key in above]
        if not parents[key] and children:
            layer[key] = min(children) - 1
    return layer


def _with_bends(
    parents: dict[str, list[str]], layer: dict[str, int]
) -> tuple[list[list[str]], list[tuple[str, str]], list[list[str]]]:
    """Rows of nodes and of bends (one for each layer that an edge passes), links between rows, each edge's route."""
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for key in parents:
        rows[layer[key]].append(key)
    links: list[tuple[str, str]] = []
    routes = []
    for child, above in parents.items():
        for parent in above:
            route = [parent]
            for between in range(layer[parent] + 1, layer[child]):
                bend = f"bend:{parent}:{between}"  # shared by all edges of a parent: they run together, then part
                if bend not in rows[between]:
                    rows[between].append(bend)
                route.append(bend)
            route.append(child)
            links += [link for link in zip(route, route[1:], strict=False) if link not in links]
            routes.append(route)
    return rows, links, routes


def _untangle(rows: list[list[str]], links: list[tuple[str, str]]) -> list[list[str]]:
    """The order with the fewest crossings that sweeping up and down by neighbours' mean places finds."""
    best, fewest = [list(row) for row in rows], _crossings(rows, links)
    current = [list(row) for row in rows]
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for number in range(1, len(current)) if down else range(len(current) - 2, -1, -1):
            fixed = {key: place for place, key in enumerate(current[number - 1 if down else number + 1])}
            own = {key: place for place, key in enumerate(current[number])}
            current[number].sort(key=lambda key: (_middle(key, fixed, links, down, own[key]), own[key]))
        crossings = _crossings(current, links)
        if crossings < fewest:
            best, fewest = [list(row) for row in current], crossings
    return best


def _middle(key: str, fixed: dict[str, int], links: list[tuple[str, str]], down: bool, default: float) -> float:
    near = [fixed[a] for a, b in links if b == key] if down else [fixed[b] for a, b in links if a == key]
    return sum(near) / len(near) if near else default


def _crossings(rows: list[list[str]], links: list[tuple[str, str]]) -> int:
    place = {key: (number, order) for number, row in enumerate(rows) for order, key in enumerate(row)}
    count = 0
    for number in range(len(rows) - 1):
        spans = [(place[a][1], place[b][1]) for a, b in links if place[a][0] == number]
        count += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(spans) for c, d in spans[:i])
    return count


def _coordinates(
    rows: list[list[str]], links: list[tuple[str, str]], known: dict[str, Any]
) -> tuple[dict[str, tuple[float, float]], float]:
    """Each near the middle of its neighbours, as far as its row leaves room."""
    sizes = {key: NODE_WIDTH if key in known else BEND_WIDTH for row in rows for key in row}
    widest = max((sum(sizes[key] + GAP for key in row) - GAP for row in rows), default=0.0)
    x: dict[str, float] = {}
    for row in rows:
        left = (widest - sum(sizes[key] + GAP for key in row) + GAP) / 2
        for key in row:
            x[key] = left + sizes[key] / 2
            left += sizes[key] + GAP
    near: dict[str, list[str]] = {key: [] for key in x}
    for a, b in links:
        near[a].append(b)
        near[b].append(a)
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [sum(x[other] for other in near[key]) / len(near[key]) if near[key] else x[key] for key in row]
            for key, value in zip(row, _spaced(wanted, [sizes[key] for key in row], widest), strict=True):
                x[key] = value
    step = NODE_HEIGHT + LAYER_GAP
    places = {key: (x[key], NODE_HEIGHT / 2 + number * step) for number, row in enumerate(rows) for key in row}
    return places, widest


def _spaced(wanted: list[float], sizes: list[float], width: float) -> list[float]:
    """The nearest places to those wanted that keep order, distance and the drawing's edges."""
    needed = [(a + b) / 2 + GAP for a, b in zip(sizes, sizes[1:], strict=False)]
    forward, backward = list(wanted), list(wanted)
    for place, gap in enumerate(needed, 1):
        forward[place] = max(wanted[place], forward[place - 1] + gap)
    for place in range(len(wanted) - 2, -1, -1):
        backward[place] = min(wanted[place], backward[place + 1] - needed[place])
    spaced = [(a + b) / 2 for a, b in zip(forward, backward, strict=True)]
    limit = width
    for place in range(len(spaced) - 1, -1, -1):
        spaced[place] = min(spaced[place], limit - sizes[place] / 2)
        limit = spaced[place] - sizes[place] / 2 - GAP
    limit = 0.0
    for place, size in enumerate(sizes):
        spaced[place] = max(spaced[place], limit + size / 2)
        limit = spaced[place] + size / 2 + GAP
    return spaced


def _ancestors(parents: dict[str, list[str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}

    def of(key: str) -> set[str]:
        if key not in found:
            found[key] = {one for parent in parents[key] for one in ({parent} | of(parent))}
        return found[key]

    return {key: of(key) for key in parents}

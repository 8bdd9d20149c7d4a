"""What a table of merge_recipes.inspect says, in words: a page to read, and the lines of the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

NOTHING = "–"


def to_markdown(table: dict[str, Any]) -> str:
    """The page table.md."""
    experts, total, top = table["experts"], table["total"], percent(table["top"])
    parts = [
        f"# {listed(experts)}: what each changed of the base",
        f"{total['parameters']:,} weights. A change is expert minus base; distances are Euclidean (the length of the "
        "change), as a share of the length of the base's own weights.",
        *(f"Note: {note}." for note in table["notes"]),
        "## In all",
        _totals(table),
        "Outvoted: of the size of all changes, the part whose sign is not that of the sum over all experts; a vote on "
        f"signs (TIES) throws it away. Over all experts it is {percent(total['outvoted'])}.",
    ]
    if len(experts) > 1:
        parts += [
            "## Two and two",
            "Cosine of the changes: 1 the same direction, 0 unrelated, −1 opposite.",
            _pairs(table, "cosine", signed),
            "Opposite signs: of the weights that both changed, the share that went opposite ways; 50% is chance.",
            _pairs(table, "sign_conflict", percent),
            f"Largest changes shared: of the largest {top} of each tensor's changes, the share that is among the "
            "largest of both; in brackets what chance would give.",
            _pairs(table, "top_overlap", percent, "top_chance"),
        ]
    parts += ["## By layer", "Relative distance to the base; `outside`: embeddings, last norm, output layer."]
    parts += [_groups(table, "layers", "layer")]
    parts += ["## By kind of module", "Relative distance to the base.", _groups(table, "kinds", "kind")]
    if table["recipe"]:
        parts += _prediction(table)
    return "\n\n".join(parts) + "\n"


def lines_of(table: dict[str, Any]) -> list[str]:
    """The totals, a line for each expert and each pair; of more than ten pairs the most and the least alike."""
    experts, total = table["experts"], table["total"]
    lines = []
    for name in experts:
        one = total["experts"][name]
        line = f"{name}: {percent(one['relative'])} away from the base, {percent(one['changed'])} of weights changed"
        if len(experts) > 1:
            line += f", {percent(one['outvoted'])} outvoted"
        if table["recipe"]:
            line += f"; the merge goes {number(one['projection'])} of its way"
        lines.append(line)
    pairs = list(combinations(range(len(experts)), 2))
    if len(pairs) > 10:
        pairs.sort(key=lambda pair: total["cosine"][pair[0]][pair[1]] or 0.0)
        pairs = [pairs[-1], pairs[0]]
    for a, b in pairs:
        lines.append(
            f"{experts[a]} and {experts[b]}: cosine {signed(total['cosine'][a][b])}, "
            f"{percent(total['sign_conflict'][a][b])} opposite signs, {percent(total['top_overlap'][a][b])} of the "
            f"largest changes shared ({percent(total['top_chance'][a][b])} by chance)"
        )
    if table["recipe"]:
        away = percent(total["merged"]["relative"])
        lines.append(f"the merge by {table['recipe']['merge_method']}: {away} away from the base")
    return lines


def percent(value: float | None) -> str:
    """A share in percent, to three digits."""
    if value is None:
        return NOTHING
    return f"{100 * value:.2f}%" if 0 < abs(value) < 0.01 else f"{100 * value:.1f}%"


def signed(value: float | None) -> str:
    """A number to two decimals with its sign, the minus a real one; what rounds to zero has none."""
    if value is None:
        return NOTHING
    text = f"{value:+.2f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def number(value: float | None) -> str:
    """A number to two decimals."""
    return NOTHING if value is None else f"{value:.2f}".replace("-", "−")


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def layer_name(layer: int | None) -> str:
    """A layer as it is shown."""
    return "outside" if layer is None else str(layer)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _totals(table: dict[str, Any]) -> str:
    rows = []
    for name in table["experts"]:
        one = table["total"]["experts"][name]
        shares = (one["relative"], one["changed"], one["outvoted"])
        rows.append([name, f"{one['norm']:.4g}", *map(percent, shares), f"{one['largest']:.3g}"])
    head = ("expert", "distance", "relative", "weights changed", "outvoted", "largest change")
    return _table(head, rows)


def _pairs(table: dict[str, Any], key: str, say: Any, chance: str = "") -> str:
    """The pairs below the diagonal; the matrix is symmetric."""
    experts, total = table["experts"], table["total"]

    def cell(row: int, column: int) -> str:
        if column >= row:
            return ""
        found: str = say(total[key][row][column])
        return f"{found} ({say(total[chance][row][column])})" if chance else found

    rows = (
        [experts[row], *(cell(row, column) for column in range(len(experts) - 1))] for row in range(1, len(experts))
    )
    return _table(["", *experts[:-1]], rows)


def _groups(table: dict[str, Any], group: str, key: str) -> str:
    experts = table["experts"]
    rows = []
    for one in table[group]:
        label = layer_name(one[key]) if key == "layer" else f"`{one[key]}`"
        distances = [percent(one["experts"][name]["relative"]) for name in experts]
        rows.append([label, f"{one['parameters']:,}", *distances, percent(one["outvoted"])])
    return _table([key, "weights", *experts, "outvoted"], rows)


def _prediction(table: dict[str, Any]) -> list[str]:
    experts, total, method = table["experts"], table["total"], table["recipe"]["merge_method"]
    rows = []
    for name in experts:
        one = total["experts"][name]
        rows.append([name, percent(one["kept"]), number(one["projection"]), signed(one["merged_cosine"])])
    layers = [
        [layer_name(one["layer"]), *(number(one["experts"][name]["projection"]) for name in experts)]
        for one in table["layers"]
    ]
    merged = total["merged"]
    return [
        f"## What `{method}` would keep",
        f"The merge's own change is {merged['norm']:.4g} long, {percent(merged['relative'])} of the base. Kept: the "
        "share of an expert's changed weights that the method leaves before it votes and adds up. Of the way: how far "
        "the merge goes from the base towards this expert, 1 being all of it (what other experts share with it counts "
        "too). Cosine: between the merge's change and the expert's.",
        _table(("expert", "kept", "of the way", "cosine"), rows),
        "Of the way, by layer:",
        _table(("layer", *experts), layers),
    ]

"""cost.md and cost.png: the ledger for a person to read, in natural units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.cost_ledger import BreakEven, Ledger

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
INKS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#66ccee", "#ccbb44", "#333333")


def amount(value: float | None) -> str:
    """A count in thousands, millions, billions (1e9) or trillions: `39.72 B`."""
    if value is None:
        return "–"
    for size, unit in UNITS:
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.3g}"


def flops(value: float | None) -> str:
    """Operations: `1.771e+20`."""
    return "–" if value is None else f"{value:.3e}"


def verdict(found: BreakEven, notes: float | None) -> str:
    """A break-even in one sentence."""
    if found.tokens is None:
        return f"{found.trained} never breaks even with {found.other}: it is no cheaper to run"
    if found.tokens == 0:
        return f"{found.trained} is cheaper than {found.other} from the first token"
    said = f"{found.trained} breaks even with {found.other} after {amount(found.tokens)} inference tokens"
    return said if notes is None else f"{said}, {amount(notes)} notes"


def write_page(path: Path, found: dict[str, Any]) -> None:
    """Write the page of what cost.json holds."""
    path.write_text("\n".join(_page(found)) + "\n", encoding="utf-8")


def _page(found: dict[str, Any]) -> Iterator[str]:
    yield "# What the models cost\n"
    yield from _table(found)
    yield "\n## Break-even\n"
    for one in found["break_even"]:
        yield f"* {one['verdict']}."
    if not found["break_even"]:
        yield "None: one model alone; give a second one to compare with."
    yield "\n![total operations](cost.png)\n"
    trainings = [(name, one) for name, model in found["models"].items() for one in model["trainings"]]
    if trainings:
        yield "## Trainings, from run.json\n"
        yield from _head(["model", "run", "command", "tokens"])
        for name, one in trainings:
            yield _row([name, one["name"], one["command"], f"{one['tokens']:,}"])
        yield ""
    yield "## How it is counted\n"
    yield from _notes(found)


def _table(found: dict[str, Any]) -> Iterator[str]:
    priced = found["dollars_per_flop"] is not None
    heads = ["model", "parameters", "pretraining tokens", "fine-tuning tokens", "training FLOPs", "tokens a note"]
    heads += ["token ratio", "FLOPs per 1 M notes"]
    yield from _head([*heads, *(["training $", "$ per 1 M notes"] if priced else [])])
    for name, one in found["models"].items():
        tokens = one["tokens_per_note"]
        cells = [name, amount(one["parameters"]), amount(one["pretrain_tokens"]), amount(one["finetune_tokens"])]
        cells += [flops(one["flops"]["training"]), "–" if tokens is None else f"{tokens:.1f}", _ratio(one)]
        cells.append(flops(one["flops"]["per_million_notes"]))
        if priced:
            cells += [_dollars(one["dollars"][key]) for key in ("training", "per_million_notes")]
        yield _row(cells)


def _ratio(one: dict[str, Any]) -> str:
    if one["token_ratio_low"] is None:
        return "1 (not measured)"
    return f"{one['token_ratio']:.3f} ({one['token_ratio_low']:.3f} to {one['token_ratio_high']:.3f})"


def _dollars(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}" if value >= 0.01 or value == 0 else f"{value:.2g}"


def _notes(found: dict[str, Any]) -> Iterator[str]:
    yield "* Training is 6PT floating-point operations, inference 2PT: P parameters, T tokens (Lehman et al. 2023)."
    yield f"* Inference tokens are those of {found['reference']}; tokens of training are each model's own."
    if found["token_ratio_measured"]:
        yield "* The token ratio is measured on the same notes, with its 95 % interval over notes."
    else:
        yield "* The token ratio was not measured: 1, every model is taken to need as many. Give notes and tokenizers."
    yield "* Pretraining that was not given is a sunk cost and counts 0. All trainings count with the model's own size."
    yield (
        "* Not counted: attention over long contexts, a teacher's tokens, scoring, searching and merging, and the "
        "reference's passes of preference training."
    )
    yield "* All numbers and axes are in natural units. The published figures show the natural logarithm of FLOPs."


def draw(found: dict[str, Any], ledgers: Sequence[Ledger], reach: tuple[float, float], path: Path) -> None:
    """Draw total operations against inference tokens, both logarithmic, with the points of break-even.

    The same numbers give the same bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_name = {ledger.name: ledger for ledger in ledgers}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a person's own style would make other bytes
        figure = Figure(figsize=(7.0, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        tokens = [row["inference_tokens"] for row in found["totals"]]
        for number, ledger in enumerate(ledgers):
            totals = [row[ledger.name] for row in found["totals"]]
            axes.plot(tokens, totals, color=INKS[number % len(INKS)], label=ledger.name)
        for one in found["break_even"]:
            if one["tokens"] and reach[0] <= one["tokens"] <= reach[1]:
                height = by_name[one["trained"]].total_flops(one["tokens"])
                axes.plot([one["tokens"]], [height], marker="o", color="black", markersize=5, zorder=3)
                said, place = amount(one["tokens"]), (one["tokens"], height)
                axes.annotate(said, place, xytext=(6, -12), textcoords="offset points", fontsize=8)
        axes.set(xscale="log", yscale="log", xlim=reach)
        axes.set(xlabel=f"inference tokens (of {found['reference']})", ylabel="floating-point operations in total")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        # Neither the program's version nor a date: only what was drawn.
        figure.savefig(path, dpi=150, metadata={"Software": None}, pil_kwargs={"optimize": True})


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _row(names)
    yield _row(["---"] * len(names))


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"

"""The score table as LaTeX (booktabs), ready for a paper: values with intervals, what survives correction in bold.

No number is made here; all come from table.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.report_page import STAGE_NAMES, percent
from eval.summary import items_of

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--", "→": r"$\rightarrow$",
}  # fmt: skip
DAGGERS = {"gain": r"$^{\uparrow}$", "loss": r"$^{\downarrow}$"}


def escape(text: str) -> str:
    """Text with everything that LaTeX would read as a command written out."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def render_latex(table: dict[str, Any]) -> str:
    """One table* environment: a row a model, a column a benchmark, then AVG, #DG and CV."""
    benchmarks = [benchmark["name"] for benchmark in table["benchmarks"]]
    if not benchmarks:
        return "% no benchmark was scored\n"
    head = ["model", *benchmarks, "AVG", "#DG", "CV"]
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"\centering",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(map(escape, head)) + r" \\",
    ]
    stage = ""
    for row in [*table["models"], *table["derived"]]:
        if row["stage"] != stage:
            stage = row["stage"]
            named = rf"\multicolumn{{{len(head)}}}{{l}}{{\emph{{{escape(STAGE_NAMES.get(stage, stage))}}}}} \\"
            lines += [r"\midrule", named]
        lines.append(" & ".join(_cells(row, benchmarks)) + r" \\")
    lines += [
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\caption{{{_caption(table)}}}",
        r"\label{tab:clueplus}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any], benchmarks: Sequence[str]) -> list[str]:
    average = row.get("average")
    gain = {"gain": row["gain"]} if "gain" in row else {}
    gained = row.get("datasets_gained", {}).get("value")
    cv = row.get("cv", {}).get("value")
    return [
        escape(row["name"]),
        *(_cell(row["benchmarks"].get(name)) for name in benchmarks),
        _cell({**average, **gain} if average else None),
        "--" if gained is None else f"{gained:.0f}",
        "--" if cv is None else f"{cv:.1f}",
    ]


def _cell(cell: dict[str, Any] | None) -> str:
    """The value with its interval in small; in bold where the gain is real, with an arrow that tells the direction."""
    if cell is None:
        return "--"
    mark = cell.get("gain", {}).get("mark", "")
    value = percent(cell["value"])
    shown = rf"\textbf{{{value}}}" if mark == "gain" else value
    return rf"{shown}{DAGGERS.get(mark, '')} {{\scriptsize {percent(cell['low'])}--{percent(cell['high'])}}}"


def _caption(table: dict[str, Any]) -> str:
    sizes = ", ".join(
        f"{benchmark['name']} {items_of(benchmark['n'], benchmark['beyond_the_limit'])}"
        for benchmark in table["benchmarks"]
    )
    parts = [
        f"Protocol {table['protocol']}. Percent with 95 % intervals; items: {sizes}.",
        f"Arrows: differs from {table['baseline']} on the same items after Holm's correction (paired test).",
    ]
    missing = [f"{one['name']} ({', '.join(one['not_run'])})" for one in table["benchmarks"] if one["not_run"]]
    if missing:
        parts.append(f"Not run, and in no mean: {'; '.join(missing)}.")
    made = [benchmark["name"] for benchmark in table["benchmarks"] if benchmark["simulated"]]
    if made:
        parts.append(f"Simulated data: {', '.join(made)}.")
    return escape(" ".join(parts))

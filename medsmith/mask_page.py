"""Rows of a training for a person to read: what is trained is marked, in text, in a terminal's colours and in HTML."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medsmith import processes
from medsmith.masks import Row, spans

OPEN, CLOSE = "⟦", "⟧"
RULE = "\n----\n"
GREEN, FAINT, PLAIN = "\x1b[30;42m", "\x1b[2m", "\x1b[0m"
SHORT = 160
"""Of a longer run a terminal shows so many characters of its beginning and of its end."""


def write_pages(rows: Sequence[Row], tokenizer: Any, folder: Path, name: str, title: str, show: bool) -> None:
    """Write `<name>.txt` and `<name>.html`, and show the same on standard error, shortened."""
    pages = [render(row, tokenizer, show) for row in rows]
    (folder / f"{name}.txt").write_text(RULE.join(pages) + "\n", encoding="utf-8")
    (folder / f"{name}.html").write_text(to_html(rows, tokenizer, title, show), encoding="utf-8")
    if not processes.is_main():
        return
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    shown = [f"{head(row)}\n{for_terminal(row, tokenizer, show, coloured)}" for row in rows]
    print(f"what is trained ({title}):\n" + RULE.join(shown) + f"\nall of it: {folder / name}.html", file=sys.stderr)


def head(row: Row) -> str:
    """What a row is, in a line."""
    parts = [f"row {row.number}", row.label, f"{len(row.ids)} tokens", f"{sum(row.trained)} trained"]
    packed = f"{len(row.lengths)} packed" if len(row.lengths) > 1 else ""
    return ", ".join(part for part in (*parts, packed) if part)


def render(row: Row, tokenizer: Any, show: bool) -> str:
    """The text of a row, what is trained between ⟦ and ⟧; of a withheld one the numbers of tokens."""
    parts = []
    for run, text in _runs(row, tokenizer, show):
        parts.append(f"{OPEN}{text}{CLOSE}" if row.trained[run.start] else text)
    return "".join(parts)


def for_terminal(row: Row, tokenizer: Any, show: bool, coloured: bool) -> str:
    """The same with long runs shortened; in colour, or with brackets where there is none."""
    parts = []
    for run, text in _runs(row, tokenizer, show):
        # An escape sequence in a training text must not reach the terminal.
        clean = "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text)
        if len(clean) > 2 * SHORT + 20:
            clean = f"{clean[:SHORT]} […] {clean[-SHORT:]}"
        on = row.trained[run.start]
        if coloured:
            parts.append(f"{GREEN if on else FAINT}{clean}{PLAIN}")
        else:
            parts.append(f"{OPEN}{clean}{CLOSE}" if on else clean)
    return "".join(parts)


def _runs(row: Row, tokenizer: Any, show: bool) -> Iterator[tuple[range, str]]:
    for run in spans(row.trained):
        text = tokenizer.decode(row.ids[run.start : run.stop]) if show else f" {len(run)} tokens "
        yield run, text


def to_html(rows: Sequence[Row], tokenizer: Any, title: str, show: bool) -> str:
    """A page that needs nothing else: each token a span, trained ones on green, light or dark as the reader has it."""
    parts = []
    for row in rows:
        body = _tokens(row, tokenizer) if show else _counts(row)
        parts.append(f"<h2>{html.escape(head(row))}</h2>\n<pre>{body}</pre>")
    note = "" if show else "<p>The texts are withheld: their licence is not known to be open. Numbers are tokens.</p>"
    return PAGE.format(title=html.escape(title), note=note, rows="\n".join(parts))


def _tokens(row: Row, tokenizer: Any) -> str:
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    starts, place = set(), 0
    for length in row.lengths:
        starts.add(place)
        place += length
    parts = []
    for first, after, text in pieces(row.ids, tokenizer):
        names = ["t" if row.trained[first] else "u"]
        names += ["s"] * (row.ids[first] in special) + ["d"] * (first in starts and first > 0)
        number = f"{first}" if after - first == 1 else f"{first}–{after - 1}"
        tip = f"token {number}, id {', '.join(map(str, row.ids[first:after]))}"
        parts.append(f'<span class="{" ".join(names)}" title="{tip}">{html.escape(text)}</span>')
    return "".join(parts)


def _counts(row: Row) -> str:
    return "".join(
        f'<span class="{"t" if row.trained[run.start] else "u"}">{len(run)} tokens</span> '
        for run in spans(row.trained)
    )


def pieces(ids: Sequence[int], tokenizer: Any) -> Iterator[tuple[int, int, str]]:
    """The text of each token (first, after, text), of several where they share a character.

    A token is decoded behind the one before it: by itself it may lose its leading blank.
    """
    first = 0
    for after in range(1, len(ids) + 1):
        before = ids[max(0, first - 1) : first]
        lead = tokenizer.decode(before) if before else ""
        text = tokenizer.decode([*before, *ids[first:after]])[len(lead) :]
        if text.endswith("�") and after < len(ids) and after - first < 8:
            continue
        yield first, after, text
        first = after


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; --page: #fff; --ink: #1b1b1b; --faint: #6b6b6b; --on: #bfe8c4; --line: #2a7d3a; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #16181a; --ink: #e8e8e8; --faint: #9a9a9a; --on: #1f5a2b; --line: #6fcf80; }}
}}
body {{ background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.3rem }} h2 {{ font-size: 1rem; margin-top: 2rem }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.7 ui-monospace, monospace }}
.t {{ background: var(--on); box-shadow: inset 0 -2px var(--line); }}
.u {{ color: var(--faint) }}
.s {{ font-weight: 700 }}
.d {{ border-left: 3px solid var(--line); margin-left: .4rem; padding-left: .2rem }}
span:hover {{ outline: 1px solid var(--line) }}
</style></head><body>
<h1>What is trained: {title}</h1>
<p><span class="t">trained</span> <span class="u">read, not trained</span> <span class="s">special token</span>;
a bar on the left begins another document of the same block. Point at a token for its number and id.</p>
{note}
{rows}
</body></html>
"""

"""Texts side by side, and whether an edited one may be saved. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import NamedTuple

from mediflow.checking.checks import check_example
from mediflow.checking.validate import check_json
from mediflow.taxonomy import load_taxonomy

WORD = re.compile(r"\s+|\w+|[^\w\s]")
LINE = re.compile(r"[^\n]*\n?")
LONGEST = 6000
"""Signs and words of a text above which lines are compared: the search takes quadratic time."""


def diff_words(before: str, after: str) -> list[tuple[str, str]]:
    """Pieces in order: ("=", text of both), ("-", only before), ("+", only after). Joined, they give both texts."""
    one, other = WORD.findall(before), WORD.findall(after)
    if max(len(one), len(other)) > LONGEST:
        one, other = LINE.findall(before), LINE.findall(after)
    pieces: list[tuple[str, str]] = []
    for kind, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(("=", "".join(one[a:b])))
            continue
        if b > a:
            pieces.append(("-", "".join(one[a:b])))
        if d > c:
            pieces.append(("+", "".join(other[c:d])))
    return pieces


class CheckedEdit(NamedTuple):
    """The texts as they would be saved, why they cannot be, and what was put right in them."""

    edited: dict[str, str]
    faults: list[str]
    repairs: list[str]


def check_edit(row: Mapping[str, str], edited: Mapping[str, str]) -> CheckedEdit:
    """Whether an edit may be saved.

    JSON must be JSON. Beyond that the checks of the task bind (its schema, spans, codes, …) where the row itself keeps
    to them: a row that was written to other rules may be mended too. What they put right, such as the offsets of a
    span that was rewritten, is put right.
    """
    changed = {name: text for name, text in edited.items() if text != row[name]}
    faults = [f"{name}: is empty" for name, text in changed.items() if not text.strip()]
    if not changed:
        faults.append("nothing was changed")
    if row["output_format"] == "json" and changed.get("output", "").strip():
        broken = check_json(changed["output"], {})
        faults += [f"output: {broken}"] if broken else []
    task = load_taxonomy().tasks.get(row["task_type"])
    if faults or task is None:
        return CheckedEdit(changed, faults, [])
    before = check_example(task, row["output_format"], row["input"], row["output"])
    if before.faults or before.repairs:
        return CheckedEdit(changed, [], [])
    now = {**row, **changed}
    checked = check_example(task, row["output_format"], now["input"], now["output"])
    if checked.repairs and not checked.faults:
        changed["output"] = checked.output
    return CheckedEdit(changed, [f"output: {fault}" for fault in checked.faults], checked.repairs)

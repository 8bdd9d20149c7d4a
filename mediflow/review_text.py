"""Texts side by side, and whether an edited one may be saved. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher

from mediflow.taxonomy import load_taxonomy
from mediflow.validate import check_json

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


def find_faults(row: Mapping[str, str], edited: Mapping[str, str]) -> list[str]:
    """Why an edit cannot be saved; empty where it can.

    The schema of the task binds where the row itself keeps to it: a row that was written to another one may be mended.
    """
    faults = [f"{name}: is empty" for name, text in edited.items() if not text.strip()]
    if all(row[name] == text for name, text in edited.items()):
        faults.append("nothing was changed")
    if row["output_format"] != "json" or "output" not in edited or not edited["output"].strip():
        return faults
    broken = check_json(edited["output"], {})
    if broken:
        return [*faults, f"output: {broken}"]
    task = load_taxonomy().tasks.get(row["task_type"])
    if task is not None and check_json(row["output"], task.schema) is None:
        misfit = check_json(edited["output"], task.schema)
        faults += [f"output: {misfit}"] if misfit else []
    return faults

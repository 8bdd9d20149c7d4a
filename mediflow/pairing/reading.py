"""Can a teacher's text stand as the rejected answer? It must differ from the right one, and keep its form."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from mediflow.generation.parse import strip_fence
from medsmith.records import Instruction


def read_answer(call: dict[str, Any]) -> str | None:
    """The flawed answer of a call, without a code fence around it; None where none came, or not the whole of one."""
    return strip_fence(call["texts"][0]) if call["texts"] and call["finish"][:1] != ["length"] else None


def find_flaw(row: Instruction, text: str | None) -> tuple[str, str | None]:
    """The answer, and why it cannot stand as the rejected one, or None."""
    if text is None or not text.strip():
        return "", "empty"
    if fold(text) == fold(row.output):
        return text, "equal_to_chosen"
    if row.output_format == "json" and (good := _keys(row.output)) is not None:
        # Broken syntax or other keys would be learned in place of the flaw.
        keys = _keys(text)
        if keys is None:
            return text, "not_json"
        if keys != good:
            return text, "other_keys"
    return text, None


def fold(text: str) -> str:
    """Without spacing, case and Unicode variants; punctuation stays, for 1.5 is not 15."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _keys(text: str) -> set[str] | None:
    """The top-level keys of a JSON text, none for a list or a value; None where it is no JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return set(value) if isinstance(value, dict) else set()

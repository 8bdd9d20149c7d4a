"""A task asked of a document, with its known answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exchange:
    """What is shown, the right answer as plain text, and as the JSON object of the task's schema.

    `kind` fills the slot of an instruction that asks for one kind of thing.
    """

    input: str
    text: str
    value: dict[str, Any]
    kind: str = ""

    def output(self, output_format: str) -> str:
        """The answer in the asked format."""
        return json.dumps(self.value, ensure_ascii=False) if output_format == "json" else self.text


def as_written(text: str, term: str) -> str:
    """The first occurrence of the term with the text's own capitals. ValueError where there is none."""
    start = text.lower().index(term.lower())
    return text[start : start + len(term)]

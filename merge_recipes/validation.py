"""What a search is measured on: validation questions (medsmith/questions.py), and texts for the loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsmith.errors import UserError
from medsmith.questions import Answers as Answers
from medsmith.questions import Question as Question
from medsmith.questions import Score as Score
from medsmith.questions import answer as answer
from medsmith.questions import read_questions as read_questions
from medsmith.questions import score as score
from medsmith.questions import tally as tally
from medsmith.records import read_jsonl


@dataclass(frozen=True)
class Difference:
    """The first model's mean less the second's, with a 95% interval over questions."""

    value: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The `text` of every row of some files, for the loss on them.

    Raises:
        UserError: a row without text.
    """
    texts = []
    for path in paths:
        for number, row in enumerate(read_jsonl(path), 1):
            if not isinstance(row.get("text"), str) or not row["text"]:
                raise UserError(f"{path} row {number}: no `text`; give JSON Lines of documents")
            texts.append(row["text"])
    return texts

"""How CLUE scores a text: the output as it is against the gold as it is, every item on every metric."""

from __future__ import annotations

from eval.benchmark import Item
from eval.scorers import rouge


def whole(output: str, item: Item) -> str:
    """The output as it is. None is unreadable: an empty one is scored like any other."""
    return output


def rouge_of_all(answer: str, item: Item) -> dict[str, float]:
    """F1 of ROUGE-1, -2 and -L, where ROUGE-2 of a gold of one word is 0, not left out."""
    found = rouge(answer, item.gold)
    return {"rouge1": found["rouge1"], "rouge2_all": found.get("rouge2", 0.0), "rougeL": found["rougeL"]}

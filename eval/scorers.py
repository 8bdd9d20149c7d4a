"""Scores of one answer against its gold, each 0..1. Pinned: a number means the same for every model."""

from __future__ import annotations

import functools
import re
from typing import Any

from eval.parsing import split_list


def rouge(answer: str, gold: str) -> dict[str, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L.

    A gold of one word has no pair of words, and ROUGE-2 is 0 even for a right answer: it is left out.
    """
    scores = _rouge_scorer().score(gold, answer)
    names = ("rouge1", "rouge2", "rougeL") if len(_words(gold)) > 1 else ("rouge1", "rougeL")
    return {name: float(scores[name].fmeasure) for name in names}


def exact(answer: str, gold: str) -> float:
    """1.0 where the answer equals the gold but for case, surrounding space and a full stop."""
    return float(answer.strip(" .\n").casefold() == gold.strip(" .\n").casefold())


def list_f1(answer: str, gold: str) -> float:
    """F1 of two lists as sets: a repeated part counts once."""
    said, true = set(split_list(answer)), set(split_list(gold))
    if not said or not true:
        return float(said == true)
    return 2 * len(said & true) / (len(said) + len(true))


def _words(text: str) -> list[str]:
    """The words of a text as rouge-score sees them."""
    return re.findall(r"[a-z0-9]+", text.lower())


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)

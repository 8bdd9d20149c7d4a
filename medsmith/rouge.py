"""ROUGE-1, ROUGE-2 and ROUGE-L as the package rouge-score computes them: no stemmer, F1, the same floats.

That package imports the whole of nltk for a stemmer that is not used here (1.5 CPU seconds, a quarter of a small
evaluation), and takes a second for a pair of long notes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence


def words_of(text: str) -> list[str]:
    """The words of a text: runs of a-z and 0-9 in lower case. All else, accents among it, only separates."""
    return re.findall(r"[a-z0-9]+", text.lower())


def rouge_n(gold: Sequence[str], answer: Sequence[str], size: int) -> float:
    """F1 of the runs of `size` words that two texts share, each as often as in the text that has fewer of it."""
    ours, theirs = _runs(answer, size), _runs(gold, size)
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(gold: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words."""
    return _f1(longest_common(gold, answer), len(answer), len(gold))


def longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence, with a row of the table in the bits of one integer (Hyyrö 2004)."""
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(left):
        places[word] |= 1 << place
    whole = (1 << len(left)) - 1
    row = whole
    for word in right:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & whole
    return len(left) - row.bit_count()


def _runs(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(size)), strict=False))


def _f1(shared: int, said: int, true: int) -> float:
    if not shared:
        return 0.0
    precision, recall = shared / said, shared / true
    return 2 * precision * recall / (precision + recall)

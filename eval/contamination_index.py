"""Which texts of test sets occur in training rows, by the screen that curation uses (medsmith.decontaminate).

The test sets are indexed, which are small; training rows pass by in batches and leave nothing behind but counts. What
frames a line (its number in a list, a label such as `ABSTRACT:`) is left out, in tests and in training. A text's
sequences may be met in many rows, a share of them flags it; an edited copy stands in one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medsmith.blocklists import Blocked
from medsmith.decontaminate import Overlap, build_screen
from medsmith.shingles import tokenize

Side = Literal["question", "answer"]
Rule = Literal["ngram", "containment"]

FRAME = r"(?m)^[ \t]*(?:(?:[0-9]{1,3}[.):]?|[A-Z][A-Z0-9 _/-]{0,30}:)[ \t]+)+"
FLAGS = Overlap(ngram_share=0.2)
"""Settled on open corpora and benchmarks: stock phrases reach a tenth, texts that were copied lie far above a fifth."""


class Wanted(NamedTuple):
    """One text that is looked for: the question or the answer of an item."""

    benchmark: str
    item: str
    group: str
    side: Side
    text: str


class Place(NamedTuple):
    """Where in training: file, row and field."""

    file: str
    row: str
    field: str


class Match(NamedTuple):
    """A text, by its number, that was seen: the rule, how much, and the training row that holds most of it."""

    text: int
    rule: Rule
    amount: float
    place: Place


class Search:
    """What has been found so far, as training texts pass by."""

    def __init__(self, wanted: Sequence[Wanted], rules: Overlap) -> None:
        self.rules = rules
        self.wanted = wanted
        self.texts = 0
        self.words = 0
        texts = unframed([one.text for one in wanted])
        self._long = np.flatnonzero(tokenize(texts).counts >= rules.min_words)
        """The wanted texts that are long enough to be evidence; the screen numbers these."""
        blocked = [
            Blocked(wanted[number].benchmark, wanted[number].item, texts[number], wanted[number].group)
            for number in self._long.tolist()
        ]
        self._screen = build_screen(blocked, rules)
        self._judged = set(self._long[self._screen.looked_for].tolist())
        self._seen = np.zeros(len(self._screen.sequences.values), dtype=bool)
        self._most: dict[int, tuple[int, Place]] = {}
        self._contained: dict[int, tuple[float, Place]] = {}

    def look(self, texts: Sequence[str], places: Sequence[Place]) -> None:
        """Hold a batch of training texts against the index."""
        words = tokenize(unframed(texts))
        self.texts += len(texts)
        self.words += len(words.hashes)
        found = self._screen.find(words)
        self._seen[found.sequences[1]] = True
        for row, one, count in zip(
            *map(np.ndarray.tolist, self._screen.sequences.pairs(*found.sequences)), strict=True
        ):
            if count > self._most.get(one, (0,))[0]:
                self._most[one] = (count, places[row])
        rows, ones = found.contained
        for row, one, share in zip(rows.tolist(), ones.tolist(), found.shares.tolist(), strict=True):
            if share > self._contained.get(one, (0.0,))[0]:
                self._contained[one] = (share, places[row])

    def matches(self) -> list[Match]:
        """Every text and rule that found something, weak overlaps of n-grams included; in the order of the texts."""
        sequences = self._screen.sequences
        met = np.repeat(self._seen, np.diff(sequences.starts))
        met_by_text = np.bincount(sequences.owners, weights=met, minlength=len(self._long))
        share = met_by_text / np.maximum(1, self._screen.sequence_counts)
        found = [
            Match(int(self._long[one]), "ngram", float(share[one]), place) for one, (_, place) in self._most.items()
        ]
        found += [
            Match(int(self._long[one]), "containment", amount, place)
            for one, (amount, place) in self._contained.items()
        ]
        return sorted(found)

    def flags(self, match: Match) -> bool:
        """Whether it is enough to say that the text was seen."""
        return match.rule == "containment" or match.amount >= self.rules.ngram_share

    def describe(self, numbers: Sequence[int]) -> dict[str, Any]:
        """How many of some texts can be judged, and why others cannot."""
        long = set(self._long.tolist())
        judged = sum(number in self._judged for number in numbers)
        short = sum(number not in long for number in numbers)
        return {"judged": judged, "too_short": short, "template": len(numbers) - short - judged}


def unframed(texts: Sequence[str]) -> list[str]:
    """Texts without what frames their lines: the same note, numbered by sentence, is the same."""
    import polars

    found: list[str] = polars.Series(texts, dtype=polars.String).str.replace_all(FRAME, " ").to_list()
    return found

"""Which texts of test sets occur in training rows: by exact text, by long n-grams, and nearly.

The test sets are indexed, which are small; training rows pass by in batches and leave nothing behind but counts. All
counts are exact, nothing is sampled. Words are those of medsmith.shingles: no case, no punctuation, signs kept; what
frames a line (its number in a list, a label such as `ABSTRACT:`) is left out, in tests and in training.

An n-gram that more than `common_groups` documents of one test set share is that set's own template ("What is the
description of the medical code …"); it tells nothing of a copied item and is not looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medsmith.config import Block
from medsmith.shingles import Hashes, Lookup, Places, Shingles, Words, distinct, ngrams, order_keys, tokenize

Side = Literal["question", "answer"]
Rule = Literal["exact", "ngram", "near"]


FRAME = r"(?m)^[ \t]*(?:(?:[0-9]{1,3}[.):]?|[A-Z][A-Z0-9 _/-]{0,30}:)[ \t]+)+"


class Rules(Block):
    """When a text counts as seen in training."""

    min_words: int = Field(8, ge=1, description="shorter texts are no evidence and are not looked for")
    ngram_words: int = Field(13, ge=2, description="words of an n-gram; a shorter text is one n-gram of all its words")
    # Settled on open corpora and benchmarks: stock phrases reach a tenth, texts that were copied lie far above a fifth.
    ngram_share: float = Field(0.2, gt=0, le=1, description="the share of a text's n-grams in training that flags it")
    shingle_words: int = Field(3, ge=1, description="words of a shingle, for near duplicates")
    jaccard: float = Field(0.4, gt=0, le=1, description="shared by all shingles of a text and a training text: a flag")
    common_groups: int = Field(
        10, ge=1, description="what more documents of one test set than this share is template, no evidence"
    )


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


@dataclass(frozen=True)
class Owned:
    """Distinct hashes in order, and the texts that own each in one array with its starts."""

    values: Hashes
    owners: Places
    starts: Places

    @cached_property
    def lookup(self) -> Lookup:
        """The hashes as a set to look others up in."""
        return Lookup(self.values)

    def shared(self, grams: Shingles) -> tuple[Places, Places, Places, Places]:
        """(rows, owners, distinct hashes that both hold) of every pair that shares one, and the hashes' places."""
        places, at = self.lookup.find(grams.hashes)
        rows = np.searchsorted(grams.offsets, places, side="right") - 1
        pairs = np.unique(rows * np.int64(len(self.values) + 1) + at)
        rows, at = pairs // (len(self.values) + 1), pairs % (len(self.values) + 1)
        times = self.starts[at + 1] - self.starts[at]
        ends = np.cumsum(times)
        inner = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - times, times)
        owners = self.owners[np.repeat(self.starts[at], times) + inner]
        width = np.int64(self.owners.max() + 1) if len(self.owners) else np.int64(1)
        both, counts = np.unique(np.repeat(rows, times) * width + owners, return_counts=True)
        return both // width, both % width, counts, at


@dataclass(frozen=True)
class Index:
    """Test sets made ready. `sizes` has an Owned for n-grams of every length that is looked for.

    `grams` and `shingles` are how many of its own a text has; 0: it is too short, or nothing but template.
    """

    rules: Rules
    wanted: Sequence[Wanted]
    words: Places
    keys: dict[tuple[int, int], list[int]]
    first_keys: Lookup
    sizes: dict[int, Owned]
    grams: Places
    near: Owned
    shingles: Places
    templates: dict[str, Hashes]

    def judged(self, number: int) -> bool:
        """Whether anything of the text can tell that it was seen."""
        return bool(self.grams[number])

    def too_short(self, number: int) -> bool:
        """Whether the text has fewer words than count as evidence."""
        return bool(self.words[number] < self.rules.min_words)


def words_of(texts: Sequence[str]) -> Words:
    """The words of every text, without what frames its lines: the same note, numbered by sentence, is the same."""
    import polars

    return tokenize(polars.Series(texts, dtype=polars.String).str.replace_all(FRAME, " ").to_list())


def build_index(wanted: Sequence[Wanted], rules: Rules) -> Index:
    """Index the questions and answers of test sets."""
    words = words_of([one.text for one in wanted])
    counts = words.counts
    sizes: dict[int, Owned] = {}
    total = np.zeros(len(wanted), dtype=np.int64)
    lengths = sorted({int(count) for count in counts if rules.min_words <= count < rules.ngram_words})
    for size in (*lengths, rules.ngram_words):
        numbers = np.flatnonzero(counts == size if size < rules.ngram_words else counts >= size)
        grams = distinct(ngrams(_part(wanted, numbers), size, whole_if_shorter=False))
        sizes[size], _ = _own(grams, numbers, wanted, rules.common_groups)
        total += np.bincount(sizes[size].owners, minlength=len(wanted))
    long = np.flatnonzero(counts >= max(rules.ngram_words, rules.min_words))
    near, templates = _own(
        distinct(ngrams(_part(wanted, long), rules.shingle_words)), long, wanted, rules.common_groups
    )
    keys: dict[tuple[int, int], list[int]] = {}
    for number, key in enumerate(zip(*(half.tolist() for half in order_keys(words)), strict=True)):
        if total[number]:
            keys.setdefault(key, []).append(number)
    first = Lookup(np.unique(np.array([key[0] for key in keys], dtype=np.uint64)))
    shingles = np.bincount(near.owners, minlength=len(wanted))
    return Index(rules, wanted, counts, keys, first, sizes, total, near, shingles, templates)


def _part(wanted: Sequence[Wanted], numbers: Places) -> Words:
    return words_of([wanted[number].text for number in numbers.tolist()])


def _own(grams: Shingles, numbers: Places, wanted: Sequence[Wanted], limit: int) -> tuple[Owned, dict[str, Hashes]]:
    """Who owns which hash, without each set's template; and the templates, by set."""
    sets = sorted({one.benchmark for one in wanted})
    groups = sorted({(one.benchmark, one.group) for one in wanted})
    set_of_group = np.array([sets.index(benchmark) for benchmark, _ in groups], dtype=np.int64)
    group_number = {group: number for number, group in enumerate(groups)}
    texts = numbers[grams.owners()] if len(numbers) else np.zeros(0, dtype=np.int64)
    group = np.array([group_number[one.benchmark, one.group] for one in wanted], dtype=np.int64)[texts]
    values, at = np.unique(grams.hashes, return_inverse=True)
    held = np.unique(at * np.int64(len(groups)) + group)
    of_set = held // len(groups) * len(sets) + set_of_group[held % len(groups)]
    names, counts = np.unique(of_set, return_counts=True)
    common = names[counts > limit]
    kept = ~np.isin(at * len(sets) + set_of_group[group], common)
    order = np.argsort(at[kept], kind="stable")
    rest, starts = np.unique(at[kept][order], return_index=True)
    templates = {name: values[common[common % len(sets) == number] // len(sets)] for number, name in enumerate(sets)}
    return Owned(values[rest], texts[kept][order], np.append(starts, len(order)).astype(np.int64)), templates


@dataclass
class Search:
    """What has been found so far, as training texts pass by."""

    index: Index
    texts: int = 0
    words: int = 0
    _exact: dict[int, Place] = field(default_factory=dict)
    _near: dict[int, tuple[float, Place]] = field(default_factory=dict)
    _most: dict[int, tuple[int, Place]] = field(default_factory=dict)
    _seen: dict[int, NDArray[np.bool_]] = field(default_factory=dict)

    def look(self, texts: Sequence[str], places: Sequence[Place]) -> None:
        """Hold a batch of training texts against the index."""
        words = words_of(texts)
        self.texts += len(texts)
        self.words += len(words.hashes)
        self._look_exact(words, places)
        for size, owned in self.index.sizes.items():
            rows, owners, counts, at = owned.shared(ngrams(words, size, whole_if_shorter=False))
            self._seen.setdefault(size, np.zeros(len(owned.values), dtype=bool))[at] = True
            for row, owner, count in zip(rows.tolist(), owners.tolist(), counts.tolist(), strict=True):
                if count > self._most.get(owner, (0,))[0]:
                    self._most[owner] = (count, places[row])
        self._look_near(words, places)

    def matches(self) -> list[Match]:
        """Every text and rule that found something, weak overlaps of n-grams included; in the order of the texts."""
        found = [Match(text, "exact", 1.0, place) for text, place in self._exact.items()]
        share = self._shares()
        found += [Match(text, "ngram", float(share[text]), place) for text, (_, place) in self._most.items()]
        found += [Match(text, "near", amount, place) for text, (amount, place) in self._near.items()]
        return sorted(found)

    def flags(self, match: Match) -> bool:
        """Whether it is enough to say that the text was seen."""
        return match.rule != "ngram" or match.amount >= self.index.rules.ngram_share

    def _shares(self) -> NDArray[np.float64]:
        """The share of each text's n-grams that occurred anywhere in training."""
        met = np.zeros(len(self.index.wanted))
        for size, seen in self._seen.items():
            owned = self.index.sizes[size]
            each = np.repeat(seen, np.diff(owned.starts))
            met += np.bincount(owned.owners, weights=each, minlength=len(met))
        shares: NDArray[np.float64] = met / np.maximum(self.index.grams, 1)
        return shares

    def _look_exact(self, words: Words, places: Sequence[Place]) -> None:
        first, second = order_keys(words)
        for row in self.index.first_keys.find(first)[0].tolist():
            for text in self.index.keys.get((int(first[row]), int(second[row])), []):
                self._exact.setdefault(text, places[row])

    def _look_near(self, words: Words, places: Sequence[Place]) -> None:
        index = self.index
        grams = ngrams(words, index.rules.shingle_words, whole_if_shorter=False)
        rows, owners, counts, _ = index.near.shared(grams)
        # Sharing fewer, the two cannot be so alike, however short the training text is.
        likely = counts >= index.rules.jaccard * index.shingles[owners]
        sizes: dict[tuple[int, str], int] = {}
        pairs = zip(rows[likely].tolist(), owners[likely].tolist(), counts[likely].tolist(), strict=True)
        for row, owner, count in pairs:
            benchmark = index.wanted[owner].benchmark
            if (row, benchmark) not in sizes:
                own = np.unique(grams.of(row))
                sizes[row, benchmark] = int((~np.isin(own, index.templates[benchmark])).sum())
            amount = count / (int(index.shingles[owner]) + sizes[row, benchmark] - count)
            if amount >= index.rules.jaccard and amount > self._near.get(owner, (0.0,))[0]:
                self._near[owner] = (amount, places[row])


def describe(index: Index, numbers: Sequence[int]) -> dict[str, Any]:
    """How many texts can be judged, and why others cannot."""
    short = sum(index.too_short(number) for number in numbers)
    judged = sum(index.judged(number) for number in numbers)
    return {"judged": judged, "too_short": short, "template": len(numbers) - short - judged}

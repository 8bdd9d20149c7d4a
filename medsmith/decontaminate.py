"""Which training texts hold a benchmark's text: a shared 13-word sequence, or most of a (shorter or edited) text.

Both counts are exact: no sampling, no hashing of sets. Language that many training rows share (a template, a standard
phrase) is no sign of a copied test item; it is recognised by how many rows hold it, ignored and counted, as GPT-3's
authors did (Brown et al. 2020, appendix C: sequences in more than 10 documents).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medsmith.blocklists import Blocked
from medsmith.config import Block
from medsmith.shingles import Hashes, Lookup, Places, Shingles, Words, count_shared, distinct, ngrams, tokenize


class Decontamination(Block):
    """When a row counts as holding a benchmark's text."""

    min_words: int = Field(8, description="benchmark texts with fewer words are no evidence and are not looked for")
    ngram_words: int = Field(13, description="a shared sequence of so many words drops a row")
    containment: float = Field(
        0.8, gt=0, le=1, description="the share of a benchmark text's shingles that drops a row that holds them"
    )
    shingle_words: int = Field(3, description="words in a shingle of `containment`")
    common_rows: int = Field(10, ge=1, description="what more rows than this hold is template language, not a leak")


class Hit(NamedTuple):
    """What a training text was found to hold; `similarity` is the share of the benchmark text's shingles in it."""

    blocked: int
    rule: Literal["ngram", "containment"]
    similarity: float


class Contamination(NamedTuple):
    """The hits by number of the text, and how many blocked texts were taken for template language, by benchmark."""

    hits: dict[int, Hit]
    templates: dict[str, int]


@dataclass(frozen=True)
class Inverted:
    """Distinct hashes in order, and the owners of each in one array with its starts."""

    values: Hashes
    owners: Places
    starts: Places

    @cached_property
    def lookup(self) -> Lookup:
        """The hashes as a set to look others up in."""
        return Lookup(self.values)

    def owners_of(self, value: int) -> list[int]:
        """Who has the hash at this place."""
        owners: list[int] = self.owners[self.starts[value] : self.starts[value + 1]].tolist()
        return owners


class Found(NamedTuple):
    """What a batch of texts shares with the benchmarks, template language included, as columns of equal length.

    `sequences` are (text, place of the sequence among the screen's) and `contained` (text, blocked text) with `shares`.
    """

    sequences: tuple[Places, Places]
    contained: tuple[Places, Places]
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Screen:
    """The benchmarks' texts as arrays that any number of batches of rows are held against.

    Sequences: the distinct long n-grams, and the blocked texts that own each. Containment: a row that holds a share c
    of m shingles misses at most (1-c)m of them, so it holds one of any (1-c)m+1 of them; the rarest of each blocked
    text are its `prefix`, and nothing else is looked up first. Nothing is lost.
    """

    settings: Decontamination
    banned: Shingles
    sequences: Inverted
    prefixes: Inverted

    def find(self, words: Words, grams: Shingles | None = None) -> Found:
        """Look for every blocked text in every text; `grams` are the words' shingles where they are at hand."""
        settings = self.settings
        long = ngrams(words, settings.ngram_words, whole_if_shorter=False)
        sequences = _match(long, self.sequences)
        rows = grams or ngrams(words, settings.shingle_words)
        numbers, values = _match(rows, self.prefixes)
        pairs = sorted(
            {(number, one) for number, value in zip(numbers.tolist(), values.tolist(), strict=True)
             for one in self.prefixes.owners_of(value)}
        )  # fmt: skip
        texts, ones, shares = [], [], []
        sets: dict[int, Hashes] = {}
        for number, one in pairs:
            if number not in sets:
                sets = {number: np.unique(rows.of(number))}
            share = _share(self.banned.of(one), sets[number])
            if share >= settings.containment - 1e-9:
                texts.append(number)
                ones.append(one)
                shares.append(share)
        contained = (np.array(texts, dtype=np.int64), np.array(ones, dtype=np.int64))
        return Found(sequences, contained, np.array(shares))

    def share(self, one: int, shingles: Hashes) -> float:
        """The share of a blocked text's shingles that a text's set of shingles holds."""
        return _share(self.banned.of(one), shingles)

    def save(self, path: Path) -> None:
        """Write to one file, which other processes load."""
        np.savez(
            path,
            hashes=self.banned.hashes,
            offsets=self.banned.offsets,
            **{f"s_{name}": getattr(self.sequences, name) for name in ("values", "owners", "starts")},
            **{f"p_{name}": getattr(self.prefixes, name) for name in ("values", "owners", "starts")},
        )


def load_screen(path: Path, settings: Decontamination) -> Screen:
    """What `Screen.save` wrote."""
    with np.load(path) as held:
        inverted = [Inverted(*(held[f"{kind}_{name}"] for name in ("values", "owners", "starts"))) for kind in "sp"]
        return Screen(settings, Shingles(held["hashes"], held["offsets"]), *inverted)


def build_screen(blocked: Sequence[Blocked], settings: Decontamination, sample: Sequence[str] = ()) -> Screen:
    """Index the blocked texts; `sample` are some of the rows, from which it is learnt what shingles are rare."""
    words = tokenize([one.text for one in blocked])
    banned = distinct(ngrams(words, settings.shingle_words))
    seen = ngrams(tokenize(sample), settings.shingle_words).hashes if sample else np.zeros(0, dtype=np.uint64)
    values, counts = np.unique(np.concatenate([seen, banned.hashes]), return_counts=True)
    rarity = counts[np.searchsorted(values, banned.hashes)] if len(values) else counts
    prefixes = [np.zeros(0, dtype=np.uint64)]
    owners = [np.zeros(0, dtype=np.int64)]
    for one in range(len(banned)):
        own = banned.of(one)
        allowed = int((1 - settings.containment) * len(own) + 1e-9) + 1
        order = np.argsort(rarity[banned.offsets[one] : banned.offsets[one + 1]], kind="stable")
        prefixes.append(own[order[:allowed]])
        owners.append(np.full(len(prefixes[-1]), one))
    long = distinct(ngrams(words, settings.ngram_words, whole_if_shorter=False))
    return Screen(
        settings,
        banned,
        _invert(long.hashes, long.owners()),
        _invert(np.concatenate(prefixes), np.concatenate(owners)),
    )


def common(places: Places, limit: int) -> Places:
    """The places that occur more than `limit` times, each once; every occurrence is another row's."""
    values, counts = np.unique(places, return_counts=True)
    return values[counts > limit]


def find_contaminated(texts: Sequence[str], blocked: Sequence[Blocked], settings: Decontamination) -> Contamination:
    """Compare every text with every blocked text; the hit with the largest similarity is named."""
    if not texts or not blocked:
        return Contamination({}, {})
    screen = build_screen(blocked, settings, texts)
    words = tokenize(texts)
    rows = ngrams(words, settings.shingle_words)
    found = screen.find(words, rows)
    return judge_found(screen, found, blocked, lambda number: np.unique(rows.of(number)))


def judge_found(
    screen: Screen, found: Found, blocked: Sequence[Blocked], shingles_of: Callable[[int], Hashes]
) -> Contamination:
    """What of all that was found is a leak: template language, known by the number of rows that hold it, is none.

    `found` is of the rows that are left, of all of them; `shingles_of` gives one row's set of shingles.
    """
    limit = screen.settings.common_rows
    numbers, values = found.sequences
    rare = ~np.isin(values, common(values, limit))
    owners: dict[int, set[int]] = defaultdict(set)
    for number, value in zip(numbers[rare].tolist(), values[rare].tolist(), strict=True):
        owners[number].update(screen.sequences.owners_of(value))
    hits = {}
    for number, ones in owners.items():
        own = shingles_of(number)
        similarity, one = max((screen.share(one, own), -one) for one in ones)
        hits[number] = Hit(-one, "ngram", similarity)
    templates = common(found.contained[1], limit)
    kept = ~np.isin(found.contained[1], templates)
    for number, one, share in zip(*(part[kept].tolist() for part in (*found.contained, found.shares)), strict=True):
        known = hits.get(number)
        # Of equal shares the sequence is the stronger evidence, then the first of the blocked texts.
        if known is None or share > known.similarity:
            hits[number] = Hit(one, "containment", share)
    return Contamination(dict(sorted(hits.items())), dict(Counter(blocked[int(one)].benchmark for one in templates)))


def _share(banned: Hashes, shingles: Hashes) -> float:
    return count_shared(banned, shingles) / len(banned) if len(banned) else 0.0


def _invert(hashes: Hashes, owners: Places) -> Inverted:
    order = np.argsort(hashes, kind="stable")
    values, starts = np.unique(hashes[order], return_index=True)
    return Inverted(values, owners[order], np.append(starts, len(hashes)).astype(np.int64))


def _match(rows: Shingles, inverted: Inverted) -> tuple[Places, Places]:
    """Which rows hold which of the hashes, each pair once."""
    places, at = inverted.lookup.find(rows.hashes)
    pairs = np.unique(rows.owners()[places] * np.int64(len(inverted.values) + 1) + at)
    return pairs // (len(inverted.values) + 1), pairs % (len(inverted.values) + 1)

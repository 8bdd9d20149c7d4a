"""What was accepted so far, in little memory: is a new record the same as an earlier one, or nearly?

Near repeats are proposed by MinHash bands and counted only after the true Jaccard similarity of the word shingles has
been computed from the earlier record's own text, which is read back from the file: nothing is refused on an estimate,
and nothing that mediflow.curate would keep for a number, side, negation or drug: the guard is the same.
Of a record are kept: 64 bits for each of 16 bands and for its exact words (136 bytes), 64 bytes of its signature, 8 of
its place. That is some 0.6 GB for 2.5 million records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mediflow.vocabulary.critical import says_the_same
from medsmith.config import Block
from medsmith.dedup import sign
from medsmith.shingles import Shingles, jaccard, mix, split_words

Words = NDArray[np.uint64]

# 16 bands of 8 rows propose a pair of similarity 0.8 with a chance of 0.95, 0.85 with 0.996, 0.9 with 0.9999; and one
# of 0.5, of which text made from templates has many, with 0.06. What slips through is found by mediflow.curate.
BANDS, ROWS = 16, 8
SIGNATURE_BYTES = 64
SURELY_BELOW = 0.2
"""Four standard errors of a similarity that is estimated from SIGNATURE_BYTES values."""
MOST_COMPARED = 8
NUMBER_BITS = 28
KNOWN_WORDS = 500_000
FRESH_ENTRIES = 1 << 18
LONGEST_RUN = 1 << 23


class NearRepeats(Block):
    """When two records of one task and format say the same: Jaccard similarity of the word shingles, as in curate."""

    threshold: float | None = Field(
        0.8, ge=0.5, le=1, description="similarity that refuses the later; null: equal ones"
    )
    shingle_words: int = Field(3, ge=1, description="words in a shingle")
    guard: bool = Field(
        True, description="records that differ in a number or unit, a negation, side or drug are no near repeats"
    )


class Repeat(NamedTuple):
    """The number of the record that is repeated, and how alike the two are."""

    of: int
    similarity: float
    exact: bool


class Look(NamedTuple):
    """A record as it was looked at: what it repeats, and what is kept of it if it is accepted."""

    repeat: Repeat | None
    keys: Words
    signature: NDArray[np.uint8]


class Admitted:
    """The accepted records. Records are compared within a group (task and format) only."""

    def __init__(self, settings: NearRepeats, text_of: Callable[[int], str], seed: int = 0) -> None:
        """`text_of(number)` reads back what `look` was given for an accepted record."""
        self.settings = settings
        self.text_of = text_of
        self.seed = seed
        self._entries = _Entries()
        self._signatures = _Signatures()
        self._known: dict[str, int] = {}

    def look(self, group: str, text: str) -> Look:
        """Compare a record with all accepted ones of its group."""
        words = split_words(text)
        salt = _hash(group)
        exact = _hash("\x1f".join((group, *words)) if words else f"{group}\x1f\x1f{text}")
        if self.settings.threshold is None:
            keys = np.array([exact], dtype=np.uint64)
            signature = np.zeros(0, dtype=np.uint8)
            shingles = None
        else:
            shingles = self._shingles(words, text)
            ends = np.array([0, len(shingles)])
            minima = sign(Shingles(shingles, ends), BANDS * ROWS, self.seed)[0]
            keys = np.concatenate([np.array([exact], dtype=np.uint64), _bands(minima, salt)])
            signature = minima[:SIGNATURE_BYTES].astype(np.uint8)
        candidates = self._entries.find(keys)
        repeat = self._nearest(candidates, words, shingles, signature, text) if candidates else None
        return Look(repeat, keys, signature)

    def add(self, look: Look, number: int) -> None:
        """Accept what was looked at, as record `number`; numbers count up from 0 without a gap."""
        self._entries.add(look.keys, number)
        if look.signature.size:
            self._signatures.append(look.signature)

    def _nearest(
        self, candidates: list[int], words: list[str], shingles: Words | None, signature: NDArray[np.uint8], text: str
    ) -> Repeat | None:
        """The most alike of the candidates that reaches the threshold; of equally alike ones the first."""
        least = self.settings.threshold
        if shingles is not None and least is not None:
            alike = self._signatures.alike(candidates, signature)
            order = np.argsort(-alike, kind="stable")
            candidates = [candidates[n] for n in order[:MOST_COMPARED] if alike[n] >= least - SURELY_BELOW]
        best: Repeat | None = None
        for number in candidates:
            earlier = self.text_of(number)
            theirs = split_words(earlier)
            if theirs == words and (words or earlier == text):
                return Repeat(number, 1.0, True)
            if shingles is None or least is None:
                continue
            similarity = jaccard(np.unique(shingles), np.unique(self._shingles(theirs, earlier)))
            alike_enough = similarity >= least and (best is None or similarity > best.similarity)
            if alike_enough and (not self.settings.guard or says_the_same(text, earlier)):
                best = Repeat(number, similarity, False)
        return best

    def _shingles(self, words: list[str], text: str) -> Words:
        """The hashes of all runs of words; of a shorter text one of all that it has."""
        size = self.settings.shingle_words
        if len(words) < size:
            return np.array([_hash(" ".join(words) or text)], dtype=np.uint64)
        known = self._known
        if len(known) > KNOWN_WORDS:
            known.clear()
        hashes = np.array([known.get(word) or known.setdefault(word, _hash(word)) for word in words], dtype=np.uint64)
        windows = len(words) - size + 1
        value = np.zeros(windows, dtype=np.uint64)
        for place in range(size):
            value *= np.uint64(0x9E3779B97F4A7C15)
            value += hashes[place : place + windows]
        return mix(value)


class _Entries:
    """Which records have a key: sorted runs of 64-bit entries (36 bits of the key, 28 of the record's number).

    New entries are in a dictionary until there are enough for a run; runs of like size are merged, up to a size at
    which merging would take a second's pause.
    """

    def __init__(self) -> None:
        self._fresh: dict[int, list[int]] = {}
        self._count = 0
        self._runs: list[Words] = []

    def find(self, keys: Words) -> list[int]:
        """The numbers of the records that share any of the keys, in order, each once."""
        starts = keys >> np.uint64(NUMBER_BITS)
        found: set[int] = set()
        for key in starts.tolist():
            if key in self._fresh:
                found.update(self._fresh[key])
        if self._runs:
            low = starts << np.uint64(NUMBER_BITS)
            bounds = np.concatenate([low, low + np.uint64(1 << NUMBER_BITS)])
            # A key of all ones has no next: its upper bound wraps to 0, and it is found nowhere.
            for run in self._runs:
                places = np.searchsorted(run, bounds)
                left, right = places[: len(keys)], places[len(keys) :]
                for n in np.flatnonzero(right > left):
                    found.update((run[left[n] : right[n]] & np.uint64((1 << NUMBER_BITS) - 1)).tolist())
        return sorted(found)

    def add(self, keys: Words, number: int) -> None:
        """Note the keys of a record."""
        assert number < 1 << NUMBER_BITS, "more records than an entry has bits for"
        for key in (keys >> np.uint64(NUMBER_BITS)).tolist():
            self._fresh.setdefault(key, []).append(number)
        self._count += len(keys)
        if self._count >= FRESH_ENTRIES:
            self._store()

    def _store(self) -> None:
        run = np.array(
            [key << NUMBER_BITS | number for key, numbers in self._fresh.items() for number in numbers],
            dtype=np.uint64,
        )
        run.sort()
        while self._runs and len(self._runs[-1]) <= len(run) and len(self._runs[-1]) + len(run) <= LONGEST_RUN:
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")
        self._runs.append(run)
        self._fresh = {}
        self._count = 0


class _Signatures:
    """The first bytes of each record's signature, in blocks, so that no growth copies them all."""

    BLOCK = 1 << 15

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.uint8]] = []
        self._count = 0

    def append(self, signature: NDArray[np.uint8]) -> None:
        if self._count % self.BLOCK == 0:
            self._blocks.append(np.empty((self.BLOCK, SIGNATURE_BYTES), dtype=np.uint8))
        self._blocks[-1][self._count % self.BLOCK] = signature
        self._count += 1

    def alike(self, numbers: list[int], signature: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The estimated similarity of each of the records."""
        rows = np.stack([self._blocks[number // self.BLOCK][number % self.BLOCK] for number in numbers])
        alike: NDArray[np.float64] = (rows == signature).mean(axis=1)
        return alike


def _bands(minima: NDArray[np.uint32], salt: int) -> Words:
    value: Words = np.arange(BANDS, dtype=np.uint64)
    value += np.uint64(salt)
    rows = minima.reshape(BANDS, ROWS).astype(np.uint64)
    for place in range(ROWS):
        value *= np.uint64(0x9E3779B97F4A7C15)
        value += rows[:, place]
    return mix(value)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little") or 1

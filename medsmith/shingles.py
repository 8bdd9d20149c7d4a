"""Texts as sets of hashed word n-grams: what duplicates and benchmark overlaps are counted with.

Two ways to the same words: `split_words` says what a word is, text by text; `tokenize` does the same for a batch in
native code (polars), five times as fast, and gives hashes. Everything after that is arithmetic on arrays.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

# Signs and decimals carry clinical meaning: "-1", "HER2+" and "1.5" must not become "1", "HER2" and "15".
WORD = re.compile(r"(?:(?<!\w)[-+](?=\d))?\w+(?:\.\d+)*(?:[+-](?!\w))?|[<>]")

# The same in three steps for an engine that cannot look around: mark the signs that count, then take them along.
LEADING_MARK, TRAILING_MARK = "\ue000", "\ue001"
_LETTER = r"\p{L}\p{N}_"
_LEADING = rf"(^|[^{_LETTER}])([-+]\p{{Nd}})"
_TRAILING = rf"([{_LETTER}][-+])($|[^{_LETTER}])"
_TOKEN = rf"(?:{LEADING_MARK}[-+])?[{_LETTER}]+(?:\.\p{{Nd}}+)*(?:[-+]{TRAILING_MARK})?|[<>]"
_NO_MARKS = {ord(LEADING_MARK): " ", ord(TRAILING_MARK): " "}


def split_words(text: str) -> list[str]:
    """Words without case, punctuation and Unicode variants; signs of numbers and results stay."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def text_key(*texts: str) -> bytes:
    """A digest that is equal for texts whose words are equal."""
    parts = [" ".join(split_words(text)) or text.strip() for text in texts]
    return hashlib.blake2b("\x1f".join(parts).encode(errors="surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class Words:
    """The words of several texts, one text after the other: as text (with marked signs) and as hashes."""

    text: polars.Series
    offsets: Places

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.offsets) - 1

    @cached_property
    def hashes(self) -> Hashes:
        """One hash a word; equal over processes and machines with one version of polars."""
        return hash_words(self.text)

    @cached_property
    def counts(self) -> Places:
        """Words of each text."""
        return np.diff(self.offsets)

    def joined(self, size: int) -> Words:
        """Each `size` texts that follow one another taken as one."""
        return Words(self.text, self.offsets[::size])


def tokenize(texts: Sequence[str]) -> Words:
    """The words of every text, as `split_words` sees them."""
    import polars

    series = polars.Series([_normalised(text) for text in texts], dtype=polars.String)
    lists = (
        series.str.replace_all(_LEADING, f"${{1}}{LEADING_MARK}$2")
        .str.replace_all(_TRAILING, f"${{1}}{TRAILING_MARK}$2")
        .str.extract_all(_TOKEN)
    )
    offsets = np.zeros(len(series) + 1, dtype=np.int64)
    np.cumsum(lists.list.len().to_numpy(), out=offsets[1:])
    words = lists.explode()
    return Words(words.drop_nulls() if len(words) != offsets[-1] else words, offsets)


def hash_words(words: polars.Series) -> Hashes:
    """One hash for each word of a series."""
    hashes: Hashes = words.hash(seed=0x5EED).to_numpy()
    return hashes


def _normalised(text: str) -> str:
    if text.isascii():
        return text.lower()
    # A lone surrogate cannot be encoded; it is no part of a word either.
    clean = text.encode("utf-8", "replace").decode("utf-8").translate(_NO_MARKS)
    return unicodedata.normalize("NFKC", clean).casefold()


@dataclass(frozen=True)
class Shingles:
    """The n-gram hashes of each text, one text after the other; sorted and distinct where `shingle` made them."""

    hashes: Hashes
    offsets: Places

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.offsets) - 1

    def of(self, number: int) -> Hashes:
        """The hashes of one text."""
        return self.hashes[self.offsets[number] : self.offsets[number + 1]]

    def ready(self, numbers: Sequence[int]) -> None:
        """All are in memory."""

    def owners(self) -> Places:
        """The text number of every hash."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))


def shingle(texts: Sequence[str], size: int, whole_if_shorter: bool = True) -> Shingles:
    """Build the sets of `size`-word shingles; a shorter text is one shingle of all its words, or has none."""
    return distinct(ngrams(tokenize(texts), size, whole_if_shorter))


def distinct(grams: Shingles) -> Shingles:
    """Sorted sets of what may repeat."""
    sets = [np.unique(grams.of(number)) for number in range(len(grams))]
    offsets = np.zeros(len(sets) + 1, dtype=np.int64)
    np.cumsum([len(one) for one in sets], out=offsets[1:])
    return Shingles(np.concatenate(sets) if sets else np.zeros(0, dtype=np.uint64), offsets)


def ngrams(words: Words, size: int, whole_if_shorter: bool = True) -> Shingles:
    """The hash of every run of `size` words within a text, in order and with repetitions."""
    counts = words.counts
    short = (counts > 0) & (counts < size) & whole_if_shorter
    numbers = np.maximum(counts - size + 1, short)
    offsets = np.zeros(len(words) + 1, dtype=np.int64)
    np.cumsum(numbers, out=offsets[1:])
    hashes = words.hashes
    if len(hashes) >= size:
        windows = _combine(hashes, size)
        ends = np.repeat(words.offsets[1:], counts)[: len(windows)]
        found = windows[np.arange(size, size + len(windows)) <= ends]
    else:
        found = np.zeros(0, dtype=np.uint64)
    if not short.any():
        return Shingles(found, offsets)
    every = np.zeros(offsets[-1], dtype=np.uint64)
    is_whole = np.zeros(offsets[-1], dtype=bool)
    for number in np.flatnonzero(short):
        own = hashes[words.offsets[number] : words.offsets[number + 1]]
        every[offsets[number]] = _combine(own, len(own))[0]
        is_whole[offsets[number]] = True
    every[~is_whole] = found
    return Shingles(every, offsets)


def order_keys(words: Words) -> tuple[Hashes, Hashes]:
    """128 bits in two halves that are equal for texts with the same words in the same order."""
    places = np.arange(len(words.hashes), dtype=np.uint64) - np.repeat(words.offsets[:-1], words.counts).astype(
        np.uint64
    )
    first = sums(mix(words.hashes ^ mix(places)), words.offsets)
    second = sums(mix(words.hashes + mix(places ^ np.uint64(0xA5A5A5A5A5A5A5A5))), words.offsets)
    return mix(first ^ words.counts.astype(np.uint64)), mix(second)


def sums(values: Hashes, offsets: Places) -> Hashes:
    """The sum of each text's values, modulo 2^64."""
    running = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values, out=running[1:])
    return running[offsets[1:]] - running[offsets[:-1]]


class Lookup:
    """A sorted set of hashes in which many others are looked up: a table of bits first, since most are not in it."""

    def __init__(self, values: Hashes) -> None:
        self.values = values
        bits = max(10, min(26, int(np.ceil(np.log2(len(values) + 1))) + 4))
        self._mask = np.uint64((1 << bits) - 1)
        self._met = np.zeros(1 << bits, dtype=bool)
        self._met[values & self._mask] = True

    def find(self, hashes: Hashes) -> tuple[Places, Places]:
        """The places in `hashes` of those that are in the set, and their places in the set."""
        maybe = np.flatnonzero(self._met[hashes & self._mask])
        if not len(maybe) or not len(self.values):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.values, hashes[maybe]), len(self.values) - 1)
        same = self.values[at] == hashes[maybe]
        return maybe[same], at[same].astype(np.int64)


def count_shared(left: Hashes, right: Hashes) -> int:
    """The size of the intersection of two sets."""
    return int(np.intersect1d(left, right, assume_unique=True).size)


def jaccard(left: Hashes, right: Hashes) -> float:
    """Intersection over union; 0.0 for two empty sets, which say nothing about likeness."""
    shared = count_shared(left, right)
    union = len(left) + len(right) - shared
    return shared / union if union else 0.0


def mix(value: Hashes) -> Hashes:
    """splitmix64's finish: every bit of the value bears on every bit of the result; overflow is meant."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _combine(words: Hashes, size: int) -> Hashes:
    """One hash per window of `size` words: a rolling polynomial, mixed."""
    windows = len(words) - size + 1
    value = np.zeros(windows, dtype=np.uint64)
    for place in range(size):
        value *= np.uint64(0x9E3779B97F4A7C15)
        value += words[place : place + windows]
    return mix(value)

"""Texts as sets of hashed word n-grams: what duplicates and benchmark overlaps are counted with.

Words are hashed once each (blake2b, so that the result does not depend on Python's hash seed) and n-grams are combined
in numpy: making the sets is most of the work of near-duplicate search.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Signs and decimals carry clinical meaning: "-1", "HER2+" and "1.5" must not become "1", "HER2" and "15".
WORD = re.compile(r"(?:(?<!\w)[-+](?=\d))?\w+(?:\.\d+)*(?:[+-](?!\w))?|[<>]")


def split_words(text: str) -> list[str]:
    """Words without case, punctuation and Unicode variants; signs of numbers and results stay."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def text_key(*texts: str) -> bytes:
    """A digest that is equal for texts whose words are equal."""
    parts = [" ".join(split_words(text)) or text.strip() for text in texts]
    return hashlib.blake2b("\x1f".join(parts).encode(errors="surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class Shingles:
    """The sorted, distinct n-gram hashes of each text, one text after the other."""

    hashes: Hashes
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.offsets) - 1

    def of(self, number: int) -> Hashes:
        """The set of one text."""
        return self.hashes[self.offsets[number] : self.offsets[number + 1]]

    def owners(self) -> NDArray[np.int64]:
        """The text number of every hash."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))


def shingle(texts: Sequence[str], size: int, whole_if_shorter: bool = True) -> Shingles:
    """Build the sets of `size`-word shingles; a shorter text is one shingle of all its words, or has none."""
    known: dict[str, int] = {}
    sets: list[Hashes] = []
    for text in texts:
        words = split_words(text)
        if len(words) < size:
            short = words and whole_if_shorter
            sets.append(np.array([_hash(" ".join(words))] if short else [], dtype=np.uint64))
            continue
        numbers = []
        for word in words:
            number = known.get(word)
            if number is None:
                number = known[word] = _hash(word)
            numbers.append(number)
        sets.append(np.unique(_combine(np.array(numbers, dtype=np.uint64), size)))
    offsets = np.zeros(len(sets) + 1, dtype=np.int64)
    np.cumsum([len(one) for one in sets], out=offsets[1:])
    return Shingles(np.concatenate(sets) if sets else np.zeros(0, dtype=np.uint64), offsets)


def count_shared(left: Hashes, right: Hashes) -> int:
    """The size of the intersection of two sets."""
    return int(np.intersect1d(left, right, assume_unique=True).size)


def jaccard(left: Hashes, right: Hashes) -> float:
    """Intersection over union; 0.0 for two empty sets, which say nothing about likeness."""
    shared = count_shared(left, right)
    union = len(left) + len(right) - shared
    return shared / union if union else 0.0


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _combine(words: Hashes, size: int) -> Hashes:
    """One hash per window of `size` words: a rolling polynomial, mixed by splitmix64; overflow is meant."""
    windows = len(words) - size + 1
    value = np.zeros(windows, dtype=np.uint64)
    for place in range(size):
        value = value * np.uint64(0x9E3779B97F4A7C15) + words[place : place + windows]
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))

"""Which texts repeat an earlier one, exactly or nearly, and of which.

All functions take texts in order of preference: the earlier one stays. Near duplicates are proposed by MinHash and
locality-sensitive hashing (rensa) and counted only after their true Jaccard similarity has been computed, so a
reported similarity is exact and there are no false positives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from medsmith.shingles import Hashes, Shingles, jaccard, mix, shingle, text_key

RECALL = 0.99
"""The least chance that a pair exactly at the threshold is proposed; pairs above it are proposed more surely."""
SIGNED_AT_ONCE = 20_000
AHEAD = 512
"""Texts whose likely partners are read together."""
Signatures = NDArray[np.uint32]


class Duplicate(NamedTuple):
    """The number of the text that is repeated, and the similarity of the two."""

    of: int
    similarity: float


class Sets(Protocol):
    """Where the shingles of a text are had from, by its number: memory, or the text read once more."""

    def of(self, number: int) -> Hashes:
        """The sorted, distinct shingles of one text."""

    def ready(self, numbers: Sequence[int]) -> None:
        """Told which texts are likely to be asked for next: many read at once cost less than one by one."""


def find_exact_duplicates(texts: Sequence[tuple[str, ...]]) -> dict[int, Duplicate]:
    """Texts (each a tuple of its parts) whose words equal an earlier one's, part by part."""
    first: dict[bytes, int] = {}
    found = {}
    for number, parts in enumerate(texts):
        of = first.setdefault(text_key(*parts), number)
        if of != number:
            found[number] = Duplicate(of, 1.0)
    return found


def find_near_duplicates(
    texts: Sequence[str],
    threshold: float,
    groups: Sequence[Hashable] | None = None,
    shingle_words: int = 3,
    permutations: int = 128,
    seed: int = 0,
) -> dict[int, Duplicate]:
    """Texts with a Jaccard similarity of at least `threshold` to an earlier text that is kept, and the nearest such.

    With `groups`, only texts of the same group are compared.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for number in range(len(texts)):
        members[groups[number] if groups is not None else None].append(number)
    found = {}
    for numbers in members.values():
        if len(numbers) < 2:
            continue
        sets = shingle([texts[number] for number in numbers], shingle_words)
        for place, duplicate in search(sign(sets, permutations, seed), sets, threshold).items():
            found[numbers[place]] = Duplicate(numbers[duplicate.of], duplicate.similarity)
    return found


def search(
    signatures: Signatures,
    sets: Sets,
    threshold: float,
    classes: Hashes | None = None,
    confirm: Callable[[int, int], bool] = lambda _row, _of: True,
    buckets: dict[int, list[int]] | None = None,
    repeats: Callable[[int], bool] | None = None,
) -> dict[int, Duplicate]:
    """For each text the nearest earlier one that is kept, if it is near enough and `confirm(row, of)` agrees.

    `signatures` has one row a text; only texts of the same class are compared. A text without shingles (a signature of
    nothing) is like no other. `buckets` are those of `propose`, where they are at hand. `repeats` is asked of every
    text that is near none, in order: a text that repeats a kept one in another way is not kept, so none is near it.
    """
    permutations = signatures.shape[1]
    if buckets is None:
        buckets = propose(signatures, threshold, classes)
    kept: dict[int, list[int]] = defaultdict(list)
    found: dict[int, Duplicate] = {}
    # The estimate from the signatures spares most exact comparisons; 0.15 is over three standard errors at 128.
    surely_below = threshold - 0.15 * (128 / permutations) ** 0.5

    def likely_of(number: int) -> list[int]:
        candidates = np.array(sorted({other for bucket in buckets[number] for other in kept[bucket]}), dtype=np.int64)
        if not candidates.size:
            return []
        likeness = (signatures[candidates] == signatures[number]).mean(axis=1)
        likely: list[int] = candidates[likeness >= surely_below].tolist()
        return likely

    numbers = sorted(buckets) if repeats is None else list(range(len(signatures)))
    for place, number in enumerate(numbers):
        if place % AHEAD == 0:
            proposed = {one: likely_of(one) for one in numbers[place : place + AHEAD] if one in buckets}
            sets.ready(sorted({text for one, others in proposed.items() if others for text in (one, *others)}))
        own = buckets.get(number, [])
        if likely := likely_of(number) if own else []:
            this = sets.of(number)
            # Nearest first; of equals the preferred one.
            ranked = sorted((-jaccard(sets.of(other), this), other) for other in likely)
            near = ((-negative, of) for negative, of in ranked if -negative >= threshold)
            if best := next(((share, of) for share, of in near if confirm(number, of)), None):
                found[number] = Duplicate(best[1], best[0])
                continue
        if repeats is not None and repeats(number):
            continue
        for bucket in own:
            kept[bucket].append(number)
    return found


def propose(signatures: Signatures, threshold: float, classes: Hashes | None = None) -> dict[int, list[int]]:
    """The texts that may be near another one of their class, and the buckets that each shares with others."""
    return _bucket(signatures, *_bands(threshold, signatures.shape[1]), classes)


def sign(grams: Shingles, permutations: int, seed: int) -> Signatures:
    """The MinHash signature of each text's shingles, repeated or not."""
    rensa = _load_rensa()
    blocks = [np.zeros((0, permutations), dtype=np.uint32)]
    for first in range(0, len(grams), SIGNED_AT_ONCE):
        last = min(first + SIGNED_AT_ONCE, len(grams))
        begin, end = int(grams.offsets[first]), int(grams.offsets[last])
        offsets = (grams.offsets[first : last + 1] - begin).astype(np.uint64)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
            grams.hashes[begin:end], offsets, permutations, seed
        )
        blocks.append(np.array(matrix.to_rows(), dtype=np.uint32).reshape(last - first, permutations))
    return np.concatenate(blocks)


def _bucket(signatures: Signatures, bands: int, rows: int, classes: Hashes | None) -> dict[int, list[int]]:
    """For each text, the buckets that it shares with another one; bucket numbers are distinct over the bands."""
    own = np.zeros(len(signatures), dtype=np.uint64) if classes is None else classes
    shared: list[NDArray[np.int64]] = []
    names: list[NDArray[np.int64]] = []
    base = 0
    for band in range(bands):
        keys = own.copy()
        # At once: signatures may lie on the disk, a text's in one place.
        for column in np.array(signatures[:, band * rows : (band + 1) * rows]).T:
            keys = mix(keys ^ column)
        values, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        numbers = np.flatnonzero(counts[inverse] > 1)
        shared.append(numbers)
        names.append(base + inverse[numbers])
        base += len(values)
    buckets: dict[int, list[int]] = defaultdict(list)
    for number, name in zip(np.concatenate(shared).tolist(), np.concatenate(names).tolist(), strict=True):
        buckets[number].append(name)
    return buckets


def _bands(threshold: float, permutations: int) -> tuple[int, int]:
    """The most selective (bands, rows per band) that still propose a pair at the threshold with RECALL."""
    chosen = (permutations, 1)
    for rows in range(1, permutations + 1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            chosen = (bands, rows)
    return chosen


def _load_rensa() -> Any:
    try:
        import rensa
    except ImportError:
        from medsmith.errors import UserError

        raise UserError("near-duplicate search needs rensa; pip install 'medsmith[generate]'") from None
    return rensa

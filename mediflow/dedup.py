"""Which texts repeat an earlier one, exactly or nearly, and of which.

Both functions take texts in order of preference: the earlier one stays. Near duplicates are proposed by MinHash and
locality-sensitive hashing (rensa) and counted only after their true Jaccard similarity has been computed, so a
reported similarity is exact and there are no false positives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mediflow.shingles import Shingles, jaccard, shingle, text_key

RECALL = 0.99
"""The least chance that a pair exactly at the threshold is proposed; pairs above it are proposed more surely."""
SIGNED_AT_ONCE = 20_000


class Duplicate(NamedTuple):
    """The number of the text that is repeated, and the Jaccard similarity of the two."""

    of: int
    similarity: float


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
        for place, duplicate in _search(sets, threshold, permutations, seed).items():
            found[numbers[place]] = Duplicate(numbers[duplicate.of], duplicate.similarity)
    return found


def _search(sets: Shingles, threshold: float, permutations: int, seed: int) -> dict[int, Duplicate]:
    signatures = _sign(sets, permutations, seed)
    buckets = _bucket(signatures, *_bands(threshold, permutations))
    kept: dict[int, list[int]] = defaultdict(list)
    found: dict[int, Duplicate] = {}
    # The estimate from the signatures spares most exact comparisons; 0.15 is over three standard errors at 128.
    surely_below = threshold - 0.15 * (128 / permutations) ** 0.5
    for number in range(len(sets)):
        own = buckets.get(number, ())
        candidates = np.unique(np.array([other for bucket in own for other in kept[bucket]], dtype=np.int64))
        if candidates.size:
            likeness = (signatures[candidates] == signatures[number]).mean(axis=1)
            near = [(jaccard(sets.of(number), sets.of(int(c))), -int(c)) for c in candidates[likeness >= surely_below]]
            similarity, of = max(near, default=(0.0, 0))
            if similarity >= threshold:
                found[number] = Duplicate(-of, similarity)
                continue
        for bucket in own:
            kept[bucket].append(number)
    return found


def _sign(sets: Shingles, permutations: int, seed: int) -> NDArray[np.uint32]:
    rensa = _load_rensa()
    blocks = []
    for first in range(0, len(sets), SIGNED_AT_ONCE):
        last = min(first + SIGNED_AT_ONCE, len(sets))
        begin, end = int(sets.offsets[first]), int(sets.offsets[last])
        offsets = (sets.offsets[first : last + 1] - begin).astype(np.uint64)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
            sets.hashes[begin:end], offsets, permutations, seed
        )
        blocks.append(np.array(matrix.to_rows(), dtype=np.uint32).reshape(last - first, permutations))
    return np.concatenate(blocks)


def _bucket(signatures: NDArray[np.uint32], bands: int, rows: int) -> dict[int, list[int]]:
    """For each text, the buckets that it shares with another one; bucket numbers are distinct over the bands."""
    buckets: dict[int, list[int]] = defaultdict(list)
    base = 0
    for band in range(bands):
        block = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
        keys = block.view(np.dtype((np.void, block.dtype.itemsize * rows))).ravel()
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        for number in np.flatnonzero(counts[inverse] > 1):
            buckets[int(number)].append(base + int(inverse[number]))
        base += len(counts)
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

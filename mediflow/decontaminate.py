"""Which training texts hold a benchmark's text: a shared 13-word sequence, or most of a (shorter or edited) text.

Both counts are exact: no sampling, no hashing of sets. Language that many training rows share (a template, a standard
phrase) is no sign of a copied test item; it is recognised by how many rows hold it, ignored and counted, as GPT-3's
authors did (Brown et al. 2020, appendix C: sequences in more than 10 documents).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mediflow.blocklists import Blocked
from mediflow.shingles import Shingles, count_shared, shingle
from medsmith.config import Block


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


def find_contaminated(texts: Sequence[str], blocked: Sequence[Blocked], settings: Decontamination) -> Contamination:
    """Compare every text with every blocked text; the hit with the largest similarity is named."""
    if not texts or not blocked:
        return Contamination({}, {})
    rows = shingle(texts, settings.shingle_words)
    banned = shingle([one.text for one in blocked], settings.shingle_words)
    contained, templates = _find_contained(rows, banned, settings)
    hits = {}
    for number, of in _find_sequences(texts, blocked, settings).items():
        shares = [(_share(banned, one, rows, number), -one) for one in of]
        similarity, one = max(shares)
        hits[number] = Hit(-one, "ngram", similarity)
    for number, pairs in contained.items():
        similarity, one = max(pairs)
        if number not in hits or similarity > hits[number].similarity:
            hits[number] = Hit(-one, "containment", similarity)
    return Contamination(dict(sorted(hits.items())), dict(Counter(blocked[one].benchmark for one in templates)))


def _share(banned: Shingles, one: int, rows: Shingles, number: int) -> float:
    own = banned.of(one)
    return count_shared(own, rows.of(number)) / len(own) if len(own) else 0.0


def _find_sequences(
    texts: Sequence[str], blocked: Sequence[Blocked], settings: Decontamination
) -> dict[int, list[int]]:
    """For each text, the blocked texts that share a long word sequence which is no template language."""
    rows = shingle(texts, settings.ngram_words, whole_if_shorter=False)
    banned = shingle([one.text for one in blocked], settings.ngram_words, whole_if_shorter=False)
    values, owners, starts = _invert(banned.hashes, banned.owners())
    at, numbers = _match(rows, values)
    holders = np.bincount(at, minlength=len(values))
    rare = holders[at] <= settings.common_rows
    found: dict[int, set[int]] = defaultdict(set)
    for number, value in zip(numbers[rare].tolist(), at[rare].tolist(), strict=True):
        found[number].update(owners[starts[value] : starts[value + 1]].tolist())
    return {number: sorted(of) for number, of in found.items()}


def _find_contained(
    rows: Shingles, banned: Shingles, settings: Decontamination
) -> tuple[dict[int, list[tuple[float, int]]], list[int]]:
    """Texts that hold at least `containment` of a blocked text, and the blocked texts that too many of them hold.

    Prefix filter: a row that holds a share c of m shingles misses at most (1-c)m of them, so it holds one of the
    (1-c)m+1 rarest. Only those are indexed; nothing is lost.
    """
    values, counts = np.unique(np.concatenate([rows.hashes, banned.hashes]), return_counts=True)
    prefixes, owners = [], []
    for one in range(len(banned)):
        own = banned.of(one)
        allowed = int((1 - settings.containment) * len(own) + 1e-9) + 1
        order = np.argsort(counts[np.searchsorted(values, own)], kind="stable")
        prefixes.append(own[order[:allowed]])
        owners += [one] * len(prefixes[-1])
    index, owner, starts = _invert(np.concatenate(prefixes), np.array(owners, dtype=np.int64))
    at, numbers = _match(rows, index)
    candidates: dict[int, set[int]] = defaultdict(set)
    for number, value in zip(numbers.tolist(), at.tolist(), strict=True):
        candidates[number].update(owner[starts[value] : starts[value + 1]].tolist())
    pairs = [
        (number, one, share)
        for number, ones in candidates.items()
        for one in ones
        if (share := _share(banned, one, rows, number)) >= settings.containment - 1e-9
    ]
    holders = Counter(one for _, one, _ in pairs)
    found: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for number, one, share in pairs:
        if holders[one] <= settings.common_rows:
            found[number].append((share, -one))
    return found, [one for one, count in holders.items() if count > settings.common_rows]


def _invert(
    hashes: NDArray[np.uint64], owners: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct hashes in order, and the owners of each in one array with its starts."""
    order = np.argsort(hashes, kind="stable")
    values, starts = np.unique(hashes[order], return_index=True)
    return values, owners[order], np.append(starts, len(hashes)).astype(np.int64)


def _match(rows: Shingles, values: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the rows' hashes stand in `values`, and the rows that they belong to; others are left out."""
    if not len(values):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    at = np.minimum(np.searchsorted(values, rows.hashes), len(values) - 1)
    same = values[at] == rows.hashes
    return at[same].astype(np.int64), rows.owners()[same]

"""Language that independent benchmarks share is a template, and no sign of a copied item: which words are such.

Counted are sources, never rows: benchmarks, or the documents of one where they are known. A text of which much occurs
in another benchmark is one item that was published again, and makes no template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsmith.shingles import Places, Shingles, Words, distinct, ngrams, tokenize

TEMPLATE_PART = 0.25
"""A text of which more than this occurs in other benchmarks is one item published again."""


def find_template(
    words: Words,
    benchmarks: Sequence[str],
    documents: Sequence[str],
    size: int,
    common_benchmarks: int,
    common_documents: int,
    named: Sequence[str],
) -> NDArray[np.bool_]:
    """For each word of the texts, whether it stands in a template.

    That is a sequence of `size` words (or a whole shorter text) that so many benchmarks or more share, or more than so
    many documents of one benchmark (an empty name: not known), or a text of `named`.
    """
    grams = ngrams(words, size)
    owners = grams.owners()
    values, at = np.unique(grams.hashes, return_inverse=True)

    def held_by(groups: Places, some: NDArray[np.bool_]) -> Places:
        """For each sequence, in how many groups it occurs, of the entries that count."""
        width = np.int64(groups.max(initial=0) + 1)
        pairs = np.unique(at[some] * width + groups[some])
        return np.bincount(pairs // width, minlength=len(values))[at]

    sets = _numbered(benchmarks)
    elsewhere = held_by(sets[owners], np.ones(len(at), dtype=bool)) > 1
    part = np.bincount(owners[elsewhere], minlength=len(words)) / np.maximum(1, np.diff(grams.offsets))
    template = held_by(sets[owners], (part <= TEMPLATE_PART)[owners]) >= common_benchmarks
    known = np.array([bool(one) for one in documents], dtype=bool)
    places = _numbered(list(zip(benchmarks, documents, strict=True)))
    for number in np.unique(sets[known]).tolist():
        own = (known & (sets == number))[owners]
        template |= own & (held_by(places[owners], own) > common_documents)
    marks = np.zeros(len(words.hashes) + 1, dtype=np.int64)
    _mark(marks, grams, words, size, template)
    texts = tokenize(named)
    for length in np.unique(texts.counts[texts.counts > 0]).tolist():
        grams = ngrams(words, length, whole_if_shorter=False)
        _mark(marks, grams, words, length, np.isin(grams.hashes, ngrams(texts, length, whole_if_shorter=False).hashes))
    inside: NDArray[np.bool_] = np.cumsum(marks[:-1]) > 0
    return inside


def _numbered(names: Sequence[Any]) -> Places:
    known: dict[Any, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)


def _spans(grams: Shingles, words: Words, size: int) -> tuple[Places, Places]:
    """The first word of each n-gram, and the word after its last."""
    owners = grams.owners()
    starts = np.arange(len(owners)) - grams.offsets[owners] + words.offsets[owners]
    return starts, starts + np.minimum(size, words.counts[owners])


def _mark(marks: Places, grams: Shingles, words: Words, size: int, which: NDArray[np.bool_]) -> None:
    """Add 1 where an n-gram begins and -1 behind its end, so that the running sum is above 0 within."""
    starts, ends = _spans(grams, words, size)
    np.add.at(marks, starts[which], 1)
    np.add.at(marks, ends[which], -1)


def own_language(grams: Shingles, words: Words, size: int, template: NDArray[np.bool_]) -> Shingles:
    """Each text's set of n-grams, without those that are template through and through."""
    starts, ends = _spans(grams, words, size)
    held = np.concatenate([[0], np.cumsum(template)])
    own = held[ends] - held[starts] < ends - starts
    offsets = np.zeros(len(grams) + 1, dtype=np.int64)
    np.cumsum(np.bincount(grams.owners()[own], minlength=len(grams)), out=offsets[1:])
    return distinct(Shingles(grams.hashes[own], offsets))

"""The quick way to words and sets agrees with the plain one, text by text."""

from __future__ import annotations

import random

import numpy as np
import pytest

from medsmith.shingles import (
    LEADING_MARK,
    TRAILING_MARK,
    Lookup,
    distinct,
    jaccard,
    ngrams,
    order_keys,
    shingle,
    split_words,
    tokenize,
)

MARKS = str.maketrans({LEADING_MARK: " ", TRAILING_MARK: " "})
ALPHABET = "aB9 -+.<>_é½²Ⅷßﬁ  µ→5\u0301漢\n,٣" + LEADING_MARK + TRAILING_MARK


def words_of(texts: list[str]) -> list[list[str]]:
    words = tokenize(texts)
    every = [word.replace(LEADING_MARK, "").replace(TRAILING_MARK, "") for word in words.text.to_list()]
    return [every[first:last] for first, last in zip(words.offsets, words.offsets[1:], strict=False)]


def test_a_batch_has_the_words_of_each_text() -> None:
    """3,000 texts of signs, digits, ligatures, accents and other scripts, empty ones among them."""
    rng = random.Random(0)
    texts = ["".join(rng.choices(ALPHABET, k=rng.randint(0, 25))) for _ in range(3000)]
    assert words_of(texts) == [split_words(text.translate(MARKS)) for text in texts]
    assert words_of([]) == [] and words_of(["", "?"]) == [[], []]


def test_signs_and_decimals_are_words_own() -> None:
    """What carries clinical meaning has a hash of its own."""
    texts = ["HER2+", "HER2-", "HER2", "1.5", "15", "-1", "1", "a-1", "<", ">"]
    words = tokenize(texts)
    assert words.counts.tolist() == [1, 1, 1, 1, 1, 1, 1, 2, 1, 1]
    assert len(np.unique(words.hashes[:7])) == 7


def test_a_lone_surrogate_is_no_word() -> None:
    """JSON can spell what no UTF-8 file can hold."""
    assert words_of(["no \ud800 pain"]) == [["no", "pain"]]


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("whole", [True, False])
def test_ngrams_are_those_of_plain_tuples(size: int, whole: bool) -> None:
    """As many, as many distinct, and equal where the tuples are, over texts shorter and longer than a sequence."""
    rng = random.Random(size)
    texts = [" ".join(rng.choices("abcd", k=rng.randint(0, 9))) for _ in range(400)]
    grams = ngrams(tokenize(texts), size, whole)
    seen: dict[int, tuple[str, ...]] = {}
    for number, text in enumerate(texts):
        words = text.split()
        plain = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
        if whole and 0 < len(words) < size:
            plain = [tuple(words)]
        own = grams.of(number).tolist()
        assert len(own) == len(plain)
        assert all(seen.setdefault(value, gram) == gram for value, gram in zip(own, plain, strict=True))
    assert len(set(seen.values())) == len(seen) > 3


def test_sets_give_the_true_jaccard() -> None:
    """Repetitions do not count."""
    sets = shingle(["a b c a b c", "a b c d"], 2)
    assert jaccard(sets.of(0), sets.of(1)) == pytest.approx(2 / 4)
    assert len(distinct(ngrams(tokenize(["a a a a"]), 2))) == 1


def test_order_keys_are_equal_for_equal_words_in_order_only() -> None:
    """Case, space and punctuation are nothing; order, number and every word are something."""
    texts = ["Fever, no cough.", "fever  no COUGH", "no fever cough", "fever no cough cough", "fever no coughs", ""]
    first, second = order_keys(tokenize(texts))
    assert first[0] == first[1] and second[0] == second[1]
    assert len(np.unique(first)) == len(np.unique(second)) == 5


def test_lookup_finds_all_and_nothing_else() -> None:
    """Against plain membership, with values that share their low bits."""
    rng = np.random.default_rng(0)
    values = np.unique(rng.integers(0, 2**63, 500, dtype=np.uint64))
    asked = np.concatenate(
        [values[::3], values[::7] ^ np.uint64(1 << 60), rng.integers(0, 2**63, 500, dtype=np.uint64)]
    )
    places, at = Lookup(values).find(asked)
    assert places.tolist() == np.flatnonzero(np.isin(asked, values)).tolist() and len(places) >= 160
    assert np.array_equal(values[at], asked[places])
    assert Lookup(values[:0]).find(asked)[0].size == 0

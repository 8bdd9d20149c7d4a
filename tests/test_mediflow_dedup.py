"""Duplicates are found with their partner, and distinct texts are let alone."""

from __future__ import annotations

import random

import pytest

from medsmith.dedup import find_exact_duplicates, find_near_duplicates, search, sign
from medsmith.shingles import jaccard, shingle, split_words

WORDS = [f"word{number}" for number in range(3000)]


def texts_of(count: int, seed: int = 0, length: int = 60) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=length)) for _ in range(count)]


def edited(text: str, changes: int, seed: int) -> str:
    rng = random.Random(seed)
    words = text.split()
    for place in rng.sample(range(len(words)), changes):
        words[place] = rng.choice(WORDS)
    return " ".join(words)


def true_jaccard(left: str, right: str, size: int = 3) -> float:
    """By plain Python sets, to check the hashed ones against."""
    one, other = (
        {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} for words in (left.split(), right.split())
    )
    return len(one & other) / len(one | other)


def test_exact_duplicates_ignore_case_space_and_punctuation_and_name_the_first() -> None:
    """The second of two texts with equal words is the duplicate, and names the first."""
    texts = [("Fever, no cough.",), ("Pain.",), ("fever  no COUGH",), ("fever no cough!",)]
    assert find_exact_duplicates(texts) == {2: (0, 1.0), 3: (0, 1.0)}


@pytest.mark.parametrize(
    ("left", "right"),
    [("HER2+", "HER2-"), ("1.5 mg", "15 mg"), ("answer -1", "answer 1"), ("pH < 7", "pH > 7"), ("???", "!!!")],
)
def test_signs_and_decimals_make_texts_different(left: str, right: str) -> None:
    """What carries clinical meaning is no punctuation."""
    assert find_exact_duplicates([(left,), (right,)]) == {}


def test_parts_are_compared_one_by_one() -> None:
    """A word that moved from the input to the output makes another row."""
    assert find_exact_duplicates([("a b", "c"), ("a", "b c")]) == {}


def test_split_words_keeps_what_is_told_apart() -> None:
    """Case and punctuation go, codes and signs stay."""
    assert split_words("E11.9: BP 120/80, (-2.5) HER2+ follow-up.") == [
        "e11.9", "bp", "120", "80", "-2.5", "her2+", "follow", "up",
    ]  # fmt: skip


def test_planted_near_duplicates_are_found_with_partner_and_true_similarity() -> None:
    """Of 300 texts, exactly the 30 edited copies go, each to its original, with the Jaccard of plain sets."""
    originals = texts_of(270)
    copies = [edited(originals[number * 9], 1, seed=number) for number in range(30)]
    found = find_near_duplicates(originals + copies, 0.8)
    assert sorted(found) == list(range(270, 300))
    for number in range(30):
        of, similarity = found[270 + number]
        assert of == number * 9
        assert similarity == pytest.approx(true_jaccard(originals[number * 9], copies[number]))


def test_distinct_texts_and_pairs_below_the_threshold_are_kept() -> None:
    """Negative control: nothing is dropped where nothing is alike, nor where the true Jaccard is below."""
    originals = texts_of(200, seed=1)
    copies = [edited(text, 6, seed=2) for text in originals[:50]]
    assert all(true_jaccard(left, right) < 0.8 for left, right in zip(originals, copies, strict=False))
    assert find_near_duplicates(originals + copies, 0.8) == {}


def test_the_threshold_decides_at_the_exact_similarity() -> None:
    """A pair is dropped at its own similarity and kept just above it."""
    (text,) = texts_of(1, seed=3)
    pair = [text, edited(text, 2, seed=4)]
    similarity = true_jaccard(pair[0], pair[1])
    assert list(find_near_duplicates(pair, similarity)) == [1]
    assert find_near_duplicates(pair, similarity + 1e-6) == {}


def test_only_kept_texts_are_partners() -> None:
    """A chain a ~ b ~ c with a and c unlike: b goes to a, and c, whose only likeness has gone, stays."""
    (a,) = texts_of(1, seed=5, length=100)
    words = a.split()
    b = " ".join([*words[:-8], *WORDS[:8]])
    c = " ".join([*WORDS[8:16], *b.split()[8:]])
    assert true_jaccard(a, b) > 0.8 and true_jaccard(b, c) > 0.8 and true_jaccard(a, c) < 0.8
    assert {number: one.of for number, one in find_near_duplicates([a, b, c], 0.8).items()} == {1: 0}


def test_a_partner_that_is_not_confirmed_leaves_the_next_nearest() -> None:
    """`confirm` is asked nearest first; a text without a confirmed partner stays, and is a partner itself."""
    base = texts_of(1)[0]
    texts = [edited(base, 3, 1), base, base + " end"]
    sets = shingle(texts, 3)
    signatures = sign(sets, 128, 0)
    asked: list[tuple[int, int]] = []
    assert {row: one.of for row, one in search(signatures, sets, 0.6).items()} == {1: 0, 2: 0}
    assert search(signatures, sets, 0.6, confirm=lambda row, of: False) == {}
    found = search(signatures, sets, 0.6, confirm=lambda row, of: of == 1)
    assert {row: one.of for row, one in found.items()} == {2: 1}
    search(signatures, sets, 0.6, confirm=lambda row, of: asked.append((row, of)) or False)  # type: ignore[func-returns-value]
    assert asked == [(1, 0), (2, 1), (2, 0)]


def test_groups_are_not_compared() -> None:
    """The same text in two groups is no duplicate; within one it is."""
    (text,) = texts_of(1)
    assert find_near_duplicates([text, text], 0.8, groups=["x", "y"]) == {}
    assert find_near_duplicates([text, text, text], 0.8, groups=["x", "y", "x"]) == {2: (0, 1.0)}


def test_texts_without_words_are_like_nothing() -> None:
    """Empty texts are no duplicates of one another here; the exact search sees them."""
    assert find_near_duplicates(["", "", "..."], 0.8) == {}
    assert find_near_duplicates(["no pain", "No pain."], 0.8) == {1: (0, 1.0)}


def test_shingles_agree_with_plain_sets() -> None:
    """The hashed sets have the sizes and the Jaccard of sets of word tuples."""
    (text,) = texts_of(1, seed=6)
    other = edited(text, 5, seed=7)
    sets = shingle([text, other], 3)
    assert len(sets.of(0)) == len(text.split()) - 2
    assert jaccard(sets.of(0), sets.of(1)) == pytest.approx(true_jaccard(text, other))
    assert jaccard(*(shingle(["a b c", "c b a"], 3).of(number) for number in (0, 1))) == 0.0

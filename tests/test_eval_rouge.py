"""ROUGE beside the package that defines it."""

from __future__ import annotations

import random

import pytest

from medsmith.rouge import longest_common, rouge_l, rouge_n, words_of


def test_every_value_is_the_very_float_of_the_reference() -> None:
    """400 pairs of random texts of 0 to 150 words from small and large vocabularies, with accents and signs between."""
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    draw = random.Random(0)
    pool = ["é", "fever", "İzmir", "2.5", "mg/dL", "-", "COVID-19", "ﬁne", "β2", *(f"w{n}" for n in range(60))]
    shared = 0
    for number in range(400):
        vocabulary = pool[: draw.choice((4, 12, len(pool)))]
        gold, answer = (" ".join(draw.choices(vocabulary, k=draw.randint(0, 15 if number % 4 else 150))) for _ in "ab")
        expected = scorer.score(gold, answer)
        true, said = words_of(gold), words_of(answer)
        found = {"rouge1": rouge_n(true, said, 1), "rouge2": rouge_n(true, said, 2), "rougeL": rouge_l(true, said)}
        assert found == {name: expected[name].fmeasure for name in found}, (gold, answer)
        shared += found["rougeL"] > 0
    assert shared > 200, "most pairs have something to find"


def test_a_common_subsequence_by_hand() -> None:
    """a c e of abcde and axcxe; order counts, contiguity does not; nothing is common with nothing."""
    assert longest_common(list("abcde"), list("axcxe")) == 3
    assert longest_common(list("abc"), list("cba")) == 1
    assert longest_common([], list("abc")) == longest_common(list("abc"), []) == 0

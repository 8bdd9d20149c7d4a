"""Scores known by hand, and the definitions that a published scorer mixes up."""

from __future__ import annotations

import random

import numpy as np
import pytest
import sacrebleu

from eval.metrics import METRICS, bleu, f1_macro, f1_micro
from eval.parsing import split_list
from eval.scorers import (
    Overlap,
    Span,
    bleu_counts,
    counts_by_label,
    counts_f1,
    counts_multiset,
    entities_iob2,
    exact,
    list_f1,
    rouge,
    set_f1,
    squad_exact,
    squad_f1,
    type_overlap,
    type_overlap_f1,
)


def test_lists_are_sets_of_parts() -> None:
    """Bullets, numbers, case and repeats do not count; a precision cannot be raised by repeating a right part."""
    assert split_list("- Sepsis;\n* AKI\n2) sepsis. ; ") == ["sepsis", "aki"]
    assert list_f1("sepsis; sepsis; sepsis; gout", "Sepsis; AKI") == pytest.approx(2 * 1 / 4)
    assert list_f1("sepsis", "gout") == 0.0


def test_rouge_by_hand() -> None:
    """Of 'no acute fracture' against 'no fracture': 2 of 3 and 2 of 2 words: F1 0.8; no stemmer: plurals differ."""
    scores = rouge("no acute fracture", "no fracture")
    assert scores["rouge1"] == pytest.approx(0.8)
    assert scores["rouge2"] == 0.0
    assert scores["rougeL"] == pytest.approx(0.8)
    assert rouge("fractures", "fracture")["rouge1"] == 0.0
    assert rouge("Gout.", "gout") == {"rouge1": 1.0, "rougeL": 1.0}


def test_rouge_l_is_not_that_of_lines() -> None:
    """The longest common row of words of the whole text: turned lines share one line (F1 0.5), not both (Lsum: 1)."""
    assert rouge("left lung\nright hip", "right hip\nleft lung")["rougeL"] == pytest.approx(0.5)


def test_exact_forgives_case_and_a_full_stop() -> None:
    """Nothing else."""
    assert exact(" Left lung.\n", "left lung") == 1.0
    assert exact("the left lung", "left lung") == 0.0


def test_a_repeated_code_counts_once() -> None:
    """Of I10 three times and a wrong code a published precision is 0.75, its F1 6/7: here they are 1 of 2, and 2/3."""
    assert set_f1(["I10", "I10", "I10", "E11"], ["I10"]) == pytest.approx(2 * 1 / (2 + 1))
    assert counts_f1(["I10", "I10", "I10", "E11"], ["I10"]) == [1, 2, 1]
    assert set_f1([], []) == 1.0
    assert set_f1(["I10"], []) == set_f1([], ["I10"]) == 0.0


def test_pooled_counts_are_no_mean_of_items() -> None:
    """Items of F1 1 and 0, with one and nine true labels: the mean is 0.5, the pooled F1 is 2/11."""
    items = [(["a"], ["a"]), ([], list("bcdefghij"))]
    assert np.mean([set_f1(*item) for item in items]) == 0.5
    assert f1_micro(np.sum([counts_f1(*item) for item in items], 0)) == pytest.approx(2 / 11)


def test_macro_f1_is_the_mean_of_f1s() -> None:
    """0.833, where the F1 of mean precision and mean recall, which a published script calls macro F1, is 0.857.

    Label a: 1 of 2 said are right, 1 of 1 true found, F1 2/3. Label b: 1 of 1 and 1 of 1, F1 1.
    """
    items = [({"a", "b"}, {"a", "b"}), ({"a"}, set())]
    counts = np.sum([counts_by_label(said, true, ("a", "b")) for said, true in items], 0)
    parts = counts.reshape(-1, 3)
    precision, recall = (parts[:, 0] / parts[:, 1]).mean(), (parts[:, 0] / parts[:, 2]).mean()
    assert counts.tolist() == [1, 2, 1, 1, 1, 1]
    assert f1_macro(counts) == pytest.approx(0.833, abs=1e-3)
    assert 2 * precision * recall / (precision + recall) == pytest.approx(0.857, abs=1e-3)


def test_a_label_that_is_never_true_has_no_f1() -> None:
    """Of three labels one is found, one missed, one absent: 0.5 over those present, not 0.333 over all."""
    assert f1_macro(np.array([1, 1, 1, 0, 0, 1, 0, 0, 0])) == 0.5


def test_mentions_are_counted_as_often_as_they_are() -> None:
    """Two true mentions of one entity are two; a third that is said is wrong."""
    assert counts_multiset(["gout"] * 3, ["gout"] * 2) == [2, 3, 2]


@pytest.mark.parametrize(
    ("answer", "golds", "em", "f1"),
    [
        ("", [], 1.0, 1.0),  # unanswerable, and said so
        ("", [""], 1.0, 1.0),
        ("a mass", [], 0.0, 0.0),
        ("", ["a mass"], 0.0, 0.0),
        ("N/A", [], 0.0, 0.0),  # the caller maps it to nothing; as a text it is an answer
        ("the", [], 0.0, 0.0),  # the published script takes an article for "no answer"
        (".", [], 0.0, 0.0),
        ("The mass.", ["mass"], 1.0, 1.0),
        ("a large mass", ["mass"], 0.0, 2 / 3),
        ("large mass", ["mass", "the large mass"], 1.0, 1.0),  # the best of several golds
        ("mass mass", ["mass"], 0.0, 2 / 3),
        ("gout", ["mass"], 0.0, 0.0),
        ("the", ["the"], 0.0, 0.0),  # a gold of articles alone has no word: only the empty answer agrees with it
    ],
)
def test_squad(answer: str, golds: list[str], em: float, f1: float) -> None:
    """Exact match and F1 after SQuAD's normalisation; "there is no answer" is the empty answer and nothing else."""
    assert squad_exact(answer, golds) == em
    assert squad_f1(answer, golds) == pytest.approx(f1)


SPANS = [Span("Drug", 0, 10), Span("Drug", 20, 30), Span("Alcohol", 40, 50)]


@pytest.mark.parametrize(
    ("said", "found", "f1"),
    [
        (SPANS, (3, 0, 0, 0), 1.0),
        (
            [Span("Drug", 9, 12), Span("Drug", 0, 40), Span("Alcohol", 49, 60)],
            (3, 0, 0, 0),
            1.0,
        ),  # borders do not count
        ([Span("Drug", 10, 20)], (0, 0, 3, 1), 0.0),  # to touch is not to overlap
        ([Span("Tobacco", 40, 50)], (0, 1, 2, 0), 0.0),
        ([Span("Drug", 0, 10)] * 2, (1, 0, 2, 1), 0.4),  # one true span is found once
        ([Span("Drug", 0, 30)], (1, 0, 2, 0), 0.5),  # and one that is said finds one
        ([Span("Drug", 5, 25), Span("Drug", 0, 10)], (2, 0, 1, 0), 0.8),  # paired for the most, not by turn
        ([Span("Drug", 0, 0)], (0, 0, 3, 1), 0.0),
        ([], (0, 0, 3, 0), 0.0),
    ],
)
def test_overlap_by_type(said: list[Span], found: tuple[int, ...], f1: float) -> None:
    """(correct, incorrect, missed, spurious) by hand."""
    assert type_overlap(said, SPANS) == Overlap(*found)
    assert type_overlap_f1(said, SPANS) == pytest.approx(f1)


def test_two_empty_lists_of_spans_agree() -> None:
    """And one that is not empty does not agree with an empty one."""
    assert type_overlap_f1([], []) == 1.0
    assert type_overlap_f1(SPANS, []) == 0.0


def test_entities_begin_with_b() -> None:
    """The toy on which the lenient reading (an entity may begin with I-) gives F1 1.00 and the strict one 0.667."""
    true = entities_iob2(["B-Drug", "I-Drug", "O", "B-Drug"])
    said = entities_iob2(["B-Drug", "I-Drug", "O", "I-Drug"])
    assert true == [Span("Drug", 0, 2), Span("Drug", 3, 4)]
    assert said == [Span("Drug", 0, 2)]
    assert set_f1(said, true) == pytest.approx(0.667, abs=1e-3)


def test_an_entity_ends_where_the_type_changes() -> None:
    """I- of another type continues nothing and begins nothing; B- begins anew; a type may hold a hyphen."""
    assert entities_iob2(["B-A", "I-B", "I-A", "B-C-D", "I-C-D", "B-C-D", "O", "I-A"]) == [
        Span("A", 0, 1), Span("C-D", 3, 5), Span("C-D", 5, 6)
    ]  # fmt: skip


def test_bleu_is_that_of_sacrebleu() -> None:
    """From summed counts the very corpus score, with its smoothing and its signature, on 200 random corpora."""
    words, rng = ("the", "a", "patient", "has", "no", "acute", "fracture", "left", ".", ",", "mg"), random.Random(0)
    for _ in range(200):
        said, true = (
            [" ".join(rng.choices(words, k=rng.randint(low, 9))) for _ in range(3)] for low in (0, 1)
        )  # fmt: skip
        if rng.random() < 0.5:
            said[0] = true[0]
        counts = np.sum([bleu_counts(one, other) for one, other in zip(said, true, strict=True)], 0)
        assert float(bleu(counts)) == pytest.approx(sacrebleu.corpus_bleu(said, [true]).score / 100, abs=1e-12)
    metric = sacrebleu.BLEU(smooth_method="exp", effective_order=False)
    metric.corpus_score(["a"], [["a"]])
    signature = str(metric.get_signature()).partition("|version")[0]
    assert signature == "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"
    assert signature in METRICS["bleu4"].definition


def test_bleu_counts_words_and_not_letters() -> None:
    """Texts that share letters and no word: BLEU of their letters is high, that of words is 0; a text equals itself."""
    said, true = "no acute fractures", "acutely fractured nose"
    letters = np.array(bleu_counts(" ".join(said.replace(" ", "_")), " ".join(true.replace(" ", "_"))))
    assert float(bleu(letters)) > 0.4
    assert float(bleu(np.array(bleu_counts(said, true)))) == 0.0
    text = "no acute fracture of the hip"
    assert float(bleu(np.array(bleu_counts(text, text)))) == pytest.approx(1.0)
    assert bleu(np.zeros((2, 10))).tolist() == [0.0, 0.0]

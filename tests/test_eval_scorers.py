"""Parsers that cannot be fooled, and scores known by hand."""

from __future__ import annotations

import pytest

from eval.parsing import parse_label, parse_leading_label, parse_sentence_number, split_list
from eval.scorers import exact, list_f1, rouge

NLI = ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("ENTAILMENT", "ENTAILMENT"),
        ("  neutral.\n", "NEUTRAL"),
        ("**CONTRADICTION**", "CONTRADICTION"),
        ("Answer: Entailment. So the relation is entailment.", "ENTAILMENT"),  # published scorer: 0
        ("The relation is ENTAILMENT because the patient has no fever.", "ENTAILMENT"),
        ("ENTAILMENT, NEUTRAL or CONTRADICTION", None),  # published scorer: 1 for every gold
        ("ENTAILMENT/NEUTRAL", None),
        ("This is not an entailment.", None),  # published scorer: 1 for entailment
        ("This isn't an entailment.", None),
        ("This isn’t a **contradiction**", None),
        ("Neither entailment nor contradiction", None),
        ("NEUTRAL, not ENTAILMENT", None),
        ("There is no contradiction.", None),
        ("ENTAILMENTS", None),
        ("NON-NEUTRAL", None),
        ("entail", None),
        ("", None),
        ("I cannot say.", None),
    ],
)
def test_label_is_named_once_and_not_denied(output: str, label: str | None) -> None:
    """Every string that fools a published scorer is unreadable or right here."""
    assert parse_label(output, NLI) == label


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        ("**Maybe**", "maybe"),
        ("Yes, there is no doubt.", "yes"),
        ("No: the groups did not differ", "no"),
        ("The answer is yes.", "yes"),
        ("Final answer: **no**", "no"),
        ("yes\n\nThe study found no harm.", "yes"),
        ("yes, no or maybe", None),
        ("Yes or no", None),
        ("yes/no", None),
        ("No difference was found between the groups.", None),
        ("There is no difference, so yes.", None),
        ("It is not known", None),
        ("yesterday", None),
        ("The answer is yes. The answer is no.", None),
        ("", None),
    ],
)
def test_everyday_words_count_only_in_front(output: str, label: str | None) -> None:
    """'no' inside a sentence is not an answer."""
    assert parse_leading_label(output, ("yes", "no", "maybe")) == label


SENTENCES = {
    0: "A 62-year-old man is seen.",
    4: "He takes aspirin.",
    7: "Patient is given metformin.",
    10: "He is well.",
}


@pytest.mark.parametrize(
    ("output", "number"),
    [
        ("4", 4),
        (" -1\n", -1),
        ("−1", -1),
        ("Sentence 4.", 4),
        ("Answer: 10", 10),
        ("The error is in sentence 7.", 7),
        ("**7**", 7),
        ("7 Patient is given metformin.", 7),  # a published scorer reads -1 here
        ("7. Patient is given insulin.", 7),
        ("CORRECT", -1),
        ("The text is correct.", -1),
        ("99", 99),  # readable, and wrong
        ("INCORRECT", None),
        ("5 or 7", None),
        ("-1 or 5", None),
        ("4, 7", None),
        ("10 mg of aspirin is too much.", None),
        ("The 62-year-old man has no error", None),
        ("Sentences 4 and 7 are wrong", None),
        ("It is not sentence 4.", None),
        ("none", None),
        ("", None),
    ],
)
def test_sentence_number(output: str, number: int | None) -> None:
    """A number that stands for a sentence, and no other number in the text."""
    assert parse_sentence_number(output, SENTENCES) == number


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


def test_exact_forgives_case_and_a_full_stop() -> None:
    """Nothing else."""
    assert exact(" Left lung.\n", "left lung") == 1.0
    assert exact("the left lung", "left lung") == 0.0

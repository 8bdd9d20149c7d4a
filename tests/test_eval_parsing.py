"""Parsers that cannot be fooled: every string on which a published one fails, and their like."""

from __future__ import annotations

import time
from typing import Any

import pytest

from eval.parsing import (
    parse_codes,
    parse_json,
    parse_json_as,
    parse_label,
    parse_leading_label,
    parse_letter,
    parse_sentence_number,
    split_list,
    valid_code,
)

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
        ("CONTRADıCTION", None),  # a sign that only ignoring case makes an I
        ("ENTAIL", None),  # cut off
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


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("EQUIVALENT", "EQUIVALENT"),
        ("NOT_EQUIVALENT", "NOT_EQUIVALENT"),  # a published judge finds EQUIVALENT in it
        ("NOT EQUIVALENT", None),
        ("The two are not equivalent.", None),
    ],
)
def test_a_label_inside_another_is_not_named(output: str, label: str | None) -> None:
    """NOT_EQUIVALENT is not EQUIVALENT: the verdict of a judge is the whole word."""
    assert parse_label(output, ("EQUIVALENT", "NOT_EQUIVALENT")) == label


@pytest.mark.parametrize("output", ["REL", "Relation", "RELATIONSHIPS", "PARENTAL", "HOUSE"])
def test_a_part_of_a_label_is_none(output: str) -> None:
    """A label that was cut off is unreadable; a published script reads REL as RELATIONSHIP."""
    assert parse_label(output, ("EMPLOYMENT", "HOUSING", "PARENT", "RELATIONSHIP", "SUPPORT")) is None


@pytest.mark.parametrize(
    "output",
    [
        "B", "b", "(B)", "[B]", "B.", "b)", "B:", "B!", "**B**", "`B`", "**B**: text", "**B**:", "(B): Gout",
        "B. Vitamin A.", "B: Hepatitis A, chronic", "Answer: B", "answer: b", "ANSWER: B\nIt is no gout.",
        "Answer:\n\nB", "Answer B", "The answer is B", "The answer is (B).", "The answer would be B",
        "The correct answer is B: text.", "The correct answer is: B", "the correct answer is B: text",
        "The correct answer is (B):", "The correct answer is **B**:", "The answer is B because A is a vitamin.",
        "The answer is B, not A", "Option B", "I choose option B.", "The right option is B.", "My choice: B",
        "Option A is about gout. The answer is B.", "The answer is B.\n\nA is wrong, as it is no gout.",
    ],
)  # fmt: skip
def test_a_letter_is_read_in_every_dress(output: str) -> None:
    """One letter in any dress is the answer; a published parser asks for one fixed sentence, in this case, no colon."""
    assert parse_letter(output, "ABCDE") == "B"


@pytest.mark.parametrize(
    "output",
    [
        "", "A patient with gout", "a patient", "A 62-year-old man", "The answer is a patient with gout.",
        "The answer is A patient", "Answer: A patient with gout", "I think so", "Answer: I do not know", "Gout",
        "A or B", "A, B", "A and B", "A/B", "A & B", "AB", "A\nB", "A) B)", "A) gout B) sepsis", "A: gout\nB: sepsis",
        "(A) gout (B) sepsis", "The answer is A or B", "The answer is either A or B", "Both A and B",
        "B. The answer is C", "not B", "The answer is not B", "The answer isn't B.", "Neither A nor B", "B is wrong",
        "Option B is wrong", "Option A is incorrect.", "None of these", "All of the above", "X", "F", "B12",
        "B-cell lymphoma",
    ],
)  # fmt: skip
def test_the_article_two_letters_and_a_denied_one_are_no_answer(output: str) -> None:
    """None of these names one option, though a parser that takes the first capital letter finds one in most."""
    assert parse_letter(output, "ABCDE") is None


def test_a_letter_that_may_be_a_word_needs_a_sign_behind_it() -> None:
    """A and I are letters and words; in a sentence they count where something follows that follows no word."""
    for output in ("A", "a", "A.", "The answer is A.", "The answer is **A**", "The answer is A because", "Answer: a"):
        assert parse_letter(output, "ABCDE") == "A"
    assert parse_letter("I", "ABCDEFGHI") == "I"
    assert parse_letter("I would say so", "ABCDEFGHI") is None
    assert parse_letter("The answer is A", "A") == "A"


JSON = [
    ('{"a": 1}', {"a": 1}, "valid"),
    ('Here it is:\n```json\n{"a": [1, 2]}\n```\nI hope that helps.', {"a": [1, 2]}, "valid"),
    ('{"a": 1} or rather {"a": 2}', {"a": 2}, "valid"),  # the last
    ('{"a": 1} [see the note]', {"a": 1}, "valid"),  # which begins like no JSON
    ('A man, 5\' 11" tall: {"a": "5\' 11\\" tall"}', {"a": "5' 11\" tall"}, "valid"),
    ('{"a": "} ] {"}', {"a": "} ] {"}, "valid"),
    ('It\'s {"a": "it\'s"}, isn\'t it?', {"a": "it's"}, "valid"),
    ("[]", [], "valid"),
    ("{}", {}, "valid"),
    ("['EMPLOYMENT', 'HOUSING']", ["EMPLOYMENT", "HOUSING"], "repaired"),
    ("{'a': 'the \"left\" lung', 'b': 'it\\'s'}", {"a": 'the "left" lung', "b": "it's"}, "repaired"),
    ("[1, 2, ]", [1, 2], "repaired"),
    ('{"a": [1, 2,],\n}', {"a": [1, 2]}, "repaired"),
    ('[{"a": 1}, {"a": 2}', [{"a": 1}, {"a": 2}], "repaired"),
    ('{"a": {"b": [1', {"a": {"b": [1]}}, "repaired"),
    ('["EMPLOYMENT",', ["EMPLOYMENT"], "repaired"),
    ('[{"a": 1}, {"a": 2}, {"a', None, "invalid"),  # cut off: the second object is not the answer
    ('{"a": ', None, "invalid"),
    ("[", None, "invalid"),  # an empty list was not said
    ('{"a": [', None, "invalid"),
    ('{"a": "x', None, "invalid"),
    ('{"a": 1, "a": 2}', None, "invalid"),
    ('{"a": NaN}', None, "invalid"),
    ("[1e999]", None, "invalid"),
    ("[-Infinity]", None, "invalid"),
    ("[12345678901234567890]", None, "invalid"),  # no reader's exact number
    ('{"a": "\\ud800"}', None, "invalid"),  # half a character cannot be written down again
    ('{"a": 1]', None, "invalid"),
    ("[1,, 2]", None, "invalid"),
    ("[1 2]", None, "invalid"),
    ("{'a': 'the patient's'}", None, "invalid"),
    ("{a: 1}", None, "invalid"),
    ('{"a": "x\ny"}', None, "invalid"),
    ("ENTAILMENT", None, "invalid"),
    ("1", None, "invalid"),
    ("[" * 101 + "1" + "]" * 101, None, "invalid"),
    ("", None, "empty"),
    (" \n", None, "empty"),
]


@pytest.mark.parametrize(("output", "value", "state"), JSON)
def test_json_is_valid_repaired_invalid_or_empty(output: str, value: Any, state: str) -> None:
    """The last balanced part, read strictly, then mended once; what could mean two things is not read."""
    assert parse_json(output) == (value, state)


SCHEMA = {
    "type": "object",
    "required": ["error", "sentence_id"],
    "properties": {"error": {"enum": [0, 1]}, "sentence_id": {"type": "integer"}},
}


def test_json_of_another_shape_is_invalid() -> None:
    """The schema is checked after mending; neither a missing key nor a number as text passes."""
    assert parse_json_as('{"error": 1, "sentence_id": 7}', SCHEMA).value == {"error": 1, "sentence_id": 7}
    assert parse_json_as("{'error': 1, 'sentence_id': 7,}", SCHEMA).state == "repaired"
    for output in ('{"error": 1}', '{"error": 1, "sentence_id": "7"}', '{"error": 2, "sentence_id": 7}', "[1]"):
        assert parse_json_as(output, SCHEMA) == (None, "invalid")
    assert parse_json_as("", SCHEMA) == (None, "empty")


@pytest.mark.parametrize(
    "unit",
    ["[", '{"', '{"a":', "['", '"\\', "[1]", "]", "[ ", '["\\"', "\n", "A\n", "not B ", "no/", "I10,", "4, ", "; -"],
)
def test_long_garbage_is_read_in_a_moment(unit: str) -> None:
    """No parser looks at a sign twice for every other sign: 200,000 signs take well under a second each."""
    text = unit * (200_000 // len(unit))
    for parse in (
        parse_json,
        parse_codes,
        split_list,
        lambda output: parse_label(output, NLI),
        lambda output: parse_leading_label(output, ("yes", "no", "maybe")),
        lambda output: parse_letter(output, "ABCDE"),
        lambda output: parse_sentence_number(output, SENTENCES),
    ):
        before = time.process_time()
        parse(text)
        assert time.process_time() - before < 1.5


def test_a_number_of_many_digits_is_no_sentence() -> None:
    """Python refuses to read 5,000 digits as a number."""
    assert parse_sentence_number("9" * 5000, SENTENCES) is None
    assert parse_sentence_number("Sentence " + "9" * 5000, SENTENCES) is None


@pytest.mark.parametrize(
    ("output", "codes"),
    [
        # A published pattern finds none of these five.
        ("C7A.00, C4A.9, Z3A.20, M1A.00X0, U07.1", ["C7A.00", "C4A.9", "Z3A.20", "M1A.00X0", "U07.1"]),
        ("ICD-10 Codes: I10, E119", ["I10", "E11.9"]),
        ("**I10**: hypertension\n- E11.9 - diabetes\n1. J189\n2) (N17.9)", ["I10", "E11.9", "J18.9", "N17.9"]),
        ("I10 and E78.5.", ["I10", "E78.5"]),
        ("I10; I10, I10", ["I10"]),  # a published precision counts it three times
        ("i10 is e11.9", ["E11.9"]),  # small letters need the dot
        ("I99.99", ["I99.99"]),  # no code of the table, and yet one that was said
        ("I10, B12", ["I10", "B12"]),
        ("B12 deficiency", []),  # a published pattern takes it for the code B12
        ("Deficiency of vitamin B12", []),
        ("T4, H1N1, A1C", []),
        ("C5-C6 and T10-T12", []),
        ("C50-C58", []),
        ("E11.0-E11.9", []),
        ("Q12H dosing, 2 mg", []),
        ("SARS-CoV-2", []),
        ("version 10.2 of ICD10", []),
        ("", []),
    ],
)
def test_codes_are_told_from_what_looks_like_them(output: str, codes: list[str]) -> None:
    """A code is told by its form where it has a dot or stands alone in a list, else by the table."""
    assert parse_codes(output) == codes


@pytest.mark.parametrize(
    ("code", "valid"),
    [("I10", True), ("E119", True), ("M1A.00X0", True), ("U07.1", True), ("I99.99", False), ("B12", False),
     ("1", False)],
)  # fmt: skip
def test_valid_codes_are_those_of_the_table(code: str, valid: bool) -> None:
    """Categories and codes, with or without dot; chapters ("1") and blocks are none."""
    assert valid_code(code) == valid

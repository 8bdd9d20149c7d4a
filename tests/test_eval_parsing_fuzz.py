"""No text makes a parser fail, and none that says nothing, or two things, is counted as right (hypothesis)."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.asking import sample_of
from eval.benchmark import Item, load_benchmark, names
from eval.metrics import find_metric
from eval.parsing import (
    parse_codes,
    parse_json,
    parse_json_as,
    parse_label,
    parse_leading_label,
    parse_letter,
    parse_sentence_number,
    split_list,
)
from eval.results import headline, item_score
from tests.test_eval_benchmarks import CASES

# Drawn alike on every machine and every day: what fails once fails always.
alike = settings(
    derandomize=True, database=None, deadline=None, max_examples=80, suppress_health_check=list(HealthCheck)
)
few = settings(alike, max_examples=25)

LABELS = ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")
# What answers are made of: shuffled, they come nearer to a parser's limits than random signs do.
PIECES = (
    "ENTAILMENT", "neutral", "yes", "no", "maybe", "not ", "isn't ", "A", "b", "(C)", "**D**", "I", "4", "-1", "99",
    "10 mg", "sentence ", "Answer: ", "The answer is ", "option ", "CORRECT", "N/A", "none", "or ", "and ", "{", "}",
    "[", "]", '"', "'", ":", ",", ";", ".", "-", "\n", " ", "\\", "```json\n", '"entity"', '"label"', "null", "true",
    "NaN", "1e999", "I10", "E11.9", "B12", "EMPLOYMENT", "RELATIONSHIP", "Case-specific instructions for patient",
    "CONTRAD\u0131CTION", "ESI 2", "level 3", "\u0131", "\u2212", "\u212a", "\u0661", "²", "\x00", "é", "🩺",
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
# No letter of these is in a label, a code, a number or a word of a gold; no bracket makes an empty list.
NOISE = st.text(alphabet="qwvjzQWVJZ .,;:!?*\n\"'()", max_size=60)


@functools.cache
def items_of(name: str) -> list[Item]:
    """The three hand-made items of a benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        CASES[name][0](Path(folder))
        return load_benchmark(name).load(Path(folder), "test").items


@alike
@given(TEXTS)
def test_parsers_take_any_text(output: str) -> None:
    """They give one of the labels, letters or numbers that there are, or None, and never fail."""
    assert parse_label(output, LABELS) in {*LABELS, None}
    assert parse_leading_label(output, ("yes", "no", "maybe")) in {"yes", "no", "maybe", None}
    assert parse_letter(output, "ABCDEFGHI") in {*"ABCDEFGHI", None}
    number = parse_sentence_number(output, {4: "He takes aspirin."})
    assert number is None or -1 <= number < 10_000
    assert all(re.fullmatch(r"[A-Z]\d[0-9AB](\.[0-9A-Z]{1,4})?", code) for code in parse_codes(output))
    assert len(set(split_list(output))) == len(split_list(output))
    found = parse_json(output)
    assert (found.state in ("valid", "repaired")) == (found.value is not None)
    assert (found.state == "empty") == (not output.strip())
    assert parse_json_as(output, {"type": "array", "items": {"type": "string"}}).state in {found.state, "invalid"}


@pytest.mark.parametrize("name", names())
def test_benchmarks_take_any_text(name: str) -> None:
    """Every sample is whole and can be written down; an unreadable answer has no score and no true positive."""
    benchmark = load_benchmark(name)

    @few
    @given(TEXTS, st.sampled_from(items_of(name)))
    def check(output: str, item: Item) -> None:
        row = sample_of(name, benchmark, item, "", output)
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
        assert row["reading"] in {"valid", "repaired", "unreadable", "empty"}
        assert all(0 <= value <= 1 for value in row["scores"].values())
        if row["unreadable"]:
            assert row["scores"] == {}
            assert item_score(row, headline(benchmark, [row])) == 0

    check()


@pytest.mark.parametrize("name", names())
def test_noise_earns_nothing(name: str) -> None:
    """A text that cannot spell the gold scores 0 on the headline and on every metric where more is better."""
    benchmark = load_benchmark(name)

    @few
    @given(NOISE, st.sampled_from(items_of(name)))
    def check(output: str, item: Item) -> None:
        row = sample_of(name, benchmark, item, "", output)
        assert item_score(row, headline(benchmark, [row])) == 0, row
        assert not any(value for metric, value in row["scores"].items() if not find_metric(metric).loss), row

    check()


JOINED = st.sampled_from([" or ", ", ", "/", " and ", " / ", "\n", ". ", "; not ", " but also ", " or maybe "])


@alike
@given(st.permutations(LABELS), JOINED, st.sampled_from(["{}", "**{}**", "Answer: {}", "The relation is {}."]))
def test_two_labels_are_no_answer(labels: list[str], joined: str, dress: str) -> None:
    """Two labels are no answer, however they are joined and dressed, and in whatever case."""
    output = dress.format(joined.join(labels[:2]))
    assert parse_label(output, LABELS) is None
    assert parse_label(output.lower(), LABELS) is None


@alike
@given(
    st.permutations("ABCDE"),
    st.sampled_from([" or ", ", ", "/", " and ", " / ", "\n", " & ", ", or "]),
    st.sampled_from(
        ["{}", "**{}**", "Answer: {}", "The answer is {}.", "The correct answer is: {}", "({})", "Option {}"]
    ),
)
def test_two_letters_are_no_answer(letters: list[str], joined: str, dress: str) -> None:
    """Two letters are no answer, however they are joined and dressed."""
    assert parse_letter(dress.format(joined.join(letters[:2])), "ABCDE") is None


@alike
@given(st.permutations((0, 4, 7)), st.sampled_from([" or ", ", ", "/", " and ", " - "]),
       st.sampled_from(["{}", "Sentence {}", "The error is in sentence {}.", "Answer: {}"]))  # fmt: skip
def test_two_sentences_are_no_answer(numbers: list[int], joined: str, dress: str) -> None:
    """Two numbers of sentences are no answer, however they are joined and dressed."""
    sentences = {0: "A man.", 4: "He takes aspirin.", 7: "He is well."}
    assert parse_sentence_number(dress.format(joined.join(map(str, numbers[:2]))), sentences) is None


VALUES: Any = st.recursive(
    st.one_of(st.text(max_size=8), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False),
              st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=12,
).filter(lambda value: isinstance(value, list | dict))  # fmt: skip
AROUND = st.text(alphabet="abc .:'\"`\n(1", max_size=20)


@alike
@given(VALUES, AROUND, AROUND, st.sampled_from([None, 1]))
def test_json_is_found_in_any_text(value: Any, before: str, after: str, indent: int | None) -> None:
    """Whatever stands around it, a JSON value is read as it was written; without its last bracket too, or not at all.

    Floats beyond 2**53 that look like whole numbers are written with a point or an exponent: they stay.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=indent is None)
    assert parse_json(before + text + after) == (value, "valid")
    cut = parse_json(before + text[:-1])
    assert cut == ((value, "repaired") if value else (None, "invalid"))


PLAIN: Any = st.recursive(
    st.text(alphabet="ab'\" ,{}[]:", max_size=6) | st.integers(-99, 99),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.text(alphabet="ab'", max_size=3), inner,
                                                                            min_size=1, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, list | dict))  # fmt: skip


@alike
@given(PLAIN)
def test_single_quotes_are_mended(value: Any) -> None:
    """Python's notation of texts and numbers, which models write for JSON, is read as the same value."""
    assert parse_json(repr(value)).value == value


@alike
@given(st.lists(st.sampled_from(["I10", "E11.9", "C7A.00", "M1A.00X0", "U07.1", "I99.99", "Z3A.20"]), max_size=5),
       st.sampled_from([", ", "; ", "\n", "\n- "]), st.booleans())  # fmt: skip
def test_codes_come_back_whatever_the_list_looks_like(codes: list[str], joined: str, dotted: bool) -> None:
    """Each once, in order, with their dot."""
    text = joined.join(code if dotted else code.replace(".", "") for code in codes)
    assert parse_codes(text) == list(dict.fromkeys(codes))

"""Each fault of a row is named, clinical text is not mistaken for one, and the quick look over a batch misses none."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from mediflow.curation.filters import Limits, find_fault, foreign_share, may_be_faulty, repeated_share
from medsmith.records import Instruction
from medsmith.shingles import tokenize

NOUNS = [f"finding{number}" for number in range(900)]


def text_of(seed: str, length: int = 30) -> str:
    return " ".join(random.Random(seed).choices(NOUNS, k=length))


def row_of(number: int, **changes: Any) -> Instruction:
    """A clean, distinct row."""
    row = Instruction(
        id=f"{number:04}",
        instruction="Summarize the note in one sentence.",
        input=text_of(f"in {number}"),
        output=text_of(f"out {number}", 6),
        task_type="summarization",
        input_data="discharge_summary",
        output_format="plain_text",
        difficulty_level="hard",
    )
    return replace(row, **changes)


def suspects(rows: list[Instruction], limits: Limits) -> list[bool]:
    texts = [text for row in rows for text in (row.instruction, row.input, row.output)]
    found: list[bool] = may_be_faulty(texts, tokenize(texts), [row.output_format for row in rows], limits).tolist()
    return found


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"output": "  "}, "empty", "output"),
        ({"input": "two words"}, "too_short", "input: 2 words"),
        ({"output": text_of("long", 5000)}, "too_long", "output: 5000 words"),
        ({"input": "SSN 123-45-6789 was noted"}, "private", "ssn in input"),
        ({"input": "call (617) 555-0123 for results"}, "private", "phone in input"),
        ({"input": "call +44 20 7946 0958 for results"}, "private", "phone in input"),
        ({"output": "write to jane.doe@example.org"}, "private", "email in output"),
        ({"input": "Name: X, MRN: 00123456, male"}, "private", "mrn in input"),
        ({"input": "medical record number is A-778812 here"}, "private", "mrn in input"),
        ({"output": "done </output> more"}, "markup", "</output>"),
        ({"output": "I'm sorry, but I can't help with that."}, "refusal", "output"),
        ({"input": "A fever, today.", "output": "a fever today"}, "echo", "input"),
        ({"output": "summarize the note in one sentence"}, "echo", "instruction"),
        ({"output_format": "json", "output": "{'a': 1}"}, "invalid_json", "output"),
        ({"output": "no fever no cough and " * 12}, "repetition", "output"),
        ({"output": "pain " * 9}, "repetition", "one word 9 times"),
        ({"input": f"He rested and slept well {'.' * 61}"}, "repetition", "one sign 61 times"),
        ({"input": "Пациент жалуется на боль в груди"}, "foreign", "input: 100%"),
        ({"input": "El paciente fue dado de alta con una dieta para los que no pueden comer"}, "foreign", "input"),
    ],
)
def test_each_fault_is_named(changes: dict[str, Any], reason: str, detail: str) -> None:
    """A clean row with one fault is dropped for that fault, and the detail says where."""
    assert find_fault(row_of(1), Limits()) is None
    fault = find_fault(row_of(1, **changes), Limits())
    assert fault is not None and fault.reason == reason
    assert detail in fault.detail
    assert suspects([row_of(1, **changes)], Limits()) == [True]


@pytest.mark.parametrize(
    "text",
    [
        "BP 120-80, glucose 140 mg/dL, 2024-01-05, NDC 0002-3227-30, NCT01234567, trial 555-12",
        "de Quervain tenosynovitis, van der Woude syndrome, DES placed in LAD, β-blocker at 5 µg/kg",
        "Temp 98.6, HR 72, RR 16, BP 132/84, SpO2 98% on 2-3 L, creatinine 1.2-1.4 since 10-12-2023",
        "MRN withheld; phone and email on file",
        f"Plan\n{'-' * 50}\nRest ... and see: |----|----|",
    ],
)
def test_clinical_text_is_not_mistaken_for_private_or_foreign(text: str) -> None:
    """Figures, eponyms and units of ordinary notes pass."""
    assert find_fault(row_of(1, input=text), Limits()) is None


def test_shares_are_counted_as_described() -> None:
    """Half of a doubled text's 5-word sequences but the seam repeat; short texts have no repetition."""
    words = text_of("x", 40).split()
    assert repeated_share(words + words) == pytest.approx(36 / 76)
    assert repeated_share(["a"] * 29) == 0.0
    assert foreign_share("abгд", ["abгд"]) == 0.5


def test_the_quick_look_misses_no_fault_and_spares_clean_rows() -> None:
    """2,000 rows of pieces that touch every rule: whoever has a fault is a suspect; of clean notes few are."""
    pieces = [
        "no fever", "pain " * 3, "123-45", "-6789", "617-555-0123", "a@b.org", "MRN 0012", "345", "El paciente", "con",
        "una dieta", "que", "<input>", "{{x}}", "<|end|>", "I am unable to help", "as an AI", "Пациент", "β-blocker",
        "no cough today and", "+1 617 5550123", "{\"a\": 1}", "NaN", "", "  ", "???",
        "." * 50, "=" * 30, "<", ">", "3 > 2", "ﬁne", "½",
    ]  # fmt: skip
    rng = random.Random(1)

    def text() -> str:
        return " ".join(rng.choices(pieces, k=rng.choice((0, 1, 2, 5, 40))))

    rows = [
        row_of(n, instruction=rng.choice((text(), "Sum it up now.")), input=text(), output=text(),
               output_format=rng.choice(("json", "plain_text")))
        for n in range(2000)
    ]  # fmt: skip
    for limits in (
        Limits(),
        Limits(max_run=2, max_repetition=0.1, max_foreign_share=0.01, min_input_words=0, max_sign_run=9),
    ):
        faulty = [find_fault(row, limits) is not None for row in rows]
        assert 200 < sum(faulty) < 2000
        missed = [
            row for row, fault, may in zip(rows, faulty, suspects(rows, limits), strict=True) if fault and not may
        ]
        assert missed == []
    clean = [row_of(n, output=text_of(f"long {n}", 9)) for n in range(200)]
    assert sum(suspects(clean, Limits())) == 0

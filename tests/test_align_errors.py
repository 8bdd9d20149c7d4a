"""Errors are told by comparison with the right answer, and counted before and after on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align import errors
from align.error_types import answers_by_task, find_errors, read_terms
from align.errors import compare, render, summarise
from medsmith import run
from medsmith.errors import UserError
from medsmith.intervals import paired_change
from medsmith.records import Instruction, read_jsonl, write_jsonl, write_parquet
from tests.toy_training import instruction

TERMS = {"drug": ("aspirin", "iron", "iron sucrose"), "disease": ("gout", "asthma")}
LABELS = frozenset({"entailment", "neutral", "left", "-1", "4"})


def row(output: str, form: str = "plain_text") -> Instruction:
    return instruction(0, output=output, output_format=form)


@pytest.mark.parametrize(
    ("right", "said", "found"),
    [
        ("ENTAILMENT", "entailment.", ()),
        ("ENTAILMENT", "NEUTRAL", ("wrong label",)),
        ("ENTAILMENT", "The label is ENTAILMENT", ("format",)),
        ("ENTAILMENT", "perhaps", ("other words",)),
        ("4", "-1", ("wrong number",)),
        ("Gout, treated with aspirin 81 mg daily.", "Gout, treated with aspirin 81 mg daily.", ()),
        ("Gout, treated with aspirin 81 mg daily.", "Gout, treated with iron 81 mg daily.", ("wrong drug",)),
        ("Gout, so aspirin 81 mg is given.", "Asthma, so iron 81 mg is given.", ("wrong drug", "wrong disease")),
        ("Gout, treated with aspirin 81 mg daily.", "Gout, treated with aspirin 80 mg daily.", ("wrong number",)),
        ("Gout, treated with aspirin 81 mg daily.", "Gout, treated with aspirin daily.", ("omission",)),
        ("Gout, treated with aspirin 81 mg daily.", "Gout, treated with aspirin 81 mg.", ("omission",)),
        ("Gout, treated with aspirin 81 mg daily.", "Gout, for which aspirin 81 mg is given daily.", ("other words",)),
        ("iron sucrose", "iron", ("wrong drug",)),
    ],
)  # fmt: skip
def test_an_error_has_its_kind(right: str, said: str, found: tuple[str, ...]) -> None:
    """Labels, figures and names that are not the right ones, what is left out, and what is only said otherwise."""
    assert set(find_errors(row(right), said, LABELS, TERMS)) == set(found)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('{"drugs": ["aspirin", "iron"]}', ()),
        ("aspirin and iron", ("format",)),
        ('{"names": ["aspirin"]}', ("format",)),
        ('{"drugs": ["aspirin"]}', ("omission",)),
        ('{"drugs": ["aspirin", "iron", "iron sucrose"]}', ("wrong drug",)),
    ],
)
def test_json_has_its_form_first(said: str, found: tuple[str, ...]) -> None:
    """Broken JSON and other keys are errors of form; else its values are compared."""
    assert find_errors(row('{"drugs": ["aspirin", "iron"]}', "json"), said, LABELS, TERMS) == found


def test_without_names_a_wrong_word_is_only_another_one() -> None:
    """A negative control: nobody knows drugs unless told."""
    assert find_errors(row("aspirin for the long run"), "iron for the long run", (), {}) == ("other words",)


def test_names_come_from_the_facts(tmp_path: Path) -> None:
    """Drugs of all medications, diseases and symptoms, each once; other text of a patient is no name."""
    facts: dict[str, Any] = {
        "diseases": ["gout"],
        "new_medication": {"drug": "iron", "disease": "asthma"},
        "denied": ["fever"],
    }
    facts |= {"symptoms": ["cough", "fever"], "work": "retired", "medications": [{"drug": "aspirin"}]}
    write_jsonl(tmp_path / "facts.jsonl", [{"facts_id": "a", "facts": facts}] * 2)
    assert read_terms(tmp_path / "facts.jsonl") == {
        "disease": ("asthma", "gout"),
        "drug": ("aspirin", "iron"),
        "symptom": ("cough", "fever"),
    }


def told(*errors_of: list[str]) -> list[dict[str, Any]]:
    return [{"id": str(n), "instruction": str(n), "errors": found} for n, found in enumerate(errors_of)]


def test_rates_and_their_changes_by_hand() -> None:
    """Of four rows one more is right, one drug fewer is wrong; other rows than before are refused."""
    before = told(["wrong drug"], ["wrong drug", "omission"], [], ["format"])
    after = told([], ["wrong drug"], [], ["format"])
    found = summarise(before)
    assert {name: one["rows"] for name, one in found["rates"].items()} == {
        "right": 1, "wrong drug": 2, "format": 1, "omission": 1,
    }  # fmt: skip
    changes = compare(before, after)
    assert {name: one["value"] for name, one in changes.items()} == {
        "right": 0.25, "format": 0.0, "omission": -0.25, "wrong drug": -0.25,
    }  # fmt: skip
    assert changes["format"]["low"] == changes["format"]["high"] == 0.0
    assert "| wrong drug | 50.0 % | 25.0 % | -25.0 (-75.0 to +0.0) |" in render({**found, "changes": changes})
    assert "| right | 1 | 25.0 %" in render(found)
    with pytest.raises(UserError, match="asked other rows"):
        compare(before, after[:3])


def test_a_change_is_drawn_over_whole_groups() -> None:
    """Forty equal rows of two instructions are two observations: the interval is as wide as theirs."""
    before, after = [0.0] * 40, [1.0] * 20 + [0.0] * 20
    alone = paired_change(before, after, [str(n) for n in range(40)])
    grouped = paired_change(before, after, ["a"] * 20 + ["b"] * 20)
    assert alone.value == grouped.value == 0.5
    assert (grouped.low, grouped.high) == (0.0, 1.0) and alone.high - alone.low < 0.4
    with pytest.raises(UserError, match="there must be as many"):
        paired_change([1.0], [], ["a"])


def test_a_model_is_asked_the_held_out_rows_and_compared_with_itself(tiny_model: Path, tmp_path: Path) -> None:
    """Only rows of held-out instructions; the same model changes nothing; in = kept + dropped."""
    from align.rows import hold_out

    rows = [instruction(n, output="yes" if n % 2 else "no") for n in range(60)]
    write_parquet(tmp_path / "rows" / "a.parquet", rows)
    asked = {"model": tiny_model, "data": tmp_path / "rows", "heldout_share": 0.3, "max_tokens": 4, "threads": 1}
    one = errors.main(errors.Config(out=tmp_path / "one", **asked))
    held = {held_row.id for held_row in hold_out(rows, 0.3)[1]}
    assert {line["id"] for line in read_jsonl(one / "answers.jsonl")} == held and held
    counts = run.require_finished(one)["counts"]
    assert counts == {"in": 60, "kept": len(held), "dropped": 60 - len(held)}
    two = errors.main(errors.Config(out=tmp_path / "two", before=one, **asked))
    changes = json.loads((two / "errors.json").read_text())["changes"]
    assert changes and all(change["value"] == change["low"] == change["high"] == 0 for change in changes.values())
    with pytest.raises(UserError, match="holds out none"):
        errors.main(errors.Config(out=tmp_path / "three", **(asked | {"heldout_share": 1e-9})))


def test_right_answers_of_a_task_are_its_labels() -> None:
    """JSON answers count by their values."""
    rows = [instruction(0, output="Yes."), instruction(1, output='{"label": "no"}'), instruction(2, task_type="b")]
    assert answers_by_task(rows)["qa"] == {"yes", "no"}

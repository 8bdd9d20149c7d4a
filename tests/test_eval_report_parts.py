"""The report's LaTeX, profiles and readings, from a small table by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from eval.report_latex import escape, render_latex
from eval.report_page import profiles, readings, render_markdown


def cell(value: float, mark: str = "", **more: Any) -> dict[str, Any]:
    gain = {"gain": {"value": 0.05, "low": 0.01, "high": 0.09, "mark": mark}} if mark else {}
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 50, "unreadable": 0, "readings": None,
            "written": None, **gain, **more}  # fmt: skip


def table() -> dict[str, Any]:
    kinds = {
        "version": 1,
        "metric": "accuracy",
        "access": "open",
        "licence": "x",
        "published": True,
        "in_average": True,
        "beyond_the_limit": 0,
        "shots": 2,
        "not_run": [],
        "as_published": True,
        "cut": {},
    }
    base = {"name": "base", "stage": "base", "parent": None, "benchmarks": {"mednli": cell(0.5), "icd_10": cell(0.25)},
            "average": cell(0.375), "perplexity": {}}  # fmt: skip
    letters = {"accuracy": 0.2, "agreement": 0.6, "readable": 0.9}
    bad = {"valid": 40, "repaired": 4, "empty": 1, "unreadable": 5}
    tuned = {"name": "50% merged_A", "stage": "merge", "parent": "base", "perplexity": {},
             "benchmarks": {"mednli": cell(0.6, "gain", unreadable=6, readings=bad),
                            "icd_10": cell(0.2, "noise", written=letters)},
             "average": cell(0.4), "gain": {"value": 0.025, "low": -0.01, "high": 0.06, "mark": "noise"},
             "datasets_gained": {"value": 1.0}, "of": 2, "cv": {"value": 1.25}}  # fmt: skip
    return {
        "title": "t", "protocol": "strict", "baseline": "base", "simulated": True, "corpora": [], "derived": [],
        "findings": [], "models": [base, tuned],
        "benchmarks": [{"name": "mednli", "n": 50, "simulated": True, **kinds},
                       {"name": "icd_10", "n": 50, "simulated": False, **kinds}],
    }  # fmt: skip


def test_latex_has_every_cell_and_no_open_brace() -> None:
    """Rows have as many cells as the head; names are escaped; a real gain is bold with an arrow."""
    text = render_latex(table())
    rows = [line for line in text.splitlines() if " & " in line]
    assert [line.count(" & ") for line in rows] == [5, 5, 5]
    assert rows[0] == r"model & mednli & icd\_10 & AVG & \#DG & CV \\"
    assert rows[2].startswith(r"50\% merged\_A & \textbf{60.0}$^{\uparrow}$ {\scriptsize 50.0--70.0} & 20.0 {")
    assert rows[2].endswith(r"& 1 & 1.2 \\")
    assert r"\begin{tabular}{lrrrrr}" in text
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert "Protocol strict." in text and r"Simulated data: mednli." in text
    assert escape("a_b & 5 % \\x") == r"a\_b \& 5 \% \textbackslash{}x"


def test_a_table_without_benchmarks_says_so() -> None:
    """No benchmark, no table."""
    assert render_latex(table() | {"benchmarks": []}) == "% no benchmark was scored\n"


def test_readings_are_counted_apart() -> None:
    """Empty and unreadable answers earn nothing and are counted; mended ones are named, not counted as lost."""
    rows = readings(table())
    found = rows[1]["cells"]
    assert found["mednli"]["share"] == pytest.approx(6 / 50)
    assert found["mednli"]["detail"] == "4 repaired, 1 empty, 5 unreadable"
    assert rows[0]["cells"]["mednli"] == {"share": 0.0, "detail": "all read", "written": None}
    assert "| 50% merged_A | 12.0 | 0.0 |" in render_markdown(table())


def test_a_profile_shows_the_model_its_parent_and_the_baseline() -> None:
    """One whisker a benchmark, a hollow dot for each other model; where parent and baseline are one, one dot."""
    drawn = profiles(table())
    assert [(one["name"], one["others"]) for one in drawn] == [("50% merged_A", ["base"])]
    svg = str(drawn[0]["drawing"])
    assert svg.count('class="bar s-merge"') == 2
    assert svg.count('class="hollow s-base"') == 2 + 1  # one in the key
    assert "▲ +5.0" in svg


def test_what_was_scored_stands_beside_the_numbers() -> None:
    """Metric, items of how many, shots, source; a score without a part of its metric, or of cut prompts, says so."""
    plain, limited = table(), table()
    limited["benchmarks"][1] |= {"beyond_the_limit": 1950, "not_run": ["bertscore_f1"], "cut": {"base": 7}}
    told = render_markdown(limited)
    assert "| mednli | accuracy | 50 | 2 | simulated |" in told
    assert "| icd_10 | accuracy | 50 of 2,000 | 2 | open file, as published |" in told
    assert "- icd_10: not run, and in no mean: bertscore_f1; prompts cut to fit the model's context: 7 by base." in told
    caption = r"items: mednli 50, icd\_10 50 of 2,000."
    assert caption in render_latex(limited) and r"Not run, and in no mean: icd\_10 (bertscore\_f1)." in render_latex(
        limited
    )
    assert "- icd_10:" not in render_markdown(plain) and "Not run" not in render_latex(plain)

"""Baselines score what their formulas say, through the same parser and scorer as a model; a broken one is found out."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval.asking import Task
from eval.baselines import Config, Predictor, main, measure, predictors
from eval.benchmark import Item, ask
from eval.power import detectable
from eval.suite import BenchmarkSettings
from medsmith.records import read_json, write_jsonl

LABELS = ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")


def mednli_folder(folder: Path) -> Path:
    """60 pairs: 30 entailed, 20 neutral, 10 contradicted."""
    labels = ["entailment"] * 30 + ["neutral"] * 20 + ["contradiction"] * 10
    folder.mkdir()
    rows = [
        {"pairID": f"p{n}", "gold_label": label, "sentence1": f"First {n}.", "sentence2": "Second."}
        for n, label in enumerate(labels)
    ]
    write_jsonl(folder / "mli_test_v1.jsonl", rows)
    return folder


def medec_file(path: Path) -> Path:
    """Eight texts of four sentences; five hold no error."""
    text = "0 A man.\n1 He has gout.\n2 Insulin is given.\n3 He is well."
    columns = ("Text ID", "Sentences", "Error Flag", "Error Sentence ID")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([(f"t{n}", text, "0", "-1") if n < 5 else (f"t{n}", text, "1", str(n - 4)) for n in range(8)])
    return path


def test_known_shares_come_out(tmp_path: Path) -> None:
    """Each constant scores its label's share, the oracle everything, a random draw its expectation."""
    suite = tmp_path / "suite.yml"
    suite.write_text("benchmarks: {mednli: {}, medec: {}}")
    data = {"mednli": mednli_folder(tmp_path / "nli"), "medec": medec_file(tmp_path / "medec.csv")}
    out = main(Config(out=tmp_path / "out", suite=suite, benchmarks=data))

    rows = {(row["benchmark"], row["predictor"]): row for row in read_json(out / "baselines.json")["rows"]}
    assert rows["mednli", "oracle"]["value"] == rows["medec", "oracle"]["value"] == 1.0
    shares = [rows["mednli", f"always {label}"]["value"] for label in LABELS]
    assert shares == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    assert rows["medec", "always -1"]["value"] == rows["medec", "always -1"]["expected"] == 5 / 8
    drawn = rows["mednli", "random"]
    assert drawn["expected"] == pytest.approx(1 / 3)
    assert drawn["deviation"] == pytest.approx((1 / 3 * 2 / 3 / 60) ** 0.5)
    assert rows["medec", "random"]["expected"] == pytest.approx(1 / 5)

    power = read_json(out / "baselines.json")["detectable"]
    assert power["groups"] == {"mednli": 60, "medec": 8}
    assert power["average"] == detectable([60, 8]) < power["benchmarks"]["medec"] == detectable([8])
    assert f"**average {100 * power['average']:.1f}**" in (out / "baselines.md").read_text()
    assert not any(row["off"] for row in rows.values())
    assert "| medec | 8 | always -1 | accuracy | 62.50 |" in (out / "baselines.md").read_text()


def test_texts_are_checked_by_the_formula_of_rouge_1(tmp_path: Path) -> None:
    """Where answers are texts, ROUGE-1 of the library equals twice the shared words over all words."""
    findings = ["no acute fracture", "small left effusion", "no effusion", "a left fracture"]
    rows = [{"id": n, "findings": f"F{n}", "question": "What?", "answer": text} for n, text in enumerate(findings)]
    write_jsonl(tmp_path / "data" / "test.jsonl", rows)
    suite = tmp_path / "suite.yml"
    suite.write_text("benchmarks: {rrs_qa: {}}")
    out = main(Config(out=tmp_path / "out", suite=suite, benchmarks={"rrs_qa": tmp_path / "data"}))

    found = {row["predictor"]: row for row in read_json(out / "baselines.json")["rows"]}
    assert found["random"]["checked"] == "rouge1"
    # One gold of the four against each; computed by hand for the expectation over all pairs.
    words = [text.split() for text in findings]
    by_hand = [2 * len(set(a) & set(b)) / (len(a) + len(b)) for a in words for b in words]
    assert found["random"]["expected"] == pytest.approx(sum(by_hand) / 16)
    assert not found["random"]["off"]


def benchmark(parse: Any) -> Any:
    return SimpleNamespace(
        METRIC="accuracy",
        MAX_NEW_TOKENS=4,
        LABELS=LABELS,
        parse=parse,
        score=lambda answer, item: {"accuracy": float(answer == item.gold)},
    )


@pytest.mark.parametrize(
    ("parse", "off"),
    [
        (lambda output, item: output, False),
        (lambda output, item: "NEUTRAL", True),  # reads every answer as one label
        (lambda output, item: item.gold, True),  # counts everything as right
        (lambda output, item: None, True),  # reads nothing
    ],
)
def test_a_broken_parser_is_found_out(parse: Any, off: bool) -> None:
    """A parser that reads something else than what was said gives another score than the formula: the row is marked."""
    items = [Item(str(n), str(n), ask("s", "u"), LABELS[n % 3]) for n in range(300)]
    task = Task("toy", benchmark(parse), BenchmarkSettings(), Path(), items, Counter(), 4)
    found = {one.name: measure(task, one) for one in predictors(items, task.benchmark, seed=0)}
    assert any(row["off"] for row in found.values()) == off
    assert Predictor("x", lambda item: "", None).expected is None

"""A student's share of its teacher's score: right by hand, covered by its interval, refused where it means nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from eval.metrics import table_of
from eval.relative import Config, main, no_ratio, relative, words_of
from medsmith.errors import UserError
from medsmith.records import read_json
from tests.test_eval_compare import evaluation, of_scores, sample

PAIRS = {  # of a published table: teacher and student
    "medqa": (861, 812),
    "ner": (893, 917),
    "summaries": (785, 731),
    "icd": (824, 856),
    "triage": (912, 878),
}
SHARES = {"medqa": 94.3, "ner": 102.7, "summaries": 93.1, "icd": 103.9, "triage": 96.3}


def right(count: int, of: int = 1000) -> list[float]:
    return [1.0] * count + [0.0] * (of - count)


def two(folder: Path, student: list[dict[str, Any]], teacher: list[dict[str, Any]], **entry: Any) -> Config:
    ours = evaluation(folder / "student", student, {"medec": entry})
    theirs = evaluation(folder / "teacher", teacher, {"medec": entry})
    return Config(out=folder / "out", student=ours, teacher=theirs, resamples=500)


def test_five_pairs_of_a_published_table(tmp_path: Path) -> None:
    """94.3, 102.7, 93.1, 103.9 and 96.3, to the decimal; each within its interval; no mean over them."""
    folders = []
    for side, place in (("student", 1), ("teacher", 0)):
        rows = [row | {"benchmark": name} for name, pair in PAIRS.items() for row in of_scores(right(pair[place]))]
        folders.append(evaluation(tmp_path / side, rows, {name: {} for name in PAIRS}))
    out = main(Config(out=tmp_path / "out", student=folders[0], teacher=folders[1], resamples=500))
    found = read_json(out / "relative.json")["benchmarks"]
    assert {name: round(entry["percent"], 1) for name, entry in found.items()} == SHARES
    assert all(entry["low"] < entry["percent"] < entry["high"] and entry["n"] == 1000 for entry in found.values())
    page = (out / "relative.md").read_text()
    assert "| medqa | accuracy | 1000 | 86.1 | 81.2 | 94.3 (" in page and "they have no mean" in page


def test_the_interval_covers_the_true_share() -> None:
    """A planted ratio of 0.8 on 120 items is within its 95 % interval in 90 to 99 % of 200 draws of the items."""
    drawn, inside = random.Random(0), 0
    for trial in range(200):
        taught = [drawn.random() < 0.75 for _ in range(120)]
        # The student is right on 70 % of what its teacher knows, and on 30 % of the rest: 0.6 in all.
        learned = [drawn.random() < (0.7 if known else 0.3) for known in taught]
        student, teacher = (table_of(of_scores([float(one) for one in side]), "accuracy") for side in (learned, taught))
        found = relative(student, teacher, "accuracy", seed=trial, resamples=400)
        assert found.low is not None and found.high is not None
        inside += found.low <= 100 * 0.6 / 0.75 <= found.high
    assert 0.9 <= inside / 200 <= 0.99, inside


def test_the_draws_are_paired() -> None:
    """Two models that are right on the same items have a sharper ratio than two that are right on others."""
    teacher = table_of(of_scores(right(60, 100)), "accuracy")
    same = relative(table_of(of_scores(right(50, 100)), "accuracy"), teacher, "accuracy")
    apart = relative(table_of(of_scores(right(50, 100)[::-1]), "accuracy"), teacher, "accuracy")
    assert same.percent == apart.percent and None not in (same.low, same.high, apart.low, apart.high)
    assert same.high - same.low < 0.5 * (apart.high - apart.low)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("accuracy", ""),
        ("mean(rouge1, rougeL)", ""),
        ("qwk", "its zero is not the least"),
        ("under_triage", "lower is better"),
        ("mean(rouge1, bertscore_f1)", "nobody scores near 0"),
    ],
)
def test_only_metrics_with_a_true_zero_have_ratios(metric: str, why: str) -> None:
    """A kappa's zero is chance, a loss is better when it is less, BERTScore never comes near 0."""
    assert why in no_ratio(metric) and bool(why) == bool(no_ratio(metric))


def test_a_metric_without_ratio_is_shown_with_its_reason(tmp_path: Path) -> None:
    """Both scores stand in the table; in the place of a ratio a dash, and below it why."""
    rows = [sample(str(n), 1.0, scores={"under_triage": n % 2}) for n in range(8)]
    out = main(two(tmp_path, rows, rows, metric="under_triage"))
    entry = read_json(out / "relative.json")["benchmarks"]["medec"]
    assert entry["percent"] is None and entry["student"] == 0.5
    assert "| 50.0 | 50.0 | – |" in (out / "relative.md").read_text()
    assert "lower is better" in (out / "relative.md").read_text()


def test_a_share_of_nothing_is_none(tmp_path: Path) -> None:
    """A teacher that scores 0 has no share; one that might as well has no interval."""
    out = main(two(tmp_path, of_scores(right(3, 9)), of_scores(right(0, 9))))
    entry = read_json(out / "relative.json")["benchmarks"]["medec"]
    assert entry["percent"] is None and entry["why_not"] == "the teacher scores 0"
    student, teacher = (table_of(of_scores(right(count, 9)), "accuracy") for count in (3, 1))
    found = relative(student, teacher, "accuracy")
    assert found.percent == pytest.approx(300) and found.low is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "1 items are in only one of the two"),
        (lambda rows: [rows[0] | {"gold": "2"}, *rows[1:]], "item '0' is another"),
        (lambda rows: [rows[0] | {"prompt": "Why?"}, *rows[1:]], "item '0' was asked in other words"),
        (lambda rows: [rows[0] | {"prompt": "sha256:12"}, *rows[1:]], "prompts are withheld"),
        (lambda rows: [rows[0] | {"scores": {}}, *rows[1:]], "item '0' has its accuracy in only one"),
    ],
)
def test_what_cannot_be_set_beside_one_another_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    """Other items, golds, prompts, or an item without a score: a line each."""
    rows = of_scores(right(5, 9), prompt="What?")
    with pytest.raises(UserError, match=message):
        main(two(tmp_path, change(rows), rows))


def test_other_metrics_and_settings_are_refused(tmp_path: Path) -> None:
    """The metric's id, the settings and the protocol must be the same."""
    rows = of_scores(right(5, 9))
    for entry, top, message in (
        ({"metric": "exact"}, {}, "metric is"),
        ({"settings": {"shots": 3}}, {}, "settings is"),
        ({}, {"protocol": "clue"}, "protocols strict and clue"),
    ):
        ours = evaluation(tmp_path / "student", rows)
        theirs = evaluation(tmp_path / "teacher", rows, {"medec": entry}, **top)
        with pytest.raises(UserError, match=message):
            main(Config(out=tmp_path / "out", student=ours, teacher=theirs))


def test_chat_templates_are_no_words(tmp_path: Path) -> None:
    """The same turns under another template are the same prompt; one word more is not."""
    one = "<|system|>\nBe short.<|end|>\n<|user|>\nFever?<|end|>\n<|assistant|>\n"
    other = "<s>[INST] Be short.\n\nFever? [/INST]"
    assert words_of(one) == words_of(other) == ["Be", "short.", "Fever?"]
    assert words_of(one) != words_of(other.replace("Be", "Be very"))
    student, teacher = (of_scores(right(5, 9), prompt=prompt) for prompt in (one, other))
    main(two(tmp_path, student, teacher))

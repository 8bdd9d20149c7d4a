"""The neighbours' benchmarks on twins: oracle, constant, random and permuted answers score as the formulas say.

`value` goes the way of a model's output: parser, scorer, counts and the function of their sums.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest

from eval.asking import sample_of
from eval.benchmark import Item, ask, load_benchmark
from eval.metrics import table_of
from eval.results import headline, item_score
from eval.suite import FOLDER, load_suite
from mediflow.clinic.patients import draw_patients
from mediflow.clinic.twins_neighbours import write_neighbours

NAMES = ("radqa", "clip", "medqa", "ner", "radiology_summary", "triage")
SIZE = 160
NORMAL = "No acute finding."


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Item]]:
    """The test items of each twin."""
    folder = tmp_path_factory.mktemp("twins")
    drawn = {
        split: draw_patients(70 + seed, size) for seed, (split, size) in enumerate([("train", 16), ("test", SIZE)])
    }
    write_neighbours(folder, drawn, 3)
    return {name: load_benchmark(name).load(folder / name, "test").items for name in NAMES}


def samples_of(name: str, items: Sequence[Item], outputs: Sequence[str]) -> list[dict[str, Any]]:
    benchmark = load_benchmark(name)
    return [sample_of(name, benchmark, item, "", output) for item, output in zip(items, outputs, strict=True)]


def value(name: str, items: Sequence[Item], outputs: Sequence[str], metric: str = "") -> float:
    rows = samples_of(name, items, outputs)
    table = table_of(rows, metric or headline(load_benchmark(name), rows))
    return float(table.value(table.counts.sum(0)))


def share(items: Sequence[Item], gold: str) -> float:
    return fmean(item.gold == gold for item in items)


@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_is_right(name: str, twins: dict[str, list[Item]]) -> None:
    """The gold texts earn 1 on the headline, are are readable and earn 1 each; there are 160 items, of facts 409."""
    items = twins[name]
    rows = samples_of(name, items, [item.gold for item in items])

    assert len(items) == (409 if name == "medqa" else SIZE)
    assert value(name, items, [item.gold for item in items]) == pytest.approx(1.0)
    assert not any(row["unreadable"] for row in rows)
    assert {round(item_score(row, load_benchmark(name).METRIC), 9) for row in rows} == {1.0}


@pytest.mark.parametrize("name", NAMES)
def test_writing_nothing_earns_nothing(name: str, twins: dict[str, list[Item]]) -> None:
    """Empty outputs are unreadable on every task, N/A and no label included, and the headline is 0."""
    outputs = [""] * len(twins[name])

    assert all(row["unreadable"] for row in samples_of(name, twins[name], outputs))
    assert value(name, twins[name], outputs) == 0.0


def test_constants_earn_their_share(twins: dict[str, list[Item]]) -> None:
    """N/A: the unanswerable half. First option: how often it is right. Normal: its share, no other shares a word."""
    radqa, medqa, reports = twins["radqa"], twins["medqa"], twins["radiology_summary"]

    assert value("radqa", radqa, ["N/A"] * SIZE) == share(radqa, "N/A") == 0.5
    assert value("radqa", radqa, ["N/A"] * SIZE, "squad2_f1_answerable") == 0.0
    assert value("radqa", radqa, ["N/A"] * SIZE, "no_answer_recall") == 1.0
    first = [item.options[0] for item in medqa]
    assert value("medqa", medqa, first) == fmean(item.gold == item.options[0] for item in medqa)
    assert value("radiology_summary", reports, [NORMAL] * SIZE) == pytest.approx(share(reports, NORMAL))
    assert 0.1 < share(reports, NORMAL) < 0.9


def test_constant_labels_earn_what_the_formulas_say(twins: dict[str, list[Item]]) -> None:
    """No entity and no label: 0. One label of share p for all: F1 2p / (1 + p), a seventh of that in the macro mean."""
    clip, ner = twins["clip"], twins["ner"]
    label = "Lab-related followup"
    p = fmean(label in item.truth for item in clip)
    true = sum(len(item.truth) for item in clip)

    assert value("ner", ner, ["[]"] * SIZE) == 0.0
    assert value("clip", clip, ["none"] * SIZE) == value("clip", clip, ["none"] * SIZE, "f1_micro") == 0.0
    assert value("clip", clip, [label] * SIZE) == pytest.approx(2 * p / (1 + p) / 7)
    assert value("clip", clip, [label] * SIZE, "f1_micro") == pytest.approx(2 * p * SIZE / (SIZE + true))


def test_the_commonest_level_for_all_earns_its_share(twins: dict[str, list[Item]]) -> None:
    """Accuracy p, macro F1 a fifth of 2p / (1 + p), kappa 0, and the shares above and below it as triage errors."""
    items = twins["triage"]
    counts = Counter(int(item.gold) for item in items)
    level, count = counts.most_common(1)[0]
    p, outputs = count / SIZE, [str(level)] * SIZE

    assert value("triage", items, outputs) == p
    assert value("triage", items, outputs, "f1_macro") == pytest.approx(2 * p / (1 + p) / 5)
    assert value("triage", items, outputs, "qwk") == pytest.approx(0.0, abs=1e-12)
    assert value("triage", items, outputs, "under_triage") == sum(counts[n] for n in range(1, level)) / SIZE
    assert value("triage", items, outputs, "over_triage") == sum(counts[n] for n in range(level + 1, 6)) / SIZE


def test_random_answers_earn_chance(twins: dict[str, list[Item]]) -> None:
    """One in four options, one in five levels; and every label with a chance of one half: all within 4 sd."""
    rng = random.Random(0)
    medqa, triage, clip = twins["medqa"], twins["triage"], twins["clip"]
    labels = load_benchmark("clip").LABELS  # type: ignore[attr-defined]
    drawn = [", ".join(label for label in labels if rng.random() < 0.5) or "none" for _ in clip]
    true = sum(len(item.truth) for item in clip)
    levels = [str(rng.randint(1, 5)) for _ in triage]

    assert near(value("medqa", medqa, [rng.choice(item.options) for item in medqa]), 1 / 4, SIZE)
    assert near(value("triage", triage, levels), 1 / 5, SIZE)
    assert near(value("triage", triage, levels, "under_triage"), fmean((5 - int(t.gold)) / 5 for t in triage), SIZE)
    assert abs(value("triage", triage, levels, "qwk")) < 4 / math.sqrt(SIZE)
    # Half of the true labels are hit, half of all seven are said: T / (3.5 n + T).
    expected = true / (3.5 * SIZE + true)
    assert abs(value("clip", clip, drawn, "f1_micro") - expected) < 4 * math.sqrt(true / 4) * 2 / (3.5 * SIZE + true)


def near(found: float, chance: float, n: int) -> bool:
    """Within four standard deviations of a binomial share."""
    return abs(found - chance) < 4 * math.sqrt(chance * (1 - chance) / n)


@pytest.mark.parametrize("name", ["radqa", "radiology_summary", "triage"])
def test_permuted_golds_fall_to_the_mean_of_all_pairs(name: str, twins: dict[str, list[Item]]) -> None:
    """The golds of other items earn what any gold earns on any item, on average (± 4 sd), far below the oracle."""
    items, benchmark = twins[name], load_benchmark(name)
    outputs = Counter(item.gold for item in items)
    pairs: list[float] = []
    for gold, of_gold in Counter((item.gold, json.dumps(item.truth)) for item in items).items():
        like = next(item for item in items if (item.gold, json.dumps(item.truth)) == gold)
        for output, times in outputs.items():
            score = benchmark.score(benchmark.parse(output, like), like)[benchmark.METRIC]
            pairs += [score] * (of_gold * times)
    found = value(name, items, permuted(items))

    assert len(pairs) == SIZE**2
    assert abs(found - fmean(pairs)) < 4 * pstdev(pairs) / math.sqrt(SIZE)
    assert found < 0.7


@pytest.mark.parametrize(("name", "metric"), [("ner", "ner_f1_strict"), ("clip", "f1_micro")])
def test_permuted_golds_keep_totals_and_lose_hits(name: str, metric: str, twins: dict[str, list[Item]]) -> None:
    """As many are said as are true, so F1 is hits by truths; hits fall to the mean of all pairs (± 4 sd)."""
    items = twins[name]
    pairs = [float((Counter(map(str, a.truth)) & Counter(map(str, b.truth))).total()) for a in items for b in items]
    each = sum(len(item.truth) for item in items) / SIZE
    found = value(name, items, permuted(items), metric)

    assert abs(found - fmean(pairs) / each) < 4 * pstdev(pairs) / math.sqrt(SIZE) / each
    assert found < 0.4


def test_letters_of_other_questions_are_right_by_chance(twins: dict[str, list[Item]]) -> None:
    """Of permuted letters the share that agrees is the sum of their squared shares, about one in four."""
    items = twins["medqa"]
    letters = [item.options.index(item.gold) for item in items]
    moved = random.Random(1).sample(letters, len(letters))
    chance = sum((count / len(letters)) ** 2 for count in Counter(letters).values())
    found = value("medqa", items, [item.options[letter] for item, letter in zip(items, moved, strict=True)])

    assert near(found, chance, SIZE)
    assert chance == pytest.approx(0.25, abs=0.02)


def permuted(items: Sequence[Item]) -> list[str]:
    return random.Random(1).sample([item.gold for item in items], len(items))


def test_kappa_is_blind_to_the_dangerous_direction() -> None:
    """All one level too relaxed or too urgent: the same kappa, but under-triage is 0.9 or 0."""
    golds = [1] * 10 + [2] * 20 + [3] * 40 + [4] * 20 + [5] * 10
    items = [Item(str(n), str(n), ask("", ""), str(gold)) for n, gold in enumerate(golds)]
    relaxed, urgent = ([str(min(5, max(1, gold + step))) for gold in golds] for step in (1, -1))
    kappas = [value("triage", items, outputs, "qwk") for outputs in (relaxed, urgent)]

    assert kappas[0] == pytest.approx(kappas[1])
    # Seen: 90 by one step. By chance: the two variances and the squared distance of the means.
    assert kappas[0] == pytest.approx(1 - 90 / (100 * (1.2 + 0.89 + 0.9**2)))
    assert [value("triage", items, outputs, "under_triage") for outputs in (relaxed, urgent)] == [0.9, 0.0]
    assert [value("triage", items, outputs, "over_triage") for outputs in (relaxed, urgent)] == [0.0, 0.9]
    assert value("triage", items, relaxed) == value("triage", items, urgent) == pytest.approx(0.1)


def test_not_to_answer_hard_cases_does_not_help(twins: dict[str, list[Item]]) -> None:
    """An unreadable level is neither under- nor over-triage; it is wrong, and costs more kappa than a near miss."""
    items = twins["triage"]
    near_miss = [str(min(5, int(item.gold) + 1)) if item.gold == "1" else item.gold for item in items]
    silent = ["I cannot say." if item.gold == "1" else item.gold for item in items]

    assert value("triage", items, silent, "under_triage") == value("triage", items, silent, "over_triage") == 0.0
    assert value("triage", items, silent) == value("triage", items, near_miss) < 1.0
    assert value("triage", items, silent, "qwk") < value("triage", items, near_miss, "qwk") - 0.05
    assert value("triage", items, silent, "f1_macro") == pytest.approx(0.8)


def test_the_suite_names_all_six() -> None:
    """eval/suites/neighbours.yml asks MedQA by letter, also written; texts are scored in the others."""
    suite = load_suite(FOLDER / "neighbours.yml", dict.fromkeys(NAMES, Path()))

    assert set(suite.benchmarks) == set(NAMES)
    assert (suite.benchmarks["medqa"].choice, suite.benchmarks["medqa"].generate) == ("letter", True)

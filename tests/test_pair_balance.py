"""What a model could learn in place of the error, which answers are rejected and which side is longer, is even."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mediflow.curation.card import write_pair_card
from mediflow.pairing.lengths import Balance, balance_lengths, log_ratio, summarise_lengths
from medsmith.answer_balance import (
    SWAPPED,
    balance_answers,
    count_answers,
    find_difference,
    largest_difference,
)
from medsmith.records import Instruction


def pair(number: int, chosen: str, rejected: str, task: str = "qa", row: int | None = None) -> Instruction:
    return Instruction(
        id=f"{number:04}",
        instruction=f"Answer the {task}.",
        input=f"Note {number if row is None else row}.",
        output=chosen,
        rejected_output=rejected,
        error_type="factual_inaccuracy",
        task_type=task,
        input_data="note",
        output_format="plain_text",
        difficulty_level="low",
        quality=3.0,
    )


def pairs_of(*answers: tuple[str, str], task: str = "qa") -> list[Instruction]:
    return [pair(number, *both, task=task) for number, both in enumerate(answers)]


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("Yes.", "no", ("", "yes", "no")),
        ('{"label": "YES"}', '{"label": "no"}', ("", "yes", "no")),
        ('{"score": 2, "missing": []}', '{"score": 3, "missing": []}', ("score", "2", "3")),
        ('{"a": {"b": 2}, "c": 1}', '{"a": {"b": 3}, "c": 1}', ("a/b", "2", "3")),
        ('{"score": 2, "missing": []}', '{"score": 3, "missing": ["x"]}', None),
        ('{"score": 2}', "no JSON", None),
        ("a long answer of six words", "no", None),
    ],
)
def test_a_pair_differs_in_one_short_value_or_is_not_counted(chosen: str, rejected: str, expected: Any) -> None:
    """JSON with one value counts as that value; with several it counts as the one that differs."""
    found = find_difference(pair(0, chosen, rejected))
    said = found and (found.key(found.chosen)[1], found.key(found.chosen)[2], found.key(found.rejected)[2])
    assert (said or None) == expected


def test_counts_are_those_of_a_childs_table() -> None:
    """Yes is chosen twice and rejected once, of its own task only."""
    pairs = [*pairs_of(("yes", "no"), ("yes", "perhaps"), ("no", "yes")), pair(9, "yes", "no", "other")]
    assert count_answers(pairs) == {
        ("other", ""): {"no": (0, 1), "yes": (1, 0)},
        ("qa", ""): {"yes": (2, 1), "no": (1, 1), "perhaps": (0, 1)},
    }
    assert largest_difference(count_answers(pairs)) == 1 and largest_difference({}) == 0


def lopsided(seed: int, size: int = 120) -> list[Instruction]:
    """Three labels, sides and numbers, in prose and JSON; flaws are drawn as a careless teacher draws them."""
    rng = random.Random(seed)
    found = []
    for number in range(size):
        values = rng.choice((["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], ["left", "right"], ["4", "7", "9", "-1"]))
        good = rng.choices(values, range(1, len(values) + 1))[0]
        bad = next(value for value in values if value != good) if rng.random() < 0.8 else "possibly " + good
        if rng.random() < 0.5:
            good, bad = (json.dumps({"answer": int(x) if x.lstrip("-").isdigit() else x}) for x in (good, bad))
        found.append(pair(number, good, bad, rng.choice(("qa", "nli")), row=number // 2))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_every_answer_is_rejected_as_often_as_it_is_chosen(seed: int) -> None:
    """Within one, whatever the flaws were: few pairs are lost, none is made twice, none rejects its own answer."""
    pairs = lopsided(seed)
    assert largest_difference(count_answers(pairs)) > 5
    made = balance_answers(pairs, 0, swap=True)
    assert largest_difference(count_answers(made.kept)) <= 1
    assert len(made.kept) + len(made.dropped) == len(pairs) and len(made.kept) > 70
    assert len({(one.task_type, one.input, one.output, one.rejected_output) for one in made.kept}) == len(made.kept)
    assert all(one.rejected_output != one.output for one in made.kept)
    sides = {"left", "right"}
    for one in made.kept:
        found = find_difference(one)
        assert found is not None
        if one.error_type == SWAPPED and found.chosen in sides:
            assert found.rejected in sides, "a wrong side is a side"
        if one.error_type == SWAPPED and isinstance(found.chosen, int):
            assert isinstance(found.rejected, int), "a number stands where numbers stand"
    assert made == balance_answers(pairs, 0, swap=True)


def test_a_flaw_that_keeps_the_balance_stays() -> None:
    """Pairs that are even already come back as they were, in their order."""
    pairs = pairs_of(
        ("yes", "no"), ("no", "yes"), ("left", "right"), ("right", "left"), ("a long one of six words", "x")
    )
    made = balance_answers(pairs, 0, swap=True)
    assert made.kept == pairs and not made.swapped and not made.dropped
    assert made.even == {"0000", "0001", "0002", "0003"}


def test_an_answer_that_most_rows_have_cannot_be_even_and_loses_rows() -> None:
    """Nine times yes and once no: two pairs can be even, and the others go, each with its reason."""
    pairs = [
        replace(one, quality=float(number)) for number, one in enumerate(pairs_of(*[("yes", "no")] * 9, ("no", "yes")))
    ]
    made = balance_answers(pairs, 0, swap=True)
    counts = count_answers(made.kept)["qa", ""]
    assert counts == {"yes": (2, 1), "no": (1, 2)} or counts == {"yes": (1, 1), "no": (1, 1)}
    assert len(made.kept) + len(made.dropped) == 10
    assert {reason for _, reason in made.dropped} == {"yes over no"}


def test_a_models_own_answers_are_dropped_and_never_swapped() -> None:
    """Without swapping the kept pairs are among the given ones, and even."""
    pairs = lopsided(3)
    made = balance_answers(pairs, 0, swap=False)
    assert largest_difference(count_answers(made.kept)) <= 1 and not made.swapped
    assert set(made.kept) <= set(pairs) and made.kept


def test_a_json_answer_keeps_its_layout_and_other_values() -> None:
    """Only the one value changes; indentation stays."""
    first = json.dumps({"score": 2, "note": "ok"}, indent=2)
    second = json.dumps({"score": 4, "note": "ok"})
    bad = [json.dumps({"score": 9, "note": "ok"}), json.dumps({"score": 2, "note": "ok"})]
    made = balance_answers(pairs_of((first, bad[0]), (second, bad[1])), 0, swap=True)
    assert made.kept[0].rejected_output == '{\n  "score": 4,\n  "note": "ok"\n}'
    assert made.kept[1].rejected_output == bad[1] and made.swapped == 1


# --- lengths ---------------------------------------------------------------------------------------------------------


def with_lengths(*ratios: float) -> list[Instruction]:
    return [
        replace(pair(number, "x" * 100, "y" * round(100 * ratio)), error_type=f"type{number % 2}")
        for number, ratio in enumerate(ratios)
    ]


def test_extremes_go_and_both_sides_become_even() -> None:
    """Nine times longer goes as extreme; of the longer ones, which are too many, the farthest go first; order stays."""
    pairs = with_lengths(1.0, 9.0, 1.0, 3.0, 0.5, 2.0, 1.5, 1.0, 1.0)
    kept, dropped = balance_lengths(pairs, Balance(max_ratio=4.0, tolerance=0.03, max_dropped=0.5))
    assert [(one.row.id, one.reason) for one in dropped] == [("0001", "length_extreme"), ("0003", "length_balance")]
    assert [one.id for one in kept] == ["0000", "0002", "0004", "0005", "0006", "0007", "0008"]
    before = summarise_lengths(pairs)
    assert before["mean_log"] == pytest.approx(sum(log_ratio(one) for one in pairs) / 9, abs=1e-6)
    assert (before["longer"], before["shorter"]) == (4, 1)
    assert before["by_error_type"]["type1"]["geometric_mean"] == pytest.approx((9 * 3 * 2) ** 0.25, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_neither_side_is_longer_more_often_nor_by_more(seed: int) -> None:
    """From twice as many longer ones, and much longer: counts and the mean come near even, within the budget."""
    rng = random.Random(seed)
    pairs = with_lengths(*[rng.uniform(1.05, 3) for _ in range(80)], *[rng.uniform(0.6, 0.95) for _ in range(60)])
    kept, dropped = balance_lengths(pairs, Balance(max_dropped=0.6))
    after = summarise_lengths(kept)
    assert abs(after["longer"] - after["shorter"]) <= max(1, 0.02 * len(kept)) + 1
    assert abs(after["mean_log"]) <= 0.04
    assert len(kept) + len(dropped) == 140 and len(dropped) <= 0.6 * 140


def test_balancing_never_costs_more_than_allowed_and_leaves_even_answers_alone() -> None:
    """Even sets lose nothing, the limit on drops is kept, and pairs with balanced answers are no ballast."""
    even = with_lengths(1.0, 2.0, 0.5)
    assert balance_lengths(even, Balance()) == (even, [])
    long = with_lengths(*[2.0] * 20)
    kept, dropped = balance_lengths(long, Balance(max_dropped=0.25))
    assert (len(kept), len(dropped)) == (15, 5)
    assert balance_lengths(long, Balance(), {one.id for one in long}) == (long, [])


def test_the_card_counts_each_answer_on_both_sides(tmp_path: Path) -> None:
    """`chosen:rejected` by task, lengths by error type, and how far apart answers were."""

    class Settings:
        title, license = "Pairs", None

    pairs = pairs_of(("yes", "no"), ("yes", "no"), ("no", "yes"))
    facts = {
        "length_ratio": {"before": summarise_lengths(pairs), "after": summarise_lengths(pairs)},
        "answers": {"swapped": 2, "difference": {"before": 7, "after": 1}},
        "proof": {"factual_inaccuracy": Counter(other_answer=3)},
        "simulated": True,
        "licences": {},
    }
    write_pair_card(tmp_path / "README.md", Settings(), pairs, facts, count_answers(pairs))
    card = (tmp_path / "README.md").read_text()
    assert "| qa | 3 | no 1:2; yes 2:1 |" in card
    assert "up to 7 before balancing, by up to **1** after; 2 pairs" in card
    assert "| factual_inaccuracy | 3 | 3 of 3: other_answer 3 | 0.874 | 1 / 2 |" in card

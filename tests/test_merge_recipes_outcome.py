"""The best of a search beside the others: ties, fronts, failures, and what is written of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from medsmith.errors import UserError
from medsmith.records import read_jsonl
from merge_recipes.outcome import Trial, rank, summarise, write_outcome
from merge_recipes.validation import Question

ASKED = [Question(str(n), "t", "", "?", ("a", "b"), 0) for n in range(4)]
PARENTS = {"base": {"right": "0000"}, "expert": {"right": "1100"}}


def trial(number: int, right: str, *objectives: float, recipe: str = "") -> Trial:
    return Trial(number, recipe or str(number), {"t": number}, {}, {"right": right}, objectives)


def lost(number: int) -> Trial:
    return Trial(number, str(number), {"t": number}, {}, {"error": f"no model {number}"})


def test_equal_means_go_to_the_one_asked_first() -> None:
    """A tie is won by the earlier candidate, and its difference is exactly zero."""
    trials = [trial(0, "0011", 0.5), trial(1, "1110", 0.75), trial(2, "0111", 0.75)]
    ranked, failed = rank(trials, ["average"])
    assert [one.number for one in ranked] == [1, 2, 0] and failed == []
    summary = summarise(ranked, PARENTS, "base", ASKED, ["average"], 0)
    assert summary["runner_up"]["difference"] == 0.0 and summary["verdict"] == "no real difference"
    assert summary["runner_up"]["answers_that_differ"] == 2 and summary["no_real_difference"] == 2
    assert summary["over_base"]["difference"] == 0.75 and summary["parents"] == {"base": 0.0, "expert": 0.5}


def test_a_recipe_asked_twice_counts_once() -> None:
    """Of two candidates with the same recipe the first is kept; what failed is told apart."""
    ranked, failed = rank([trial(0, "1111", 1.0, recipe="a"), trial(1, "1111", 1.0, recipe="a"), lost(2)], ["average"])
    assert [one.number for one in ranked] == [0] and [one.number for one in failed] == [2]
    assert summarise(ranked, PARENTS, "base", ASKED, ["average"], 0)["runner_up"] is None
    with pytest.raises(UserError, match="every candidate failed; the first: no model 2"):
        rank([lost(2), lost(3)], ["average"])


def test_front_stands_before_what_is_beaten() -> None:
    """Of two objectives, both ends of the front come first; the one that is worse in both comes last."""
    trials = [trial(0, "", 0.9, 3.0), trial(1, "", 0.8, 1.0), trial(2, "", 0.85, 3.5), trial(3, "", 0.7, 0.5)]
    ranked, _ = rank(trials, ["average", "unevenness"])
    assert [one.number for one in ranked] == [0, 1, 3, 2]


def test_files_tell_of_all(tmp_path: Path) -> None:
    """Each candidate has its row, the failed ones last; an infinite score is null, and is left out of the picture."""
    trials = [trial(0, "1100", 0.5, 2.0), trial(1, "0000", 0.0, math.inf), trial(2, "1110", 0.75, 3.0), lost(3)]
    objectives = ["average", "unevenness"]
    ranked, failed = rank(trials, objectives)
    best = summarise(ranked, PARENTS, "base", ASKED, objectives, 0)
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        write_outcome(folder, best, ranked, failed, ASKED, objectives)
    rows = list(read_jsonl(tmp_path / "one" / "trials.jsonl"))
    assert [row["number"] for row in rows] == [2, 0, 1, 3]
    assert rows[2]["objectives"] == {"average": 0.0, "unevenness": None} and rows[3]["error"] == "no model 3"
    assert [row["number"] for row in read_jsonl(tmp_path / "one" / "front.jsonl")] == [2, 0]
    assert json.loads((tmp_path / "one" / "best.json").read_text()) == best
    assert (tmp_path / "one" / "history.png").read_bytes() == (tmp_path / "two" / "history.png").read_bytes()
    # The infinite one first of all: the picture still draws.
    turned = [trial(0, "0000", math.inf), trial(1, "1110", 0.5)]
    ranked, _ = rank(turned, ["unevenness"])
    write_outcome(
        tmp_path, summarise(ranked, PARENTS, "base", ASKED, ["unevenness"], 0), ranked, [], ASKED, ["unevenness"]
    )
    assert (tmp_path / "history.png").stat().st_size > 5000 and ranked[0].number == 1

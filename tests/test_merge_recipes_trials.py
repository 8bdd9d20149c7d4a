"""The loop of a search: rows are kept as they come, candidates told in their order, nothing measured twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from medsmith.errors import UserError
from medsmith.journal import Journal
from medsmith.progress import Bar
from merge_recipes.candidates import Job, Measured
from merge_recipes.samplers import build_sampler
from merge_recipes.space import Axis, Range
from merge_recipes.trials import Loop
from merge_recipes.validation import Question

RECIPE = {"parameters": {"t": 0.5}}
SPACE: dict[str, Any] = {"parameters.t": Range(low=0.0, high=1.0)}
QUESTIONS = [Question(str(n), "t", "", "?", ("a", "b"), 0) for n in range(10)]
BASE = {"right": "0" * 10}


class Team:
    """Answers as many questions as t tells, the last job of a round first; is killed after so many jobs."""

    def __init__(self, killed_after: int = 10**9) -> None:
        self.jobs: list[Job] = []
        self.killed_after = killed_after

    def __call__(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Measured]]:
        for place, job in reversed(list(enumerate(jobs))):
            if len(self.jobs) == self.killed_after:
                raise KeyboardInterrupt
            self.jobs.append(job)
            right = round(10 * json.loads(job.recipe)["parameters"]["t"]) if job.recipe else 0
            found = (
                {"error": "broken"}
                if job.parent == "broken" or right == 10
                else {"right": "1" * right + "0" * (10 - right)}
            )
            yield place, Measured(found, 0.5, 1.5)


def loop(folder: Path, team: Team, space: dict[str, Any] = SPACE, minutes: float | None = None) -> Loop:
    journal, bar = Journal(folder / "trials.jsonl"), Bar("search", total=9)
    return Loop(RECIPE, space, ["average"], QUESTIONS, "context", journal, bar, team, minutes)


def sampler(budget: int, batch: int = 3) -> Any:
    return build_sampler(
        "tpe", [Axis("parameters.t", (), 0.0, 1.0)], ["maximize"], 0, batch, {"parameters.t": 0.5}, budget
    )


def test_rows_are_kept_as_they_come_and_told_in_order(tmp_path: Path) -> None:
    """The last of a round is ready first and written first; the candidates keep the order of asking."""
    team = Team()
    search = loop(tmp_path, team)
    trials = search.measure_candidates(sampler(7), 7, 3, BASE)
    assert [trial.number for trial in trials] == list(range(7)) and trials[0].values == {"parameters.t": 0.5}
    written = [json.loads(line)["values"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    order = [2, 1, 0, 5, 4, 3, 6]
    assert written == [trials[number].values for number in order]
    for trial in trials:
        assert trial.objectives == (round(10 * trial.values["parameters.t"]) / 10,)
    assert search.spent.each() == {"candidates": 7, "seconds_to_make_each": 0.5, "seconds_to_measure_each": 1.5}
    assert search.bar.done == 7 and search.bar.note.startswith("best average 0.")


def test_a_kill_loses_what_is_in_flight_and_no_more(tmp_path: Path) -> None:
    """Killed in the second round, a search has measured just the rest when it ends, with the very same candidates."""
    whole = loop(tmp_path / "whole", Team()).measure_candidates(sampler(9), 9, 3, BASE)
    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path / "killed", Team(killed_after=5)).measure_candidates(sampler(9), 9, 3, BASE)
    assert len((tmp_path / "killed" / "trials.jsonl").read_text().splitlines()) == 5
    team = Team()
    again = loop(tmp_path / "killed", team).measure_candidates(sampler(9), 9, 3, BASE)
    assert again == whole and len(team.jobs) == 4
    # A larger budget goes on from there.
    more = Team()
    assert loop(tmp_path / "killed", more).measure_candidates(sampler(12), 12, 3, BASE)[:9] == whole
    assert len(more.jobs) == 3


def test_a_recipe_is_measured_once(tmp_path: Path) -> None:
    """Of two steps TPE asks for the same again and again; two recipes are measured, and the failed one is told so."""
    space: dict[str, Any] = {"parameters.t": Range(low=0.0, high=1.0, step=1.0)}
    asked = build_sampler("tpe", [Axis("parameters.t", (), 0.0, 1.0, 1.0)], ["maximize"], 0, 2, None, 12)
    team = Team()
    trials = loop(tmp_path, team, space).measure_candidates(asked, 12, 2, BASE)
    assert len(trials) == 12 and len(team.jobs) == 2 and len({trial.id for trial in trials}) == 2
    assert {trial.objectives for trial in trials} == {(0.0,), None}


def test_time_is_a_budget_too(tmp_path: Path) -> None:
    """Where there is no time, one round is measured all the same."""
    assert len(loop(tmp_path, Team(), minutes=1e-9).measure_candidates(sampler(9), 9, 3, BASE)) == 3


def test_parents_are_measured_once_and_must_be_models(tmp_path: Path) -> None:
    """Each parent has its row; one that cannot be measured ends the search by its name."""
    team = Team()
    rows = loop(tmp_path, team).measure_parents(["base", "expert"])
    assert rows["base"]["right"] == "0" * 10 and len(team.jobs) == 2
    assert loop(tmp_path, team).measure_parents(["base", "expert"]) == rows and len(team.jobs) == 2
    with pytest.raises(UserError, match="models.broken: broken"):
        loop(tmp_path, team).measure_parents(["base", "broken"])

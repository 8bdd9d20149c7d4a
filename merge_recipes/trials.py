"""The loop of a search: ask the sampler, measure what the journal does not have, tell the sampler.

Candidates are asked for in rounds and told in their order, whoever measures them and whenever each is ready. So a
search is a function of its settings and what was measured: one that was killed is asked again from the start, hears
what the journal says, and goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medsmith.errors import UserError
from merge_recipes.objectives import DIRECTIONS, measure
from merge_recipes.outcome import Trial
from merge_recipes.samplers import Sampler
from merge_recipes.space import Space, candidate
from merge_recipes.validation import Question

LOG = logging.getLogger(__name__)


@dataclass
class Spent:
    """How many candidates this process had measured, and the workers' seconds of making and of measuring them."""

    candidates: int = 0
    making: float = 0.0
    measuring: float = 0.0

    def each(self) -> dict[str, Any]:
        """Seconds a candidate, for the log."""
        count = max(1, self.candidates)
        return {
            "candidates": self.candidates,
            "seconds_to_make_each": round(self.making / count, 4),
            "seconds_to_measure_each": round(self.measuring / count, 4),
        }


@dataclass
class Loop:
    """A search under way. `context` is all that decides a score beside the recipe."""

    recipe: Mapping[str, Any]
    space: Space
    objectives: Sequence[str]
    questions: Sequence[Question]
    context: Any
    journal: Any
    bar: Any
    team: Any
    minutes: float | None = None
    spent: Spent = field(default_factory=Spent)
    began: float = field(default_factory=time.monotonic)

    def measure_parents(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The journal's row of every parent, for reference; what is missing is measured."""
        from medsmith.records import content_id
        from merge_recipes.candidates import Job

        keys = {name: content_id("parent", name, self.context) for name in names}
        missing = [name for name in names if keys[name] not in self.journal.rows]
        self.bar.advance(len(names) - len(missing))
        for place, found in self.team([Job("", name) for name in missing]):
            name = missing[place]
            if "error" in found.row:
                raise UserError(f"models.{name}: {found.row['error']}")
            self.journal.append({"id": keys[name], "parent": name, **found.row})
            self.bar.advance(note=name)
        return {name: self.journal.rows[keys[name]] for name in names}

    def measure_candidates(self, sampler: Sampler, budget: int, batch: int, base: Mapping[str, Any]) -> list[Trial]:
        """Every candidate in the order of asking, until the budget or the time is used up or the grid is at its end."""
        trials: list[Trial] = []
        while len(trials) < budget and not (trials and self._late()):
            asked = sampler.ask(min(batch, budget - len(trials)))
            if not asked:
                break
            round_ = [self._trial(len(trials) + place, values) for place, values in enumerate(asked)]
            self._measure(round_)
            for trial in round_:
                trial.row = dict(self.journal.rows[trial.id])
                if "error" not in trial.row:
                    found = (measure(name, trial.row, base, self.questions) for name in self.objectives)
                    trial.objectives = tuple(found)
            sampler.tell([(trial.values, trial.objectives) for trial in round_])
            trials += round_
            self.bar.advance(0, note=self._note(trials))
        return trials

    def _note(self, trials: Sequence[Trial]) -> str:
        """The best so far of the first objective."""
        name = self.objectives[0]
        better = max if DIRECTIONS[name] == "maximize" else min
        values = [trial.objectives[0] for trial in trials if trial.objectives]
        return f"best {name} {better(values):.4g}" if values else ""

    def _late(self) -> bool:
        return self.minutes is not None and time.monotonic() - self.began > 60 * self.minutes

    def _trial(self, number: int, values: dict[str, Any]) -> Trial:
        from medsmith.records import content_id

        recipe = candidate(self.recipe, self.space, values)
        return Trial(number, content_id(self.context, recipe), values, recipe)

    def _measure(self, trials: Sequence[Trial]) -> None:
        """Measure what the journal does not have, each recipe once; a row is written as soon as it is there."""
        from merge_recipes.candidates import Job

        new = list({trial.id: trial for trial in trials if trial.id not in self.journal.rows}.values())
        self.bar.advance(len(trials) - len(new))
        if not new:
            return
        for place, measured in self.team([Job(json.dumps(trial.recipe)) for trial in new]):
            trial = new[place]
            self.journal.append({"id": trial.id, "values": trial.values, **measured.row})
            self.spent.candidates += 1
            self.spent.making += measured.making
            self.spent.measuring += measured.measuring
            self.bar.advance()


def context_of(
    identity: Mapping[str, Any], measured_on: Sequence[Any], settings: Mapping[str, Any], seed: int
) -> list[Any]:
    """What decides a score beside the recipe: weights, data, types, library versions; not how files are named."""
    from medsmith.records import content_id

    inputs = {name: value for name, value in identity["inputs"].items() if name.startswith(("models.", "suite."))}
    asking = {"optuna", "cmaes"}  # these choose candidates and score none
    libraries = {name: version for name, version in identity["libraries"].items() if name not in asking}
    return [inputs, identity["settings"]["models"], libraries, content_id(*measured_on), dict(settings), seed]

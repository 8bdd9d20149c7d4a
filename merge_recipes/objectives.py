"""What a search looks for, from what a candidate was measured at. All on validation data; test data is not for this.

* `average`: the mean over topics of accuracy on the validation questions (the paper's objective, section 3.1.4).
* `margin`: how much likelier the right option is than the best wrong one, in nats a token: accuracy without its steps.
* `datasets_gained`: the topics on which the candidate is strictly better than the base (the paper's #DG).
* `unevenness`: the sample standard deviation of the gains over the base, by the size of their mean (the paper's CV).
  Gains whose mean is not above zero are no gains: infinitely uneven.
* `loss`: the mean negative log-likelihood of held-out documents, in nats a byte.
* `suite`: the average of an evaluation suite, run as `eval.run` would be by hand.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from merge_recipes.validation import Difference, Question, Score, tally

ObjectiveName = Literal["average", "margin", "datasets_gained", "unevenness", "loss", "suite"]

DIRECTIONS: dict[str, str] = {
    "average": "maximize",
    "margin": "maximize",
    "datasets_gained": "maximize",
    "unevenness": "minimize",
    "loss": "minimize",
    "suite": "maximize",
}
RESAMPLES = 2000

Row = Mapping[str, Any]
"""What the journal holds of a candidate: right, margins, losses, suite and suite_scores; or error."""

OF_ITEMS = ("average", "margin", "loss", "suite")
"""The objectives that are means of items."""


class Items(NamedTuple):
    """What an objective is the mean of: one value an item, and the stratum (topic) that each belongs to."""

    values: np.ndarray[Any, np.dtype[np.float64]]
    strata: list[str]


def measure(name: str, row: Row, base: Row, questions: Sequence[Question]) -> float:
    """One objective of a candidate."""
    if name in ("average", "margin", "loss"):
        items = items_of(name, row, questions)
        return _mean(items.values, items.strata)
    if name == "suite":
        return float(row["suite"])
    gains = gains_of(tally(row["right"], questions), tally(base["right"], questions))
    return float(sum(gain > 0 for gain in gains)) if name == "datasets_gained" else unevenness(gains)


def items_of(name: str, row: Row, questions: Sequence[Question]) -> Items:
    """The values whose mean an objective is; for those that are no mean of items, right and wrong answers."""
    if name == "loss":
        return Items(np.array(row["losses"], float), ["document"] * len(row["losses"]))
    if name == "suite":
        scores = row["suite_scores"]
        strata = [benchmark for benchmark, values in scores.items() for _ in values]
        return Items(np.array([value for values in scores.values() for value in values], float), strata)
    topics = [question.topic for question in questions]
    if name == "margin":
        return Items(np.array(row["margins"], float), topics)
    return Items(np.array([int(digit) for digit in row["right"]], float), topics)


def items_named(name: str) -> str:
    """The objective whose items items_of gives."""
    return name if name in OF_ITEMS else "average"


def gains_of(score: Score, base: Score) -> list[float]:
    """The gain over the base on each topic."""
    return [score.topics[topic] - base.topics[topic] for topic in score.topics]


def unevenness(gains: Sequence[float]) -> float:
    """CV of the paper (ddof=1 fits its printed values): infinite where nothing was gained on the mean."""
    mean = sum(gains) / len(gains)
    if mean <= 0 or len(gains) < 2:
        return math.inf
    return statistics.stdev(gains) / mean


def compare(name: str, first: Row, others: Sequence[Row], questions: Sequence[Question], seed: int) -> list[Difference]:
    """The paired difference of a candidate and each other one, with its 95% interval.

    Items are drawn again within their stratum, the same ones for all candidates.
    """
    if not others:
        return []
    one = items_of(name, first, questions)
    gaps = np.stack([one.values - items_of(name, row, questions).values for row in others])
    generator = np.random.default_rng(seed)
    strata = np.array(one.strata)
    names = sorted(set(one.strata))
    means, values = np.zeros((len(others), RESAMPLES)), np.zeros(len(others))
    for stratum in names:
        own = gaps[:, strata == stratum]
        count = own.shape[1]
        # How often each item is drawn in each resample.
        drawn = generator.integers(0, count, (RESAMPLES, count)) + count * np.arange(RESAMPLES)[:, None]
        times = np.bincount(drawn.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count)
        means += own @ times.T / (count * len(names))
        values += own.mean(axis=1) / len(names)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    return [
        Difference(round(float(value), 6), round(float(down), 6), round(float(up), 6))
        for value, down, up in zip(values, low, high, strict=True)
    ]


def front_of(values: Mapping[int, Sequence[float]], directions: Sequence[str]) -> list[int]:
    """The candidates that no other beats in one objective without losing in another."""
    signed = {
        number: [value if direction == "maximize" else -value for value, direction in zip(row, directions, strict=True)]
        for number, row in values.items()
    }

    def beaten(number: int) -> bool:
        mine = signed[number]
        return any(
            all(a >= b for a, b in zip(other, mine, strict=True))
            and any(a > b for a, b in zip(other, mine, strict=True))
            for other in signed.values()
        )

    return [number for number in signed if not beaten(number)]


def _mean(values: np.ndarray[Any, Any], strata: Sequence[str]) -> float:
    """The mean over strata of their means, so that a large topic does not drown a small one."""
    place = np.array(strata)
    names = sorted(set(strata))
    return float(sum(values[place == name].mean() for name in names) / len(names))

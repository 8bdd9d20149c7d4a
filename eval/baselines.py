"""What needs no model: an oracle, a constant and a random answer to every item, beside what they must score.

    python -m eval.baselines out=out/baselines suite=open_data benchmarks.medec=data/MEDEC

A number is worth what it is above these. And where a predictor's score is known beforehand (the share of a label, one
in four, the words that two texts share), it shows that file, parser, scorer and average do what they say: `expected`
is computed from the golds alone, `value` through all of them. Beside that stands which difference between two models so
many items can show, by benchmark and on the average (eval/power.py): to be read before models are evaluated. Writes
baselines.json and baselines.md.
"""

from __future__ import annotations

import logging
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BeforeValidator, Field

import medsmith.config
from eval.asking import Task, prepare, sample_of
from eval.benchmark import Item, load_benchmark
from eval.metrics import table_of
from eval.power import POWER, TURNING, detectable
from eval.results import headline, item_score, slice_mean
from eval.suite import find_suite, load_suite
from eval.tables import DataRef, resolve
from medsmith import run
from medsmith.command import run_command
from medsmith.progress import track
from medsmith.records import content_id, write_json

log = logging.getLogger("eval.baselines")

POOL = 20
"""So many golds, chosen by the hash of their items, are what the random predictor may say where answers are texts."""
MANY_LABELS = 8
"""Up to so many labels each is tried as the constant; beyond, the commonest gold alone."""
LONGEST_NAME = 16
UNBOUNDED = 10**9


class Config(medsmith.config.Config):
    """Baselines of one suite."""

    libraries: ClassVar = ("rouge_score",)

    suite: Annotated[Path, BeforeValidator(find_suite)] = Field(description="a name in eval/suites, or a YAML file")
    benchmarks: dict[str, DataRef] = Field(
        description="the published file or folder of each benchmark, or a hub data set as owner/name@revision"
    )
    limit: int | None = Field(None, ge=1, description="at most so many items of every benchmark")
    turning: float = Field(
        TURNING,
        gt=0,
        le=1,
        description="share of items on which two models are taken to differ, for what is detectable",
    )


class Expected(NamedTuple):
    """A score known beforehand, of which metric, and its standard deviation over draws (0: certain)."""

    metric: str
    value: float
    deviation: float


@dataclass(frozen=True)
class Predictor:
    """A name, what it says to an item, and what that must score where there is a formula."""

    name: str
    answer: Callable[[Item], str]
    expected: Expected | None


def main(config: Config) -> Path:
    """Score the three kinds of predictors on every benchmark."""
    with run.start(config, "eval.baselines") as this:
        suite = load_suite(config.suite, config.benchmarks)
        rows: list[dict[str, Any]] = []
        groups: dict[str, int] = {}
        for name, settings in track(suite.benchmarks.items(), "baselines", unit="benchmark"):
            path = resolve(name, config.benchmarks[name], load_benchmark(name).ACCESS)
            task = prepare(name, settings, path, config.limit, UNBOUNDED, suite.protocol)
            groups[name] = len({item.group or item.id for item in task.items})
            rows += [measure(task, predictor) for predictor in predictors(task.items, task.benchmark, config.seed)]
        power = {
            "turning": config.turning,
            "groups": groups,
            "benchmarks": {name: detectable([count], config.turning) for name, count in groups.items()},
            "average": detectable(list(groups.values()), config.turning),
        }
        write_json(this.folder / "baselines.json", {"protocol": suite.protocol, "rows": rows, "detectable": power})
        text = to_markdown(rows, suite.protocol) + power_lines(power)
        (this.folder / "baselines.md").write_text(text, encoding="utf-8")
        for line in text.splitlines():
            log.info("%s", line)
        return this.finish(rows=len(rows), off=sum(row["off"] for row in rows))


def predictors(items: Sequence[Item], benchmark: Any, seed: int) -> list[Predictor]:
    """The oracle, the constants worth knowing, and the random one."""
    answers = answers_of(benchmark)
    metric = "rouge1" if answers is None else "accuracy"
    pool = [item.gold for item in sorted(items, key=lambda item: content_id(item.id))[:POOL]]
    options = answers or _same(pool)
    found = [Predictor("oracle", lambda item: item.gold, Expected(metric, 1.0, 0.0))]
    constants: list[str] = []
    if answers is None:
        constants = pool[:1]
    elif items[0].options:
        found.append(Predictor("always the first", _first(answers), _share(items, answers)))
    else:
        golds = [label for label, _ in Counter(item.gold for item in items).most_common()]
        constants = golds if len(golds) <= MANY_LABELS else golds[:1]
    found += [_constant(text, items, metric) for text in constants]

    def draw(item: Item) -> str:
        return random.Random(f"{seed} {item.id}").choice(options(item))

    found.append(Predictor("random", draw, _expect(items, options, metric)))
    return found


def _constant(text: str, items: Sequence[Item], metric: str) -> Predictor:
    shown = text if len(text) <= LONGEST_NAME else "one gold for all"
    return Predictor(f"always {shown}", lambda item: text, _expect(items, lambda item: [text], metric))


def _same(pool: list[str]) -> Callable[[Item], list[str]]:
    return lambda item: pool


def _first(answers: Callable[[Item], list[str]]) -> Callable[[Item], str]:
    return lambda item: answers(item)[0]


def answers_of(benchmark: Any) -> Callable[[Item], list[str]] | None:
    """Every answer that an item may have, where they can be counted; None where an answer is a text."""
    if hasattr(benchmark, "answers"):
        return lambda item: list(benchmark.answers(item))
    if benchmark.MAX_NEW_TOKENS == 0:
        return lambda item: list(item.options)
    if benchmark.METRIC == "accuracy" and hasattr(benchmark, "LABELS"):
        return lambda item: list(benchmark.LABELS)
    return None


def _share(items: Sequence[Item], answers: Callable[[Item], list[str]]) -> Expected:
    return Expected("accuracy", sum(item.gold == answers(item)[0] for item in items) / len(items), 0.0)


def _expect(items: Sequence[Item], options: Callable[[Item], list[str]], metric: str) -> Expected:
    """Mean and deviation of a uniform draw from the options of each item, from golds and options alone."""
    mean = variance = 0.0
    for item in items:
        values = [_value(text, item.gold, metric) for text in options(item)]
        own = sum(values) / len(values)
        mean += own / len(items)
        variance += (sum(value * value for value in values) / len(values) - own * own) / len(items) ** 2
    return Expected(metric, mean, math.sqrt(max(0.0, variance)))


def _value(text: str, gold: str, metric: str) -> float:
    """Whether an answer is the gold, or ROUGE-1 by its formula: twice the shared words over all words."""
    if metric == "accuracy":
        return float(text == gold)
    said, true = (Counter(re.findall(r"[a-z0-9]+", part.lower())) for part in (text, gold))
    words = said.total() + true.total()
    return 2 * (said & true).total() / words if words else 0.0


def measure(task: Task, predictor: Predictor) -> dict[str, Any]:
    """One predictor through the same parser, scorer and average as a model."""
    samples = [sample_of(task.name, task.benchmark, item, "", predictor.answer(item)) for item in task.items]
    metric = headline(task.benchmark, samples)
    for row in samples:
        row["score"] = item_score(row, metric)
    table = table_of(samples, metric, slice_mean(task))
    row = {"benchmark": task.name, "predictor": predictor.name, "n": len(samples), "metric": metric}
    row |= {"value": float(table.value(table.counts.sum(0))), "unreadable": sum(one["unreadable"] for one in samples)}
    expected = predictor.expected
    if expected is None or not any(one["unreadable"] or expected.metric in one["scores"] for one in samples):
        return row | {"checked": None, "expected": None, "measured": None, "deviation": None, "off": False}
    same = table_of(samples, expected.metric)
    measured = float(same.value(same.counts.sum(0)))
    off = abs(measured - expected.value) > max(4 * expected.deviation, 1e-9)
    return row | {
        "checked": expected.metric,
        "expected": expected.value,
        "measured": measured,
        "deviation": expected.deviation,
        "off": off,
    }


def to_markdown(rows: Sequence[dict[str, Any]], protocol: str) -> str:
    """The table for people: headline, and the checked metric beside its closed form."""
    lines = [
        f"Protocol `{protocol}`. `expected` follows from the golds alone; ± is the deviation over draws.",
        "",
        "| benchmark | n | predictor | headline | value % | unreadable | checked | expected % | measured % |",
        "| --- | ---: | --- | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in rows:
        checked, expected, measured = row["checked"] or "", "", ""
        if row["expected"] is not None:
            spread = f" ± {100 * row['deviation']:.2f}" if row["deviation"] else ""
            expected = f"{100 * row['expected']:.2f}{spread}"
            measured = f"{100 * row['measured']:.2f}{' **off**' if row['off'] else ''}"
        lines.append(
            f"| {row['benchmark']} | {row['n']:,} | {row['predictor']} | {row['metric']} | {100 * row['value']:.2f} "
            f"| {row['unreadable']} | {checked} | {expected} | {measured} |"
        )
    return "\n".join(lines) + "\n"


def power_lines(power: dict[str, Any]) -> str:
    """Which differences can be seen, in points: by benchmark, and on their average."""
    parts = ", ".join(
        f"{name} {100 * size:.1f} ({power['groups'][name]:,})" for name, size in power["benchmarks"].items()
    )
    return (
        f"\nDetectable between two models that differ on {power['turning']:.0%} of the items, paired, with {POWER:.0%} "
        f"power, in points (independent items): {parts}; **average {100 * power['average']:.1f}**.\n"
    )


if __name__ == "__main__":
    run_command(main, Config)

"""How much of a teacher's score does a student reach? A table of two evaluations, benchmark by benchmark.

    medsmith eval.relative out/eval/student out/eval/teacher

Writes relative.md and relative.json: both scores, 100 times student over teacher with the 95 % interval of a paired
bootstrap over whole groups, items, and the metric's id. A ratio has a meaning only where 0 is nothing and more is
better, so other metrics (a kappa, a loss, BERTScore, whose zero nobody scores) have none, and it is said why. Ratios of
different metrics are not averaged. Refused are evaluations of other items, prompts, metrics or settings, and items that
one of the two lacks a score for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

import medsmith.config
from eval.compare import check_alike, check_items, samples_of
from eval.metrics import composite, find_metric, table_of
from eval.statistics import Table, draw
from medsmith import run
from medsmith.command import run_command
from medsmith.config import execution
from medsmith.errors import UserError
from medsmith.records import read_json, write_json

log = logging.getLogger("eval.relative")

FLOORED = {"bertscore_f1": "nobody scores near 0 on it"}
"""Metrics that could be 0 by their bounds, and never are."""

MARKS = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{3,20}\]|\b(?:system|user|assistant|human|model)\b:?", re.IGNORECASE)
"""What chat templates put around turns. The words go from both sides, so a prompt that has them is not refused."""

DIGEST = "sha256:"


class Config(medsmith.config.Config):
    """Two finished evaluations of one suite."""

    positional: ClassVar = ("student", "teacher")

    out: Path = execution(Path("out/relative"), "the folder that is written")
    student: Path = Field(description="a folder of eval.run")
    teacher: Path = Field(description="a folder of eval.run on the same suite, data and limit")
    check_prompts: bool = Field(True, description="refuse prompts that differ by more than their chat templates' marks")
    resamples: int = Field(10_000, ge=100, description="of the bootstrap")


class Relative(NamedTuple):
    """100 times student over teacher, and between what it lies; None where there is no such ratio, and why."""

    percent: float | None
    low: float | None
    high: float | None
    why_not: str


def main(config: Config) -> Path:
    """Write the table into config.out."""
    with run.start(config, "eval.relative") as this:
        student, teacher = (read_json(folder / "result.json") for folder in (config.student, config.teacher))
        only = sorted(student["benchmarks"].keys() ^ teacher["benchmarks"].keys())
        if only or not student["benchmarks"]:
            raise UserError(
                f"only one of the two was asked {', '.join(only) or 'anything'}; evaluate both on one suite"
            )
        check_alike(student, teacher, list(student["benchmarks"]))
        ours, theirs = samples_of(config.student), samples_of(config.teacher)
        entries = {}
        for name, entry in student["benchmarks"].items():
            check_items(name, ours.get(name, {}), theirs.get(name, {}))
            if config.check_prompts:
                check_prompts(name, ours[name], theirs[name])
            pair = tables(name, ours[name], theirs[name], entry["metric"], entry["slice_mean"])
            entries[name] = {
                "metric": entry["metric"],
                "definition": find_metric(entry["metric"]).definition,
                "n": len(pair[0].ids),
                "groups": len(set(pair[0].groups)),
                "student": pair[0].observed(),
                "teacher": pair[1].observed(),
                **relative(*pair, entry["metric"], config.seed, config.resamples)._asdict(),
            }
        found = {
            "student": student["model"],
            "teacher": teacher["model"],
            "protocol": student["protocol"],
            "simulated": any(entry.get("simulated") for entry in student["benchmarks"].values()),
            "benchmarks": entries,
        }
        page = render(found)
        write_json(this.folder / "relative.json", found)
        (this.folder / "relative.md").write_text(page, encoding="utf-8")
        log.info("\n%s", page)
        return this.finish(items=sum(entry["n"] for entry in entries.values()))


def relative(student: Table, teacher: Table, metric: str, seed: int = 0, resamples: int = 10_000) -> Relative:
    """100 times the one value over the other; of draws of the same groups for both, the 2.5 and 97.5 percentiles."""
    why = no_ratio(metric)
    if not why and teacher.observed() <= 0:
        why = "the teacher scores 0"
    if why:
        return Relative(None, None, None, why)
    percent = 100 * student.observed() / teacher.observed()
    ours, theirs = draw([student, teacher], seed, resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = 100 * ours / theirs
    # Where the teacher may as well score nothing, the ratio may be anything.
    if not np.isfinite(draws).all() or (theirs <= 0).mean() > 0.025:
        return Relative(percent, None, None, "")
    low, high = np.quantile(draws, (0.025, 0.975))
    return Relative(percent, max(0.0, float(low)), float(high), "")


def no_ratio(metric: str) -> str:
    """Why a metric's values have no ratio; empty where they have one."""
    for part in composite(metric)[1]:
        found = find_metric(part)
        if part in FLOORED:
            return f"{part}: {FLOORED[part]}"
        if found.loss:
            return f"{part}: lower is better"
        if found.bounds[0] < 0:
            return f"{part}: its zero is not the least"
    return ""


def tables(
    name: str, ours: Mapping[str, dict[str, Any]], theirs: Mapping[str, dict[str, Any]], metric: str, by_slice: bool
) -> tuple[Table, Table]:
    """The metric's tables of the same items; UserError where one side lacks the score of an item."""
    student, teacher = (table_of([rows[key] for key in ours], metric, by_slice) for rows in (ours, theirs))
    lacking = sorted(set(student.ids) ^ set(teacher.ids))
    if lacking:
        raise UserError(
            f"{name}: item '{lacking[0]}' has its {metric} in only one of the two ({len(lacking)} such); evaluate again"
        )
    return student, teacher


def check_prompts(name: str, ours: Mapping[str, dict[str, Any]], theirs: Mapping[str, dict[str, Any]]) -> None:
    """UserError where the two were asked in other words; the marks of chat templates are no words."""
    for key, row in ours.items():
        one, other = str(row["prompt"]), str(theirs[key]["prompt"])
        if one == other:
            continue
        if DIGEST in (one[: len(DIGEST)], other[: len(DIGEST)]):
            raise UserError(
                f"{name}: the prompts are withheld and their digests differ, as they do under another chat template; "
                "evaluate both with keep_text=true, or set check_prompts=false"
            )
        if words_of(one) != words_of(other):
            raise UserError(
                f"{name}: item '{key}' was asked in other words; evaluate both alike, or set check_prompts=false where "
                "only the chat templates differ"
            )


def words_of(prompt: str) -> list[str]:
    """A prompt's words without what chat templates put around turns."""
    return MARKS.sub(" ", prompt).split()


def render(found: Mapping[str, Any]) -> str:
    """The table to read."""
    lines = [f"# {found['student']} as a share of {found['teacher']}", ""]
    if found["simulated"]:
        lines += ["**Simulated data**: at least one benchmark is written by a simulation.", ""]
    lines += [f"Protocol `{found['protocol']}`. Scores in percent; relative: 100 × student / teacher.", ""]
    header = ("benchmark", "metric", "n", "teacher", "student", "relative (95 %)")
    lines += ["| " + " | ".join(header) + " |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name, entry in found["benchmarks"].items():
        scores = (f"{100 * entry[side]:.1f}" for side in ("teacher", "student"))
        groups = "" if entry["n"] == entry["groups"] else f" in {entry['groups']}"
        lines.append(f"| {name} | {entry['metric']} | {entry['n']}{groups} | {' | '.join(scores)} | {_cell(entry)} |")
    whys = [f"- {name}: {entry['why_not']}." for name, entry in found["benchmarks"].items() if entry["why_not"]]
    if whys:
        lines += ["", "No ratio (a ratio needs a true zero, and more must be better):", "", *whys]
    lines += ["", "Ratios of different metrics are on different scales: they have no mean."]
    return "\n".join(lines) + "\n"


def _cell(entry: Mapping[str, Any]) -> str:
    if entry["percent"] is None:
        return "–"
    if entry["low"] is None:
        return f"{entry['percent']:.1f} (no interval)"
    return f"{entry['percent']:.1f} ({entry['low']:.1f} to {entry['high']:.1f})"


if __name__ == "__main__":
    run_command(main, Config)

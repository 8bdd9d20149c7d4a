"""Averages by group of benchmarks (facts, tasks …), with paired gains over the baseline. Part of table.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval import statistics
from eval.report_inputs import Model
from eval.report_joint import Joint
from eval.statistics import holm, mark
from medsmith.errors import UserError


def group_averages(
    models: Sequence[Model], baseline: str, groups: Mapping[str, Sequence[str]], seed: int
) -> list[dict[str, Any]]:
    """{name, parts, models} of each group; by model the plain mean of its parts, and the gain over the baseline.

    A part is a benchmark, or one slice of it as `benchmark/slice`. Gains are paired by item and marked after Holm's
    correction over all of them, which are one family.

    Raises:
        UserError: a part that not every model was asked, or of which nothing can be said of chance.
    """
    found = [_group(models, baseline, name, parts, seed) for name, parts in groups.items()]
    gains = [cell["gain"] for group in found for cell in group["models"].values() if "gain" in cell]
    for gain, p in zip(gains, holm([gain["p"] for gain in gains]), strict=True):
        gain |= {"p_holm": p, "mark": mark(gain["value"], gain["low"], gain["high"], p)}
    return found


def _group(models: Sequence[Model], baseline: str, name: str, parts: Sequence[str], seed: int) -> dict[str, Any]:
    for part in parts:
        lacking = [model.name for model in models if part not in model.parts]
        if lacking:
            there = ", ".join(sorted(set.intersection(*(set(model.parts) for model in models))))
            raise UserError(f"groups: {name} names '{part}', which {lacking[0]} was not asked; all have {there}")
        if any(len(set(model.parts[part].groups)) < 2 for model in models):
            raise UserError(f"groups: all of '{part}' in {name} is about one document or patient; leave it out")
    joint = Joint(models, parts, seed)
    cells: dict[str, Any] = {}
    for model in models:
        average = statistics.average([model.parts[part] for part in parts], seed)
        cells[model.name] = statistics.plain(average)
        if model.name != baseline:
            cells[model.name]["gain"] = joint.contrast(joint.gain(model.name, baseline))._asdict()
    items = sum(len(models[0].parts[part].ids) for part in parts)
    return {"name": name, "parts": list(parts), "items": items, "models": cells}

"""The numbers of the report: scores, gains over the baseline, averages, #DG, CV, perplexity. All of table.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from eval import statistics
from eval.report_groups import group_averages
from eval.report_inputs import Model, corpus_key, is_simulated
from eval.report_joint import Contrast, Joint, Table, normal_p
from eval.statistics import datasets_gained, holm, mark, unevenness
from eval.summary import BEYOND
from medsmith.errors import UserError

PAPER_NAME = "MediPhi (ACL 2025)"
# Tables 2 to 4 of the paper: average in percent, #DG of 12, CV.
PAPER_ROWS: dict[tuple[str, str], tuple[float, int | None, float | None]] = {
    ("base", ""): (36.5, None, None),
    ("raw_expert", "guidelines"): (27.2, 4, 1.0),
    ("expert", "pubmed"): (37.7, 9, 1.8),
    ("expert", "clinical"): (39.6, 10, 2.0),
    ("expert", "medwiki"): (39.7, 10, 1.5),
    ("expert", "medcode"): (36.7, 5, 39.6),
    ("expert", "guidelines"): (39.2, 10, 1.8),
    ("merge", "taskarithmetic"): (39.4, 9, 1.9),
    ("merge", "ties"): (39.3, 7, 1.7),
    ("merge", ""): (39.3, 11, 1.5),
    ("sft", ""): (43.0, 9, 1.4),
    ("dpo", ""): (43.4, 9, 1.4),
    ("derived", "worst of the experts"): (34.5, 4, 1.9),
    ("derived", "mean of the experts"): (38.5, 7, 2.1),
    ("derived", "best of the experts"): (43.1, 11, 1.1),
}


def build_table(
    models: Sequence[Model], baseline: str, title: str, seed: int, groups: Mapping[str, Sequence[str]] | None = None
) -> tuple[dict[str, Any], Joint]:
    """Everything that table.json says but the findings, and the resampled scores that the findings are drawn from."""
    base = next(model for model in models if model.name == baseline)
    names = list(dict.fromkeys(name for model in models for name in model.result["benchmarks"]))
    shared = [name for name in names if all(name in model.samples for model in models)]
    if names and not shared:
        raise UserError("no benchmark was answered by all models, so there is no average; evaluate all with one suite")
    for model in models:
        _check_intervals(model)
    joint = Joint(models, shared, seed)
    corpora = list(dict.fromkeys(name for model in models for name in model.documents))
    rows = [_model_row(model, base, joint, corpora, seed) for model in models]
    derived = _derived(models, base, joint)
    return {
        "title": title,
        "simulated": is_simulated(models),
        "protocol": models[0].result.get("protocol"),
        "baseline": baseline,
        "benchmarks": [_benchmark(name, models, name in shared) for name in names],
        "corpora": [_corpus(name, models) for name in corpora],
        "models": rows,
        "derived": derived,
        "groups": group_averages(models, baseline, groups or {}, seed),
        "comparisons": _correct(rows),
    }, joint


def _check_intervals(model: Model) -> None:
    """UserError where a number would stand without its interval."""
    groups = {name: len(set(table.groups)) for name, table in model.tables.items()}
    for name, number in [*groups.items(), *((name, len(rows)) for name, rows in model.documents.items())]:
        if number < 2:
            raise UserError(
                f"'{model.name}': all of '{name}' is about one document or patient, so nothing can be said of chance; "
                "evaluate more of it, or leave it out of the suite"
            )


def paper_row(stage: str, name: str) -> tuple[float, int | None, float | None] | None:
    """(average, #DG, CV) of the like-named model of the paper, or of its stage where the paper has just one."""
    key = name if stage == "derived" else corpus_key(name)
    return PAPER_ROWS.get((stage, key)) or PAPER_ROWS.get((stage, ""))


def _model_row(model: Model, base: Model, joint: Joint, corpora: Sequence[str], seed: int) -> dict[str, Any]:
    benchmarks = {}
    for name, result in model.result["benchmarks"].items():
        cell = {key: result[key] for key in ("value", "low", "high", "n", "unreadable")}
        cell |= {"readings": result.get("readings"), "written": _written(result)}
        if model is not base and name in base.samples:
            gain = statistics.plain(statistics.difference(base.tables[name], model.tables[name], seed))
            cell["gain"] = {key: gain[key] for key in ("value", "low", "high", "p", "test", "detectable")}
        benchmarks[name] = cell
    row: dict[str, Any] = {"name": model.name, "stage": model.stage, "parent": model.parent, "key": model.key}
    row["benchmarks"] = benchmarks
    row["average"] = _average(model, joint, seed)
    if model is not base:
        row |= _gain_summary(joint, joint.gain(model.name, base.name), _gains(joint, model.name, base.name))
    row["perplexity"] = {name: _perplexity(model, base, name, seed) for name in corpora if name in model.documents}
    return row


def _written(result: dict[str, Any]) -> dict[str, float] | None:
    """Of options that the model also wrote: how often rightly, and how often as it chose by likelihood."""
    metrics = result.get("metrics") or {}
    if "accuracy_written" not in metrics:
        return None
    return {key: metrics[f"{key}_written"]["value"] for key in ("accuracy", "agreement", "readable")}


def _average(model: Model, joint: Joint, seed: int) -> dict[str, Any] | None:
    """The interval that the evaluation gives where it averages the same benchmarks, else our own."""
    if not joint.benchmarks:
        return None
    stated = model.result.get("average")
    if stated and set(model.result["benchmarks"]) == set(joint.benchmarks):
        return {key: stated[key] for key in ("value", "low", "high")}
    found = statistics.average([model.tables[name] for name in joint.benchmarks], seed)
    return {key: statistics.plain(found)[key] for key in ("value", "low", "high")}


def _gains(joint: Joint, model: str, over: str) -> Any:
    a, b = joint.row(over), joint.row(model)
    return lambda table: table[..., b, :] - table[..., a, :]


def _gain_summary(joint: Joint, gain: Any, gains: Any) -> dict[str, Any]:
    """Average gain, #DG and CV of one row over the baseline, each with its interval."""
    if not joint.benchmarks:
        return {}
    return {
        "gain": joint.contrast(gain)._asdict(),
        "datasets_gained": _interval(joint.contrast(lambda table: datasets_gained(gains(table)))),
        "of": len(joint.benchmarks),
        "cv": _interval(joint.contrast(lambda table: unevenness(gains(table)))),
    }


def _derived(models: Sequence[Model], base: Model, joint: Joint) -> list[dict[str, Any]]:
    """The paper's three summaries over the SLERP experts: per benchmark the worst, the mean and the best of them."""
    places = [joint.row(model.name) for model in models if model.stage == "expert"]
    if len(places) < 2 or not joint.benchmarks:
        return []
    origin = joint.row(base.name)
    summaries = (("worst", np.min), ("mean", np.mean), ("best", np.max))
    return [_derived_row(f"{word} of the experts", function, places, origin, joint) for word, function in summaries]


def _derived_row(name: str, function: Any, places: list[int], origin: int, joint: Joint) -> dict[str, Any]:
    def chosen(table: Table) -> Any:
        return function(table[..., places, :], axis=-2)

    def gains(table: Table) -> Any:
        return chosen(table) - table[..., origin, :]

    def average(table: Table) -> Any:
        return chosen(table).mean(axis=-1)

    def average_gain(table: Table) -> Any:
        return gains(table).mean(axis=-1)

    cells = {}
    for column, benchmark in enumerate(joint.benchmarks):
        own = joint.contrast(partial(_column, chosen, column))
        gain = joint.contrast(partial(_column, gains, column))
        cells[benchmark] = {**_interval(own), "gain": gain._asdict()}
    summary = _gain_summary(joint, average_gain, gains)
    return {
        "name": name,
        "stage": "derived",
        "benchmarks": cells,
        "average": _interval(joint.contrast(average)),
        **summary,
    }


def _column(function: Callable[[Table], Any], column: int, table: Table) -> Any:
    return function(table)[..., column]


def _interval(contrast: Contrast) -> dict[str, float | None]:
    """Without the p, which says nothing of a count, a ratio or a score; JSON has no NaN."""
    values = contrast._asdict()
    return {key: values[key] if math.isfinite(values[key]) else None for key in ("value", "low", "high")}


def _perplexity(model: Model, base: Model, corpus: str, seed: int) -> dict[str, Any]:
    """Perplexity as the evaluation states it, and its change against the baseline on the very same documents.

    The change is exp of the summed difference in nats over the summed tokens; where the two models cut the text into
    other tokens, it is per byte, which is the same unit for both.
    """
    stated = model.result["perplexity"][corpus]
    own = corpus_key(model.name) == corpus_key(corpus) and model.stage in ("raw_expert", "expert")
    cell = {key: stated[key] for key in ("per_token", "low", "high", "per_byte", "documents", "tokens", "bytes")}
    cell["own"] = own
    if model is base or corpus not in base.documents:
        return cell
    ids = sorted(model.documents[corpus])
    mine, theirs = model.documents[corpus], base.documents[corpus]
    same_tokens = all(mine[key].tokens == theirs[key].tokens for key in ids)
    nats = [mine[key].nll - theirs[key].nll for key in ids]
    units = [mine[key].tokens if same_tokens else mine[key].bytes for key in ids]
    ratio = statistics.estimate(statistics.Table(ids, ids, np.array([nats, units], dtype=float).T), seed)
    value, low, high = (math.expm1(part) for part in ratio)
    p = normal_p(ratio.value, (ratio.high - ratio.low) / 3.92)
    cell["change"] = {"value": value, "low": low, "high": high, "p": p, "per": "token" if same_tokens else "byte"}
    return cell


def _correct(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Mark every comparison with the baseline: Holm's correction within each of the three families; their sizes."""
    families = {
        "scores": [cell["gain"] for row in rows for cell in row["benchmarks"].values() if "gain" in cell],
        "averages": [row["gain"] for row in rows if "gain" in row],
        "perplexity": [cell["change"] for row in rows for cell in row["perplexity"].values() if "change" in cell],
    }
    for name, family in families.items():
        for comparison, p in zip(family, holm([one["p"] for one in family]), strict=True):
            comparison["p_holm"] = p
            sign = -1 if name == "perplexity" else 1  # a lower perplexity is a gain
            ends = sorted((sign * comparison["low"], sign * comparison["high"]))
            comparison["mark"] = mark(sign * comparison["value"], ends[0], ends[1], p)
    for row in rows:
        if "datasets_gained" in row:
            marks = [cell["gain"]["mark"] for cell in row["benchmarks"].values() if "gain" in cell]
            row["datasets_gained"]["real"] = marks.count("gain")
    return {name: len(family) for name, family in families.items()}


def _benchmark(name: str, models: Sequence[Model], in_average: bool) -> dict[str, Any]:
    result = next(model.result["benchmarks"][name] for model in models if name in model.result["benchmarks"])
    known = {
        key: result.get(key) for key in ("version", "metric", "access", "licence", "simulated", "published", "part")
    }
    asked = {
        "beyond_the_limit": result.get("left_out", {}).get(BEYOND, 0),
        "shots": result.get("settings", {}).get("shots", 0),
        "not_run": result.get("not_run", []),
        "as_published": result.get("notes", {}).get("as_published"),
        # By model: how much fits is a matter of its tokenizer and context.
        "cut": {m.name: cut for m in models if (cut := m.result["benchmarks"].get(name, {}).get("truncated"))},
    }
    return {"name": name, "n": result["n"], **known, **asked, "in_average": in_average}


def _corpus(name: str, models: Sequence[Model]) -> dict[str, Any]:
    stated = next(model.result["perplexity"][name] for model in models if name in model.documents)
    return {"name": name, **{key: stated[key] for key in ("documents", "tokens", "bytes")}}

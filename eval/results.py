"""From samples to result.json: values with intervals, and what must be said beside them."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.scorers import ROUGE
from eval.statistics import bootstrap_mean, mean_of_means, ratio_interval
from medsmith.errors import UserError
from medsmith.intervals import Interval, wilson
from medsmith.records import Document, content_id, read_documents
from medsmith.run import find_record

if TYPE_CHECKING:
    from eval.run import Task


def summarise(
    tasks: list[Task], samples: list[dict[str, Any]], documents: list[dict[str, Any]], seed: int
) -> dict[str, Any]:
    """The parts of result.json that follow from samples and documents."""
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in samples:
        by_name[row["benchmark"]].append(row)
    benchmarks = {task.name: _benchmark(task, by_name[task.name], seed) for task in tasks}
    corpora: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in documents:
        corpora[row["corpus"]].append(row)
    average = None
    if tasks:
        parts = [([r["score"] for r in rows], [r["group"] for r in rows]) for rows in by_name.values()]
        average = mean_of_means(parts, seed)._asdict()
    perplexity = {name: _perplexity(rows, seed) for name, rows in corpora.items()}
    return {"benchmarks": benchmarks, "average": average, "perplexity": perplexity}


def read_corpus(path: Path, limit: int | None) -> list[Document]:
    """Held-out documents of a file, or of a corpus folder; at most `limit`, chosen by the hash of their ids."""
    file = path / "heldout.jsonl" if path.is_dir() else path
    rows = read_documents(file)
    if limit is not None:
        chosen = sorted(rows, key=lambda row: (content_id(row.id), row.id))[:limit]
        kept = {row.id for row in chosen}
        rows = [row for row in rows if row.id in kept]
    if not any(row.text for row in rows):
        raise UserError(f"{file} holds no text; a perplexity of nothing is an error")
    return [row for row in rows if row.text]


def _benchmark(task: Task, rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    assert len(rows) == len(task.items), f"{task.name}: an item has vanished"
    benchmark = task.benchmark
    record = find_record(task.path)
    simulated = bool(record and record["facts"].get("simulated"))
    made = dict(record["facts"].get("licences", {})) if record else {}
    return {
        "version": benchmark.VERSION,
        "metric": benchmark.METRIC,
        **_interval(rows, benchmark.METRIC, seed)._asdict(),
        "n": len(rows),
        "unreadable": sum(row["unreadable"] for row in rows),
        "truncated": sum(row["truncated"] for row in rows),
        "access": benchmark.ACCESS,
        # A file that a run of ours made came under other terms than the published set of that format.
        "licence": "; ".join(sorted(set(made.values()))) if made else benchmark.LICENCE,
        "published": record is None,
        "simulated": simulated,
        "settings": task.settings.model_dump(),
        "max_new_tokens": task.max_new_tokens,
        "left_out": dict(sorted(task.dropped.items())),
        "scores": _means(rows),
        "slices": _slices(rows, benchmark.METRIC, seed),
        "scorer": ROUGE if benchmark.METRIC.startswith("rouge") else "exact match of the parsed answer",
    }


def _interval(rows: list[dict[str, Any]], metric: str, seed: int) -> Interval:
    """Wilson's where items are right or wrong and each by itself, else a bootstrap over groups."""
    values = [row["score"] for row in rows]
    groups = [row["group"] for row in rows]
    if metric == "accuracy" and len(set(groups)) == len(groups):
        return wilson(sum(values), len(values))
    return bootstrap_mean(values, groups, seed)


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of every metric; an unreadable item counts 0."""
    names = sorted({name for row in rows for name in row["scores"]})
    return {name: math.fsum(row["scores"].get(name, 0.0) for row in rows) / len(rows) for name in names}


def _slices(rows: list[dict[str, Any]], metric: str, seed: int) -> dict[str, Any]:
    names = sorted({row["slice"] for row in rows})
    if names in ([], [""]):
        return {}
    parts = {name: [row for row in rows if row["slice"] == name] for name in names}
    return {name: {**_interval(part, metric, seed)._asdict(), "n": len(part)} for name, part in parts.items()}


def _perplexity(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    nll, tokens = [row["nll"] for row in rows], [row["tokens"] for row in rows]
    size = sum(row["bytes"] for row in rows)
    per_token = [math.exp(value) for value in ratio_interval(nll, tokens, seed=seed)]
    return {
        "per_token": per_token[0],
        "low": per_token[1],
        "high": per_token[2],
        # Comparable between models with different tokenizers, which perplexity per token is not.
        "per_byte": math.exp(sum(nll) / size),
        "documents": len(rows),
        "tokens": sum(tokens),
        "bytes": size,
    }

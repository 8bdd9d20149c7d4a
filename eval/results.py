"""From samples to result.json: values with intervals, and what must be said beside them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval import statistics
from eval.benchmark import COMPOSITE
from eval.metrics import find_metric, table_of
from eval.parts import find_part
from eval.statistics import Table
from medsmith.errors import UserError
from medsmith.records import Document, content_id, read_documents, read_json
from medsmith.run import find_record

if TYPE_CHECKING:
    from eval.asking import Task


def summarise(
    tasks: list[Task], samples: list[dict[str, Any]], documents: list[dict[str, Any]], seed: int
) -> dict[str, Any]:
    """The parts of result.json that follow from samples and documents."""
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in samples:
        by_name[row["benchmark"]].append(row)
    benchmarks = {task.name: _benchmark(task, by_name[task.name], seed) for task in tasks}
    for row in samples:
        row["score"] = item_score(row, benchmarks[row["benchmark"]]["metric"])
    corpora: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in documents:
        corpora[row["corpus"]].append(row)
    average = None
    if tasks:
        parts = [table_of(by_name[task.name], benchmarks[task.name]["metric"], slice_mean(task)) for task in tasks]
        average = statistics.plain(statistics.average(parts, seed))
    perplexity = {name: _perplexity(rows, seed) for name, rows in corpora.items()}
    return {"benchmarks": benchmarks, "average": average, "perplexity": perplexity}


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of an evaluation; UserError where the folder is another step's."""
    path = folder / "result.json"
    if not path.is_file():
        raise UserError(f"{folder} is no evaluation (no result.json); give a folder of eval.run")
    return dict(read_json(path))


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


def headline(benchmark: Any, samples: list[dict[str, Any]]) -> str:
    """The id of the headline; of a composite, `mean(...)` of those components that were computed.

    ROUNDED, of a published protocol: each component's mean is rounded before they are averaged.
    """
    if benchmark.METRIC != COMPOSITE:
        return str(benchmark.METRIC)
    computed = {name for row in samples for name in row["scores"]}
    parts = [name for name in benchmark.COMPONENTS if name in computed]
    form = "mean_of_rounded" if getattr(benchmark, "ROUNDED", False) else "mean"
    return f"{form}({', '.join(parts or benchmark.COMPONENTS)})"


def item_score(row: dict[str, Any], metric: str) -> float:
    """What one item earned on the headline; of a metric of summed counts, its value on this item's counts alone.

    Where nothing was there to find and nothing was claimed, F1 is 0/0: such an item is right.
    """
    table = table_of([row | {"weight": 1}], metric)
    if find_metric(metric).value is not None and not row["unreadable"] and not table.counts.any():
        return 1.0
    return float(table.value(table.counts.sum(0))) if table.ids else 0.0


def slice_mean(task: Task) -> bool:
    """Whether the headline is the mean of the slices' means."""
    return bool(getattr(task.benchmark, "SLICE_MEAN", False))


def _benchmark(task: Task, rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    assert len(rows) == len(task.items), f"{task.name}: an item has vanished"
    benchmark = task.benchmark
    record = find_record(task.path)
    simulated = bool(record and record["facts"].get("simulated"))
    made = dict(record["facts"].get("licences", {})) if record else {}
    metric = headline(benchmark, rows)
    found = metrics_of(rows, metric, slice_mean(task), seed)
    missing = [name for name in getattr(benchmark, "COMPONENTS", ()) if name not in found]
    return {
        "version": benchmark.VERSION,
        "metric": metric,
        "slice_mean": slice_mean(task),
        **{name: found[metric][name] for name in ("value", "low", "high")},
        "n": len(rows),
        "unreadable": sum(row["unreadable"] for row in rows),
        "readings": dict(sorted(Counter(row["reading"] for row in rows).items())),
        "truncated": sum(row["truncated"] for row in rows),
        "unfinished": sum(row.get("finish") == "length" for row in rows),
        "access": benchmark.ACCESS,
        # A file that a run of ours made came under other terms than the published set of that format.
        "licence": "; ".join(sorted(set(made.values()))) if made else benchmark.LICENCE,
        "published": record is None,
        "part": part.describe() if (part := find_part(task.path)) else "",
        "simulated": simulated,
        "settings": task.settings.model_dump(),
        "max_new_tokens": task.max_new_tokens,
        "left_out": dict(sorted(task.dropped.items())),
        "notes": task.notes,
        "metrics": found,
        # Never 0: what was not computed has no value.
        "not_run": missing,
        "slices": _slices(rows, metric, seed),
    }


def metrics_of(rows: list[dict[str, Any]], metric: str, by_slice: bool, seed: int) -> dict[str, Any]:
    """Every metric of one benchmark, the headline first: {id: value, low, high, n, interval, definition}."""
    names = [metric, *sorted({name for row in rows for name in (*row["scores"], *row["counts"])} - {metric})]
    found = {}
    for name in names:
        parts = table_of(rows, name, by_slice and name == metric)
        if not parts.ids:
            continue
        said = find_metric(name).definition + ("; plain mean over slices" if by_slice and name == metric else "")
        found[name] = {**_interval(parts, seed), "definition": said}
    return found


def _interval(table: Table, seed: int) -> dict[str, Any]:
    """Value, low, high, the number of items, and where the interval comes from (null where there is none)."""
    found = statistics.plain(statistics.estimate(table, seed))
    return {**found, "n": len(table.ids), "interval": statistics.method(table)}


def _slices(rows: list[dict[str, Any]], metric: str, seed: int) -> dict[str, Any]:
    names = sorted({row["slice"] for row in rows})
    if names in ([], [""]):
        return {}
    parts = {name: [row for row in rows if row["slice"] == name] for name in names}
    tables = {name: table_of(part, metric) for name, part in parts.items()}
    return {name: _interval(table, seed) for name, table in tables.items() if table.ids}


def _perplexity(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    size, tokens = (sum(row[unit] for row in rows) for unit in ("bytes", "tokens"))
    if not tokens:
        raise UserError("no document has a token to predict; give longer documents")
    ids, counts = [row["id"] for row in rows], [[row["nll"], row["tokens"]] for row in rows]
    nats = statistics.plain(statistics.estimate(Table(ids, ids, np.array(counts, dtype=float)), seed))
    per_token = {name: None if value is None else math.exp(value) for name, value in nats.items()}
    return {
        "per_token": per_token.pop("value"),
        **per_token,
        # Comparable between models with different tokenizers, which perplexity per token is not.
        "per_byte": math.exp(sum(row["nll"] for row in rows) / size),
        "documents": len(rows),
        "tokens": tokens,
        "bytes": size,
    }

"""Shares of flagged items, and what models score with all items and without the flagged ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.benchmark import Item, load_benchmark
from eval.metrics import table_of
from eval.results import read_result
from eval.statistics import Table, estimate, plain
from medsmith.errors import UserError
from medsmith.intervals import wilson
from medsmith.records import read_jsonl
from medsmith.run import require_finished


def share_of(ids: Collection[str], items: Sequence[Item], seed: int) -> dict[str, Any]:
    """How many items, and their share with its interval."""
    counts = np.array([[item.id in ids, 1] for item in items], dtype=float)
    table = Table([item.id for item in items], [item.group for item in items], counts, bounds=(0.0, 1.0))
    number = int(counts[:, 0].sum())
    if number in (0, len(items)):
        # A bootstrap of items that are all alike has no width; what is independent are the groups.
        groups = len(set(table.groups))
        return {"items": number, **wilson(groups if number else 0, groups)._asdict()}
    return {"items": number, **plain(estimate(table, seed))}


def read_effects(
    folders: Sequence[Path], items: dict[str, list[Item]], flagged: dict[str, set[str]], protocol: str, seed: int
) -> list[dict[str, Any]]:
    """Every model and benchmark: the headline over all items, over the clean ones, and the difference.

    Raises:
        UserError: an evaluation under another protocol, of none of these benchmarks, or of items that they do not have.
    """
    found = []
    for folder in folders:
        require_finished(folder)
        result = read_result(folder)
        if result["protocol"] != protocol:
            raise UserError(f"{folder}: evaluated under protocol {result['protocol']}, the suite has {protocol}")
        samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in read_jsonl(folder / "samples.jsonl"):
            samples[row["benchmark"]].append(row)
        shared = [name for name in items if name in result["benchmarks"]]
        if not shared:
            raise UserError(f"{folder} evaluates none of {', '.join(items)}; give an evaluation of these benchmarks")
        for name in shared:
            unknown = {row["id"] for row in samples[name]} - {item.id for item in items[name]}
            if unknown:
                raise UserError(
                    f"{folder}: {name} has the item '{min(unknown)}', the given data have not; give the same"
                )
            by_slice = bool(getattr(load_benchmark(name, protocol), "SLICE_MEAN", False))
            metric = result["benchmarks"][name]["metric"]
            said = {"model": result["model"], "benchmark": name, "metric": metric}
            found.append(said | effect(samples[name], flagged[name], metric, by_slice, seed))
    return found


def effect(
    samples: Sequence[dict[str, Any]], flagged: Collection[str], metric: str, by_slice: bool, seed: int
) -> dict[str, Any]:
    """The value over all items, over the clean ones (None: there are none), and clean minus all.

    The two are drawn together, group by group: clean items are in both.
    """
    table = table_of(samples, metric, by_slice)
    clean = np.array([key not in flagged for key in table.ids], dtype=bool)
    found: dict[str, Any] = {"all": _value(table, seed), "clean": None, "difference": None}
    if clean.any():
        found["clean"] = _value(table.only(set(table.ids) - set(flagged)), seed)
        size = table.counts.shape[1]

        def apart(sums: NDArray[Any]) -> NDArray[Any]:
            return table.value(sums[..., size:]) - table.value(sums[..., :size])

        both = np.concatenate([table.counts, table.counts * clean[:, None]], axis=1)
        found["difference"] = plain(estimate(Table(table.ids, table.groups, both, apart), seed))
    return found


def _value(table: Table, seed: int) -> dict[str, Any]:
    return {"n": len(table.ids), **plain(estimate(table, seed))}

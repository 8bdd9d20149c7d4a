"""Two models on the same held-out documents: the paired difference in nats a token, corpus by corpus."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval import statistics
from eval.statistics import Difference, Table
from medsmith.errors import UserError
from medsmith.records import read_jsonl

Documents = dict[str, dict[str, dict[str, Any]]]
"""Rows of documents.jsonl by corpus and id."""


def documents_of(folder: Path) -> Documents:
    """The documents of an evaluation by corpus and id; empty where it held none."""
    found: Documents = defaultdict(dict)
    path = folder / "documents.jsonl"
    for row in read_jsonl(path) if path.is_file() else ():
        found[row["corpus"]][row["id"]] = row
    return dict(found)


def document_tables(
    corpus: str, before: Mapping[str, dict[str, Any]], after: Mapping[str, dict[str, Any]]
) -> tuple[Table, Table, str]:
    """Nats over units, document by document, and the unit: a token, or a byte where the two cut the text otherwise.

    Raises:
        UserError: the two did not read the same documents.
    """
    only = sorted(before.keys() ^ after.keys())
    if only:
        raise UserError(
            f"{corpus}: {len(only)} documents are in only one of the two (e.g. '{only[0]}'); "
            "compare runs with one corpus and limit_documents"
        )
    for key, row in before.items():
        if row["bytes"] != after[key]["bytes"]:
            raise UserError(f"{corpus}: document '{key}' is another in the two; evaluate both on the same file")
    unit = "tokens" if all(row["tokens"] == after[key]["tokens"] for key, row in before.items()) else "bytes"
    ids = [key for key in sorted(before) if before[key][unit]]
    a, b = (
        Table(ids, ids, np.array([[rows[key]["nll"], rows[key][unit]] for key in ids], dtype=float))
        for rows in (before, after)
    )
    return a, b, unit.removesuffix("s")


def describe(pair: tuple[Table, Table, str], found: Difference) -> dict[str, Any]:
    """Perplexities of both, and the difference in nats a unit (after minus before: below zero is a gain)."""
    before, after, unit = pair
    return {
        "unit": unit,
        "before": math.exp(before.observed()),
        "after": math.exp(after.observed()),
        **statistics.plain(found),
    }

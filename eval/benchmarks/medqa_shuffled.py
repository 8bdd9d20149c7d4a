"""MedQA with the options of every question in another order, the same for all models; the file is that of `medqa`.

Asked by letter, what accuracy here differs from `medqa` is owed to the order. (By the options' texts it cannot differ.)
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from eval.benchmark import Item, Loaded
from eval.benchmarks import medqa
from eval.benchmarks.medqa import (
    ACCESS,
    LICENCE,
    MAX_NEW_TOKENS,
    METRIC,
    PUBLISHED,
    SOURCE,
    VERSION,
    parse,
    right_letters,
    score,
)

__all__ = ["ACCESS", "LICENCE", "MAX_NEW_TOKENS", "METRIC", "PUBLISHED", "SOURCE", "VERSION", "load", "parse", "score"]


def load(path: Path, split: str = "test") -> Loaded:
    """Read the questions as `medqa` does; an item's id decides the order of its options."""
    found = medqa.load(path, split)
    items = [replace(item, options=_order(item)) for item in found.items]
    return found._replace(items=items, notes=found.notes | {"right_letters": right_letters(items)})


def _order(item: Item) -> list[str]:
    return random.Random(f"order {item.id}").sample(item.options, len(item.options))

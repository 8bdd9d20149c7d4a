"""Names of drugs, from drugs.yml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def confused_drugs() -> list[list[str]]:
    """Rows of drugs that do a similar thing: a wrong one of the same row is plausible."""
    return list(_data()["confused"])


@cache
def confusable_drugs() -> list[str]:
    """Those that can be swapped for one another, in name order."""
    return sorted({drug for row in confused_drugs() for drug in row})


@cache
def known_drugs() -> frozenset[str]:
    """All names."""
    return frozenset((*confusable_drugs(), *_data()["further"].split()))


@cache
def _data() -> dict[str, Any]:
    return dict(yaml.safe_load((Path(__file__).parent / "drugs.yml").read_text(encoding="utf-8")))

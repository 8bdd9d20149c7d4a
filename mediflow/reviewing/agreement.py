"""How far reviewers agree: counts, Cohen's kappa of each pair, Krippendorff's alpha of all. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from mediflow.agreement import cohen_kappa, krippendorff_alpha
from mediflow.reviewing.decisions import JUDGING, Decision, disagree

Labels = Mapping[str, Mapping[str, str]]
"""What each reviewer said, by row: {row: {reviewer: label}}. A reviewer who said nothing of a row is not there."""


def agreement(latest: Mapping[str, Mapping[str, Decision]]) -> dict[str, Any]:
    """Counts by reviewer, the pairs, alpha over all, and the rows on which they differ."""
    labels = {
        row: {who: one.decision for who, one in held.items() if one.decision in JUDGING} for row, held in latest.items()
    }
    counts: dict[str, Counter[str]] = {}
    for held in latest.values():
        for who, one in held.items():
            counts.setdefault(who, Counter())[one.decision] += 1
    return {
        "reviewers": [{"name": who, **counts[who], "all": counts[who].total()} for who in sorted(counts)],
        "pairs": [pair(labels, one, other) for one, other in combinations(sorted(counts), 2)],
        "alpha": krippendorff_alpha((list(said.values()) for said in labels.values()), "nominal"),
        "rows_judged": sum(bool(said) for said in labels.values()),
        "rows_shared": sum(len(said) > 1 for said in labels.values()),
        "disagreements": [
            {"row_id": row, "decisions": {who: held[who].decision for who in sorted(held)}}
            for row, held in latest.items()
            if disagree(held)
        ],
    }


def pair(labels: Labels, one: str, other: str) -> dict[str, Any]:
    """Two reviewers on the rows that both judged: how many, the share on which they agree, kappa, and their table."""
    both = [(said[one], said[other]) for said in labels.values() if one in said and other in said]
    same = sum(first == second for first, second in both)
    table = Counter(both)
    return {
        "one": one,
        "other": other,
        "rows": len(both),
        "same": same,
        "kappa": cohen_kappa(both),
        "table": [[table[first, second] for second in JUDGING] for first in JUDGING],
        "labels": list(JUDGING),
    }

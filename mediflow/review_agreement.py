"""How far reviewers agree: counts, Cohen's kappa of each pair, Krippendorff's alpha of all. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from mediflow.review_decisions import JUDGING, Decision, disagree

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
        "alpha": krippendorff_alpha(list(said.values()) for said in labels.values()),
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


def cohen_kappa(both: Iterable[tuple[str, str]]) -> float | None:
    """Cohen's kappa: agreement beyond chance. None without a row, or where both gave one and the same label always."""
    said = list(both)
    if not said:
        return None
    rows = len(said)
    first, second = Counter(a for a, _ in said), Counter(b for _, b in said)
    chance = sum(first[label] * second[label] for label in first) / rows**2
    if chance == 1:
        return None
    return (sum(a == b for a, b in said) / rows - chance) / (1 - chance)


def krippendorff_alpha(units: Iterable[Iterable[str]]) -> float | None:
    """Krippendorff's alpha for names without an order, any number of reviewers, with gaps; None where it has no value.

    A unit is all labels that one row got; units with fewer than two say nothing.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for unit in units:
        counts = Counter(unit)
        size = counts.total()
        if size < 2:
            continue
        for one in counts:
            for other in counts:
                pairs[one, other] += counts[one] * (counts[other] - (one == other)) / (size - 1)  # type: ignore[assignment]
    values: Counter[str] = Counter()
    for (one, _), weight in pairs.items():
        values[one] += weight
    total = values.total()
    expected = total**2 - sum(count**2 for count in values.values())
    if not expected:
        return None
    observed = sum(weight for (one, other), weight in pairs.items() if one != other)
    return 1 - (total - 1) * observed / expected

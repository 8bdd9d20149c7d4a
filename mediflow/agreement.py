"""How far judges or people agree beyond chance. Pure; None where there is nothing to agree on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal


def krippendorff_alpha(
    units: Iterable[Sequence[float | str | None]], level: Literal["nominal", "interval"]
) -> float | None:
    """Krippendorff's alpha over units, each with what it was given; None is a gap, and raters may differ by unit.

    1 is full agreement, 0 what chance gives. None where no unit was rated twice, or all ratings are equal, which says
    nothing about telling things apart (Krippendorff 2004, Content Analysis, chapter 11).
    """
    import krippendorff
    import numpy as np

    rated = [[value for value in unit if value is not None] for unit in units]
    shared = [unit for unit in rated if len(unit) > 1]
    domain = sorted({value for unit in shared for value in unit})
    if len(domain) < 2:
        return None
    place = {value: number for number, value in enumerate(domain)}
    counts = np.zeros((len(shared), len(domain)))
    for row, unit in zip(counts, shared, strict=True):
        for value in unit:
            row[place[value]] += 1
    alpha = krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement=level)
    return round(float(alpha), 4)


def cohen_kappa(both: Iterable[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two raters; None without a pair, or where both always gave one and the same label."""
    from sklearn.metrics import cohen_kappa_score

    said = list(both)
    if len({label for pair in said for label in pair}) < 2:
        return None
    return float(cohen_kappa_score([one for one, _ in said], [other for _, other in said]))

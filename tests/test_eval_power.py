"""What an evaluation can find is what simulated evaluations do find."""

from __future__ import annotations

import numpy as np
import pytest

from eval.power import detectable
from medsmith.errors import UserError


def found(sizes: list[int], turning: float, gain: float) -> float:
    """The share of 2,000 simulated comparisons of an average whose paired z test is beyond 1.96."""
    rng = np.random.default_rng(7)
    means, errors = [], []
    for n in sizes:
        up, down = (rng.multinomial(n, [(turning + gain) / 2, (turning - gain) / 2, 1 - turning], 2000).T)[:2]
        means.append((up - down) / n)
        errors.append(((up + down) / n - ((up - down) / n) ** 2) / n)
    value, error = np.mean(means, axis=0), np.sqrt(np.sum(errors, axis=0)) / len(sizes)
    return float((np.abs(value) > 1.96 * error).mean())


@pytest.mark.parametrize(("sizes", "turning"), [([200] * 4, 0.3), ([60, 200, 500], 0.2), ([400], 0.1)])
def test_the_detectable_difference_is_found_four_times_in_five(sizes: list[int], turning: float) -> None:
    """At the stated difference 80 % of comparisons see it; at half of it fewer than half do, at none one in twenty."""
    size = detectable(sizes, turning)
    assert found(sizes, turning, size) == pytest.approx(0.8, abs=0.04)
    assert found(sizes, turning, size / 2) < 0.5
    assert found(sizes, turning, 0.0) == pytest.approx(0.05, abs=0.02)


def test_more_benchmarks_and_more_items_find_less() -> None:
    """Four times the items, or four benchmarks of the size: half the difference; by hand 2.80 · sqrt(0.3 / 300)."""
    assert detectable([300]) == pytest.approx(2.8016 * (0.3 / 300) ** 0.5, abs=1e-4)
    assert detectable([1200]) == detectable([300] * 4) == pytest.approx(detectable([300]) / 2)
    with pytest.raises(UserError, match="no items"):
        detectable([300, 0])

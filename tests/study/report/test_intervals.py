"""Intervals against statsmodels and a normal approximation."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from zofo.study.report.intervals import bootstrap, wilson


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (33, 60), (1, 872), (700, 872)])
def test_wilson_is_that_of_statsmodels(right: int, n: int) -> None:
    assert wilson(right, n) == pytest.approx(proportion_confint(right, n, 0.05, "wilson"), abs=1e-12)


def test_the_bootstrap_of_many_values_is_the_normal_interval() -> None:
    values = np.random.Generator(np.random.PCG64(1)).normal(3.0, 2.0, 400).tolist()
    low, high = bootstrap(values)
    half = 1.96 * np.std(values) / 20
    assert low == pytest.approx(np.mean(values) - half, abs=0.03)
    assert high == pytest.approx(np.mean(values) + half, abs=0.03)
    assert bootstrap(values) == (low, high)

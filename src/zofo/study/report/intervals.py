"""95 % intervals of one run's number over its examples.

Not those of `study.statistics`, so that the quick start's page needs neither scipy nor statsmodels; equal to theirs
(tests/study/report/test_intervals.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z = 1.959963984540054  # the normal distribution's 97.5 % quantile
RESAMPLES = 2000


def wilson(right: int, n: int) -> tuple[float, float]:
    """Of a proportion, right of n (Wilson 1927)."""
    p, z2 = right / n, Z * Z
    middle, half = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Of a mean: the percentiles of the means of RESAMPLES samples with replacement (Efron 1979)."""
    draws = np.random.Generator(np.random.Philox(seed))
    numbers = np.asarray(values, dtype=np.float64)
    means = [numbers[draws.integers(0, len(numbers), len(numbers))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)

"""Intervals and tests, from scipy and statsmodels: over seeds, over test examples, for many comparisons at once.

Two kinds of noise are kept apart. Another seed gives another run: Student's t over the seeds' differences, since runs
of one seed share examples, batches and directions. Another test set gives other examples: a paired bootstrap over them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from zofo.errors import InputError

LEVEL = 0.95
RESAMPLES = 10_000
ENOUGH_SEEDS = 5  # fewer can show large differences only: with three, the t interval is 2.5 sd of the differences wide
ROUNDING = 1e-12  # of values: a spread below it is that of their sums' last digits


@dataclass(frozen=True)
class Estimate:
    """A mean of n values with its interval; low and high are NaN where n is 1. p: two-sided, of the mean being 0."""

    mean: float
    low: float
    high: float
    n: int
    p: float = math.nan

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def within_noise(self) -> bool:
        """Whether 0 is in the interval, or there is none."""
        return not self.known or self.low <= 0 <= self.high


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean with Student's interval, and the t test against 0. One value has no interval; equal ones one of width
    0, and the p of what they are."""
    stats, _, _ = _installed()
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    error = float(stats.sem(values))
    if error <= ROUNDING * max(map(abs, values)):  # equal but for the last digits of their sums
        return Estimate(mean, mean, mean, n, float(mean == 0))
    low, high = stats.t.interval(LEVEL, n - 1, loc=mean, scale=error)
    return Estimate(mean, float(low), float(high), n, float(cast(float, stats.ttest_1samp(values, 0.0)[1])))


def over_examples(differences: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of paired differences, one an example, with the percentile bootstrap's interval and p."""
    values, n = np.asarray(differences, dtype=float), len(differences)
    mean = float(values.mean())
    if n < 2 or not values.any():
        return Estimate(mean, math.nan if n < 2 else 0.0, math.nan if n < 2 else 0.0, n, 1.0 if n > 1 else math.nan)
    kinds, counts = np.unique(values, return_counts=True)  # few kinds of them, as 0 and 1 are: then by their counts
    draws = np.random.default_rng(seed).multinomial(n, counts / n, RESAMPLES) @ kinds / n
    low, high = np.percentile(draws, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    below, above = np.sum(draws <= 0), np.sum(draws >= 0)
    p = min(1.0, 2 * (min(below, above) + 1) / (RESAMPLES + 1))
    return Estimate(mean, float(low), float(high), n, float(p))


def proportion(right: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share, such as an accuracy."""
    _, _, proportion_confint = _installed()
    low, high = cast(tuple[float, float], proportion_confint(right, n, alpha=1 - LEVEL, method="wilson"))
    return float(low), float(high)


def holm(p: Mapping[tuple, float]) -> dict[tuple, float]:
    """{comparison: its p adjusted for all of them} (Holm 1979); NaN stays NaN and counts for nothing."""
    _, multipletests, _ = _installed()
    known = {key: value for key, value in p.items() if math.isfinite(value)}
    if not known:
        return dict(p)
    adjusted = cast(Sequence[float], multipletests(list(known.values()), alpha=1 - LEVEL, method="holm")[1])
    return {**p, **{key: float(value) for key, value in zip(known, adjusted)}}


def _installed() -> tuple[Any, Any, Any]:
    """(scipy.stats, multipletests, proportion_confint): a page of `zofo report` is there without them. Raises
    InputError."""
    try:
        from scipy import stats
        from statsmodels.stats.multitest import multipletests
        from statsmodels.stats.proportion import proportion_confint
    except ImportError:
        raise InputError('zofo compare needs scipy and statsmodels: pip install "zofo[study]"') from None
    return stats, multipletests, proportion_confint

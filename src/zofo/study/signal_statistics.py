"""From slopes to what a zeroth-order step can do: |g|^2, the variance of a row's gradient, tr H, each with an interval.

D[k, i] = g_i . z_k for rows i = 1 ... n and directions k = 1 ... K (`zo.slopes`), g = E_i[g_i] the mean gradient:

    |g|^2     mean over k of the mean over i != j of D[k, i] D[k, j]: all ways to halve the rows, E_z[z z'] = I
    tr Sigma  mean over k of the sample variance over i of D[k, i]: E_z[z' Sigma z] = tr Sigma
    tr H      mean over k and i of z_k' H_i z_k: E_z[z' H z] = tr H
    c^2 h     mean over k of |g . z_k|^2 z_k' H z_k, and of the rows' variance along z_k times it: what curvature a
              step c z meets, tr H and the gradient's own, |g|^2 tr H + 2 g' H g

The first three are unbiased, the last to 1 / n. Intervals: rows and directions are both drawn again, together (the
pigeonhole bootstrap, Owen 2007), and a row that is drawn twice is not multiplied by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """95 %, or as `level` says elsewhere."""

    value: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high

    def to_list(self) -> list[float]:
        return [self.value, self.low, self.high]


@dataclass(frozen=True)
class Moments:
    """first, second: [K, n], see `zo.slopes`. seed: of the bootstrap's draws."""

    first: Array
    second: Array
    seed: int = 0

    @property
    def rows(self) -> int:
        return self.first.shape[1]

    @property
    def directions(self) -> int:
        return self.first.shape[0]

    @cached_property
    def estimate(self) -> Array:
        """[5]: |g|^2, tr Sigma, tr H, c^2 h of the mean gradient, and of a row's deviation from it."""
        return self._moments(np.ones((1, self.rows)), np.ones((1, self.directions)))[0]

    @cached_property
    def draws(self) -> Array:
        """[DRAWS, 5]: the same of rows and directions drawn again."""
        draw = np.random.default_rng(self.seed)
        rows = draw.multinomial(self.rows, np.full(self.rows, 1 / self.rows), DRAWS).astype(float)
        directions = draw.multinomial(self.directions, np.full(self.directions, 1 / self.directions), DRAWS)
        return self._moments(rows, directions.astype(float))

    def _moments(self, rows: Array, directions: Array) -> Array:
        """rows: [B, n] how often each is there; directions: [B, K]. Returns [B, 5]."""
        total = rows.sum(1)[:, None]
        pairs = np.maximum(total**2 - (rows**2).sum(1)[:, None], 1.0)  # of one row drawn n times there are none
        sums = rows @ self.first.T
        products = (sums**2 - rows**2 @ (self.first**2).T) / pairs
        spread = (rows @ (self.first**2).T - sums**2 / total) / (pairs / total)
        curvature = rows @ self.second.T / total
        share = directions / directions.sum(1)[:, None]
        parts = (products, spread, curvature, products * curvature, spread * curvature)
        return np.stack([(each * share).sum(1) for each in parts], 1)

    def _interval(self, value: float, draws: Array) -> Interval:
        low, high = np.percentile(draws, [2.5, 97.5], method="nearest")  # some may be infinite
        return Interval(float(value), float(low), float(high))

    @property
    def gradient(self) -> Interval:
        """|g|^2 of the mean gradient. It may be negative where it cannot be told from 0."""
        return self._interval(self.estimate[0], self.draws[:, 0])

    @property
    def variance(self) -> Interval:
        """tr Sigma, the variance of one row's gradient, summed over the weights."""
        return self._interval(self.estimate[1], self.draws[:, 1])

    @property
    def curvature(self) -> Interval:
        """tr H."""
        return self._interval(self.estimate[2], self.draws[:, 2])

    def share(self, batch: int) -> Interval:
        """Of the expected squared norm of a batch's gradient, the part that is the mean gradient's:
        |g|^2 / (|g|^2 + tr Sigma / batch), a negative |g|^2 taken for 0."""
        return self._interval(_share(self.estimate[None], batch)[0], _share(self.draws, batch))

    @property
    def half(self) -> Interval:
        """The batch of which half is signal, tr Sigma / |g|^2; infinite where |g|^2 <= 0."""
        return self._interval(_half(self.estimate[None])[0], _half(self.draws))

    @property
    def found(self) -> bool:
        """Whether the mean gradient can be told from 0."""
        return self.gradient.low > 0


def _share(moments: Array, batch: int) -> Array:
    signal = np.maximum(moments[:, 0], 0.0)
    return signal / (signal + np.maximum(moments[:, 1], 1e-300) / batch)


def _half(moments: Array) -> Array:
    signal = moments[:, 0]
    return np.where(signal > 0, moments[:, 1] / np.where(signal > 0, signal, 1.0), np.inf)


@dataclass(frozen=True)
class Step:
    """What a step theta - eta c z gains at most, c the slope of a batch's mean loss along z.

    E[f(theta - eta c z)] = f - eta |g|^2 + eta^2 / 2 E[c^2 z' H z] to second order, so the best rate is
    |g|^2 / E[c^2 z' H z], and the gain there half of rate |g|^2. Of the mean of q estimates both are at most q times
    these, and q times where tr H is most of the curvature.
    """

    batch: int
    rate: Interval
    gain: float  # of the loss, nats

    @property
    def rows(self) -> int:
        """Rows that go through the model for it."""
        return 2 * self.batch


def best_step(moments: Moments, batch: int) -> Step | None:
    """None where no rate follows: no signal was found, or the curvature of a step is not known to be positive."""
    if not moments.found or np.percentile(_met(moments.draws, batch), 2.5) <= 0:
        return None
    rates = np.maximum(moments.draws[:, 0], 0.0) / np.maximum(_met(moments.draws, batch), 1e-300)
    value = moments.estimate[0] / _met(moments.estimate[None], batch)[0]
    low, high = np.percentile(rates, [2.5, 97.5])
    return Step(batch, Interval(float(value), float(low), float(high)), float(value * moments.estimate[0] / 2))


def _met(moments: Array, batch: int) -> Array:
    """E[c^2 z' H z] of batches of this size."""
    return moments[:, 3] + moments[:, 4] / batch

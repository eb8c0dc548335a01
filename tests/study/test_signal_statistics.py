"""The signal's estimates: products of different rows by hand, unbiased, intervals that hold what they say, the step."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from zofo.study import signal_statistics
from zofo.study.signal_statistics import Array, Moments, best_step


def drawn(seed: int, rows: int, directions: int, signal: float, variance: float, size: int = 60) -> Moments:
    """Gradients of rows around a mean of squared norm `signal`, in `size` dimensions of falling variance."""
    draw = np.random.default_rng(seed)
    spectrum = np.exp(-np.arange(size) / 15)
    mean = draw.normal(size=size)
    mean *= np.sqrt(signal) / np.linalg.norm(mean)
    gradients = mean + draw.normal(size=(rows, size)) * np.sqrt(spectrum * variance / spectrum.sum())
    z = draw.choice([-1.0, 1.0], size=(directions, size))
    return Moments(z @ gradients.T, 4 + draw.normal(size=(directions, rows)), seed)


def test_the_estimates_by_hand() -> None:
    moments = drawn(0, 6, 3, 2.0, 5.0)
    halves = []
    for one in combinations(range(6), 3):  # every way to halve the rows
        other = [i for i in range(6) if i not in one]
        halves.append((moments.first[:, one].mean(1) * moments.first[:, other].mean(1)).mean())
    gradient, variance, curvature, met, _ = moments.estimate
    assert gradient == pytest.approx(np.mean(halves), rel=1e-12)
    assert variance == pytest.approx(moments.first.var(axis=1, ddof=1).mean(), rel=1e-12)
    assert curvature == pytest.approx(moments.second.mean(), rel=1e-12)
    pairs = (moments.first.sum(1) ** 2 - (moments.first**2).sum(1)) / 30
    assert met == pytest.approx((pairs * moments.second.mean(1)).mean(), rel=1e-12)


def test_they_are_unbiased() -> None:
    every = np.array([drawn(seed, 16, 8, 2.0, 5.0).estimate[:3] for seed in range(1500)])
    error = every.std(0) / np.sqrt(len(every))
    assert np.all(np.abs(every.mean(0) - [2.0, 5.0, 4.0]) < 4 * error)
    assert np.all(error < [0.06, 0.06, 0.01]), "and that says something"


@pytest.mark.parametrize(("signal", "variance"), [(2.0, 5.0), (2.0, 200.0), (0.0, 50.0)])
def test_intervals_hold_the_truth(signal: float, variance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least nine times in ten; where there is no signal they say so."""
    monkeypatch.setattr(signal_statistics, "DRAWS", 300)
    every = [drawn(seed, 48, 24, signal, variance) for seed in range(150)]
    assert np.mean([moments.gradient.contains(signal) for moments in every]) >= 0.9
    assert np.mean([moments.variance.contains(variance) for moments in every]) >= 0.9
    assert np.mean([moments.share(16).contains(signal / (signal + variance / 16)) for moments in every]) >= 0.9
    found = np.mean([moments.found for moments in every])
    assert found > 0.9 if variance == 5 else found < 0.4
    if not signal:
        assert found <= 0.05


def test_what_has_no_signal_has_no_rate() -> None:
    moments = drawn(3, 32, 16, 0.0, 50.0)
    assert best_step(moments, 16) is None
    assert moments.half.high == np.inf
    assert moments.share(16).low == 0


@pytest.mark.parametrize("steep", [0.0, 300.0])
def test_the_best_step_gains_what_it_says(steep: float) -> None:
    """On a quadratic with curvatures of both signs, and `steep` along the gradient: steps on batches of b rows gain at
    the best rate what is said, and less at half and at twice the rate. With 300 the trace alone would be far off."""
    draw, size, rows = np.random.default_rng(1), 400, 400
    theta = draw.normal(size=size) * 0.5
    curvature = draw.uniform(-0.5, 1.5, size)
    along = curvature * theta / np.linalg.norm(curvature * theta)
    hessian = np.diag(curvature) + steep * np.outer(along, along)
    noise = draw.normal(size=(rows, size)) * 0.5
    noise -= noise.mean(0)  # row i: 0.5 x' H x + (linear + noise_i) . x, its mean gradient at theta that of steep 0
    linear = curvature * theta - hessian @ theta
    z = draw.choice([-1.0, 1.0], size=(3000, size))
    gradients = hessian @ theta + linear + noise
    second = np.repeat(np.einsum("ki,ij,kj->k", z, hessian, z)[:, None], rows, 1)
    step = best_step(Moments(z @ gradients.T, second), batch=8)
    assert step is not None

    def loss(at: Array) -> float:
        return float(0.5 * at @ hessian @ at + linear @ at)

    gains = {0.5: [], 1.0: [], 2.0: []}
    for _ in range(4000):
        mean, direction = gradients[draw.integers(rows, size=8)].mean(0), draw.choice([-1.0, 1.0], size=size)
        for factor, gained in gains.items():
            gained.append(loss(theta) - loss(theta - factor * step.rate.value * (direction @ mean) * direction))
    mean = {factor: float(np.mean(gained)) for factor, gained in gains.items()}
    assert mean[1.0] == pytest.approx(step.gain, rel=0.2)
    assert mean[1.0] > max(mean[0.5], mean[2.0])
    assert step.rows == 16

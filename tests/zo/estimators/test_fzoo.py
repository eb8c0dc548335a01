"""The estimator `fzoo`: its coefficients in float64, what they are in expectation, its evaluations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from zofo.zo.estimators import fzoo
from zofo.zo.kernels import reference
from zofo.zo.keys import tensor_key
from zofo.zo.point import Point

D = 24


class Quadratic:
    """f(w) = g'w + w'Hw/2 in float64, at a point of fp32 numbers."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.g = torch.randn(D, generator=generator, dtype=torch.float64)
        root = torch.randn(D, D, generator=generator, dtype=torch.float64) / D**0.5
        self.h = root @ root.T
        self.module = nn.ParameterDict({"w": nn.Parameter(torch.randn(D, generator=generator))})
        self.theta = Point(self.module)

    def at(self, w: torch.Tensor) -> float:
        return float(self.g @ w + w @ self.h @ w / 2)

    def __call__(self) -> float:
        return self.at(self.read())

    def read(self) -> torch.Tensor:
        return self.module["w"].detach().double()


def signs(seed: int) -> torch.Tensor:
    return reference.signs(seed, tensor_key("w"), 0, D).double()


@pytest.mark.parametrize("n", [2, 8])
def test_coefficients_in_float64(n: int) -> None:
    """(l_i - l_0) / (eps N sigma), sigma the deviation of l_1, ..., l_N over N - 1."""
    f, eps = Quadratic(), 1e-2
    config = fzoo.Config(eps=eps, q=n, shift="copy")
    estimate = fzoo.Estimator(config)(f, f.theta, 0, 77)
    w = f.read()
    losses = [f.at((w.float() + eps * signs(z.seed).float()).double()) for _, z in estimate.terms]
    mean = sum(losses) / n
    sigma = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (n - 1))
    assert len(estimate.terms) == n
    assert (estimate.forwards, estimate.value) == (n + 1, f.at(w))
    for (c, _), loss in zip(estimate.terms, losses):
        assert c == pytest.approx((loss - f.at(w)) / (eps * n * sigma), rel=1e-5)
    assert torch.equal(f.read(), w)


def test_in_expectation_it_points_along_the_gradient_and_its_length_is_the_rates() -> None:
    """Whatever the loss is multiplied by: the same step. Over many seeds its mean has the gradient's direction."""
    f = Quadratic()
    gradient = f.g + f.h @ f.read()
    total = torch.zeros(D, dtype=torch.float64)
    for seed in range(1500):
        estimate = fzoo.Estimator(fzoo.Config(eps=1e-3))(f, f.theta, seed, 1000 + seed)
        total += sum((c * signs(z.seed) for c, z in estimate.terms), torch.zeros(D, dtype=torch.float64))
    cosine = float(total @ gradient / total.norm() / gradient.norm())
    assert cosine > 0.97
    larger = Quadratic()
    larger.g, larger.h = 1000 * f.g, 1000 * f.h
    one, other = (fzoo.Estimator(fzoo.Config(eps=1e-3))(g, g.theta, 0, 5) for g in (f, larger))
    assert [c for c, _ in one.terms] == pytest.approx([c for c, _ in other.terms], rel=1e-3)


def test_losses_that_do_not_differ_say_nothing() -> None:
    f = Quadratic()
    estimate = fzoo.Estimator(fzoo.Config())(lambda: 0.7, f.theta, 0, 5)
    assert [c for c, _ in estimate.terms] == [0.0] * 8


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_no_coefficient(bad: float) -> None:
    f = Quadratic()
    losses = iter([0.5, 0.6, bad, *[0.7] * 6, bad])
    estimate = fzoo.Estimator(fzoo.Config())(lambda: next(losses), f.theta, 0, 5)
    assert not all(math.isfinite(c) for c, _ in estimate.terms)

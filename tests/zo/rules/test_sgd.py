"""The rule `sgd`: what it makes of the coefficient, and of theta."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome
from zofo.zo.kernels import reference
from zofo.zo.keys import tensor_key
from zofo.zo.point import Point
from zofo.zo.rules import sgd

COEFFICIENTS = [0.5, -3.0, 20.0, -0.01, -40.0, 0.0, 7.0]


def factors(config: sgd.Config, coefficients: list[float] = COEFFICIENTS) -> list[float]:
    """The scaled coefficients, read off a weight at 0 that an update with rate 1 moved by c z."""
    rule, scaled = sgd.Rule(config, seed=0), []
    sign = float(reference.signs(5, tensor_key("w"), 0, 1))
    for step, c in enumerate(coefficients):
        point = Point(nn.ParameterDict({"w": nn.Parameter(torch.zeros(1))}))
        rule.update_(point, ZOGrad(((c, Direction(5)),), 0.0, 0), 1.0, step)
        scaled.append(-float(point["w"]) * sign)
    return scaled


def by_hand(normalize: bool, clip: float, memory: float) -> list[float]:
    squares, scaled = [], []
    for c in COEFFICIENTS:
        squares.append(c * c)
        if normalize:
            weights = [memory**age for age in range(len(squares))][::-1]
            c /= math.sqrt(sum(w * x for w, x in zip(weights, squares)) / sum(weights))
        scaled.append(max(-clip, min(clip, c)))
    return scaled


@pytest.mark.parametrize(
    "settings", [{}, {"clip": 2.0}, {"normalize": True}, {"normalize": True, "clip": 0.8, "memory": 0.5}]
)
def test_normalisation_then_clipping(settings: dict[str, Any]) -> None:
    """c / root mean square of the c's so far, weighted by memory^age; then cut to [-clip, clip]."""
    full = {"normalize": False, "clip": math.inf, "memory": 0.99, **settings}
    assert factors(sgd.Config(**settings)) == pytest.approx(by_hand(**full), rel=1e-6)


def test_zero_coefficients_do_not_divide_by_zero() -> None:
    assert factors(sgd.Config(normalize=True), [0.0, 0.0, 2.0])[:2] == [0.0, 0.0]


def test_several_terms_one_rounding_and_a_key_of_the_step() -> None:
    start = torch.full((4096,), 1.0, dtype=torch.bfloat16)
    g = ZOGrad(((0.5, Direction(1)), (-0.25, Direction(2))), 0.0, 0)
    moved = []
    for step in (3, 3, 4):
        point = Point(nn.ParameterDict({"w": nn.Parameter(start.clone())}))
        assert sgd.Rule(sgd.Config(), seed=9).update_(point, g, 1e-3, step) is Outcome.APPLIED
        moved.append(point["w"].clone())
    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[0], moved[2])
    key = tensor_key("w")
    total = sum(float32(-1e-3 * c) * reference.signs(z.seed, key, 0, 4096) for c, z in g.terms)
    error = moved[0].double() - (start.double() + total)
    assert float(error.abs().max()) < 2.0**-7
    assert abs(float(error.mean())) < 5 * 2.0**-8 / 64  # unbiased, over 4096 elements


def test_a_skipped_update_moves_nothing() -> None:
    point, rule = Point(nn.ParameterDict({"w": nn.Parameter(torch.ones(8))})), sgd.Rule(sgd.Config(normalize=True), 0)
    g = ZOGrad(((1.0, Direction(1)),), 0.0, 0)
    before = rule.state_dict()
    assert rule.update_(point, g, 0.1, 0, outcome=Outcome.SKIPPED) is Outcome.SKIPPED
    assert torch.equal(point["w"], torch.ones(8))
    assert rule.state_dict() == before

"""The rule `meazo`: its scalar by hand, what it is beside `normalize`, its state."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from zofo.train import checkpoint
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad
from zofo.zo.journal import Outcome
from zofo.zo.kernels import reference
from zofo.zo.keys import tensor_key
from zofo.zo.point import Point
from zofo.zo.rules import meazo, sgd

STEPS = [(0.5, -2.0), (-3.0, 1.0), (20.0, 4.0), (-0.01, 0.03), (0.25, -0.25), (7.0, 7.0)]


def at_zero(n: int = 64) -> Point:
    return Point(nn.ParameterDict({"w": nn.Parameter(torch.zeros(n))}))


def moved(rule: meazo.Rule | sgd.Rule, steps: list[tuple[float, ...]]) -> list[torch.Tensor]:
    """What each step does to weights at 0, at rate 1."""
    out = []
    for step, coefficients in enumerate(steps):
        theta = at_zero()
        g = ZOGrad(tuple((c, Direction(10 * step + i)) for i, c in enumerate(coefficients)), 0.0, 0)
        assert rule.update_(theta, g, 1.0, step) is Outcome.APPLIED
        out.append(theta["w"].detach().double())
    return out


@pytest.mark.parametrize("zeta", [1e-8, 2.0])
def test_against_float64(zeta: float) -> None:
    """theta - (c_1 z_1 + c_2 z_2) / (sqrt(v_hat) + zeta), v the mean square of c_1 + c_2, each by weights beta^age."""
    beta = 0.7
    results = moved(meazo.Rule(meazo.Config(beta=beta, zeta=zeta), 0), STEPS)
    for step, result in enumerate(results):
        ages = [beta ** (step - past) for past in range(step + 1)]
        v = sum(w * sum(STEPS[past]) ** 2 for past, w in enumerate(ages)) / sum(ages)
        signs = [reference.signs(10 * step + i, tensor_key("w"), 0, 64).double() for i in range(2)]
        expected = -(STEPS[step][0] * signs[0] + STEPS[step][1] * signs[1]) / (math.sqrt(v) + zeta)
        assert float((result - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def test_with_one_direction_it_is_normalize() -> None:
    """And with several it is not: `normalize` divides each c by its own running square."""
    one = [(c,) for c, _ in STEPS]
    ours = moved(meazo.Rule(meazo.Config(beta=0.9), 0), one)
    theirs = moved(sgd.Rule(sgd.Config(normalize=True, memory=0.9), 0), one)
    for mine, other in zip(ours, theirs):
        assert float((mine - other).abs().max()) <= 1e-6
    several = zip(
        moved(meazo.Rule(meazo.Config(beta=0.9), 0), STEPS),
        moved(sgd.Rule(sgd.Config(normalize=True, memory=0.9), 0), STEPS),
    )
    assert max(float((mine - other).abs().max()) for mine, other in several) > 0.1


def test_coefficients_that_cancel_are_not_divided_by_zero() -> None:
    """c_1 + c_2 = 0 from the first step on: zeta alone is below, and what is added is finite."""
    result = moved(meazo.Rule(meazo.Config(zeta=1e-3), 0), [(0.25, -0.25), (0.0, 0.0)])
    assert all(bool(torch.isfinite(one).all()) for one in result)
    assert float(result[1].abs().max()) == 0


def test_a_saved_state_goes_on(tmp_path: Path) -> None:
    whole = moved(meazo.Rule(meazo.Config(), 0), STEPS)
    first, second = meazo.Rule(meazo.Config(), 0), meazo.Rule(meazo.Config(), 0)
    moved(first, STEPS[:3])
    checkpoint.save_tree(tmp_path, "state", {"rule": first.state_dict()})
    second.load_state_dict(checkpoint.load_tree(tmp_path, "state")["rule"])
    theta = at_zero()
    g = ZOGrad(tuple((c, Direction(30 + i)) for i, c in enumerate(STEPS[3])), 0.0, 0)
    second.update_(theta, g, 1.0, 3)
    assert torch.equal(theta["w"].detach().double(), whole[3])


def test_a_skipped_step_is_not_counted() -> None:
    rule = meazo.Rule(meazo.Config(), 0)
    before = rule.state_dict()
    assert rule.update_(at_zero(), ZOGrad(((1.0, Direction(1)),), 0.0, 0), 0.1, 0, outcome=Outcome.SKIPPED) is (
        Outcome.SKIPPED
    )
    assert rule.state_dict() == before

"""Algorithm 2 on a problem whose bilevel and penalised solutions are known (tests/known_problem.py)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import known_problem
from zofo.methods import bilevel_fo

LAMS = (1.0, 10.0, 100.0, 1000.0)
STEPS = {1.0: 100, 10.0: 100, 100.0: 200, 1000.0: 1050}


@cache
def runs() -> dict[float, known_problem.Found]:
    """One run of Algorithm 2, its lam raised when it has settled."""
    run = known_problem.Run(known_problem.make())
    return {lam: run(lam, STEPS[lam]) for lam in LAMS}


def slope(x: tuple[float, ...], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def measures(theta: Tensor, p: Tensor, s: Tensor) -> tuple[float, float, float]:
    """(|p - s|, distance of theta to the bilevel solution, F(theta, p; D_p) - F(theta, s; D_p))."""
    t = known_problem.make()
    gap = t.p.loss(theta, p) - t.p.loss(theta, s)
    return float((p - s).norm()), float((theta - t.bilevel()).norm()), float(gap)


# --------------------------------------------------------------------------------------- the closed forms themselves


def G(t: known_problem.Toy, lam: float, theta: Tensor, p: Tensor, sign: float = -1.0) -> Tensor:
    """The penalised objective with its inner problem solved by least squares."""
    inner = torch.linalg.lstsq(t.p.x, (t.p.t - t.p.y @ theta)[:, None]).solution[:, 0]
    return t.f.loss(theta, p) + lam * (t.p.loss(theta, p) + sign * t.p.loss(theta, inner))


def leaves(*values: Tensor) -> list[Tensor]:
    return [v.clone().requires_grad_(True) for v in values]


def test_the_closed_forms_are_stationary() -> None:
    t = known_problem.make()
    (theta,) = leaves(t.bilevel())
    (gradient,) = torch.autograd.grad(t.f.loss(theta, t.lower(theta)), [theta])
    assert float(gradient.abs().max()) < 1e-12
    (a,) = leaves(t.lower(theta.detach()))
    (gradient,) = torch.autograd.grad(t.p.loss(theta.detach(), a), [a])
    assert float(gradient.abs().max()) < 1e-12
    for lam in LAMS:
        theta, p = leaves(*t.penalised(lam))
        gradients = torch.autograd.grad(G(t, lam, theta, p), [theta, p])
        assert max(float(g.abs().max()) for g in gradients) < 1e-10 * lam
        wrong = torch.autograd.grad(G(t, lam, theta, p, sign=1.0), [theta])[0]  # eq. (6)'s "+" would go elsewhere
        assert float(wrong.abs().max()) > 0.01
        without_s = torch.autograd.grad(G(t, lam, theta, p, sign=0.0), [theta])[0]
        assert float(without_s.abs().max()) > 0.01


def test_the_penalised_solutions_approach_the_bilevel_one() -> None:
    t = known_problem.make()
    lams = tuple(np.geomspace(10, 1000, 9).tolist())
    values = [measures(theta, p, t.lower(theta)) for theta, p in map(t.penalised, lams)]
    distance_p, distance_theta, gap = (list(column) for column in zip(*values))
    assert slope(lams, distance_p) == pytest.approx(-1, abs=0.01)
    assert slope(lams, distance_theta) == pytest.approx(-1, abs=0.01)
    assert slope(lams, gap) == pytest.approx(-2, abs=0.02)


# ------------------------------------------------------------------------------------------------------- Algorithm 2


@pytest.mark.parametrize("lam", LAMS)
def test_the_method_reaches_the_penalised_solution(lam: float) -> None:
    t, solution = known_problem.make(), runs()[lam]
    theta, p = t.penalised(lam)
    away = float((theta - t.bilevel()).norm())  # what the penalty costs: the run must be far nearer than that
    assert float((solution.theta - theta).norm()) < 1e-3 * away
    assert float((solution.p - p).norm()) < 1e-3 * float((p - t.lower(theta)).norm())
    assert float((solution.s - t.lower(theta)).norm()) < 1e-3 * float((p - t.lower(theta)).norm())


@pytest.mark.parametrize("seed", [1, 2])
def test_from_far_away_with_other_directions_and_one_lower_step(seed: int) -> None:
    t = known_problem.make(seed)
    run = known_problem.Run(t, seed)
    with torch.no_grad():
        for tensor in run.model.parameters():
            tensor += 5.0
    solution = run(10.0, 400, inner_steps=1)
    theta, p = t.penalised(10.0)
    torch.testing.assert_close(solution.theta, theta, rtol=0, atol=1e-9)
    torch.testing.assert_close(solution.p, p, rtol=0, atol=1e-9)
    torch.testing.assert_close(solution.s, t.lower(theta), rtol=0, atol=1e-9)


def test_the_runs_errors_fall_with_lam() -> None:
    """|p - s| and theta's distance to the bilevel solution like 1 / lam, the gap like 1 / lam^2."""
    values = [measures(solution.theta, solution.p, solution.s) for solution in runs().values()]
    distance_p, distance_theta, gap = (list(column) for column in zip(*values))
    late = LAMS[1:]
    assert slope(late, distance_p[1:]) == pytest.approx(-1, abs=0.01)
    assert slope(late, distance_theta[1:]) == pytest.approx(-1, abs=0.01)
    assert slope(late, gap[1:]) == pytest.approx(-2, abs=0.02)
    assert slope(LAMS, distance_p) == pytest.approx(-1, abs=0.03)
    assert slope(LAMS, distance_theta) == pytest.approx(-1, abs=0.03)
    assert slope(LAMS, gap) == pytest.approx(-2, abs=0.06)


@pytest.mark.parametrize("lam", [1.0, 10.0, 100.0])
def test_algorithm_1_ends_in_the_penalised_solution(lam: float) -> None:
    """First-order steps of theta: the closed form of (theta, p) for that lam, and s at the lower level's minimum."""
    t = known_problem.make()
    solution = known_problem.Run(t)(lam, 300 if lam == 100 else 200, module=bilevel_fo)
    theta, p = t.penalised(lam)
    torch.testing.assert_close(solution.theta, theta, rtol=0, atol=1e-6)
    torch.testing.assert_close(solution.p, p, rtol=0, atol=1e-6)
    torch.testing.assert_close(solution.s, t.lower(solution.theta), rtol=0, atol=1e-6)

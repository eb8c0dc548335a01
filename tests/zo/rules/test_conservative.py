"""The rule `conservative`: by brute force the best of the points that it would write; ties; values not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.float64_directions import DTYPES, Tree, Whole, random_tree, snapshot
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad
from zofo.zo.journal import Outcome
from zofo.zo.keys import derive
from zofo.zo.point import Point
from zofo.zo.rules import conservative
from zofo.zo.support import Band, Support

SHAPES: dict[str, Any] = {"w": (16, 48), "b": (8, 32), "norm": (40,)}
SUPPORT = Support({"w": Band(0.0, 0.08), "norm": None})


def estimate(step: int) -> ZOGrad:
    return ZOGrad(tuple((1.0 - 2.7 * i, Direction(derive(step, "z", i), "gaussian", SUPPORT)) for i in range(3)), 0, 6)


def strided(tree: Tree) -> Tree:
    """The same numbers, a matrix column by column in memory."""
    param = tree.get_parameter("w")
    tree.register_parameter("w", nn.Parameter(param.detach().t().contiguous().t()))
    return tree


@pytest.mark.parametrize("layout", [lambda tree: tree, strided])
@pytest.mark.parametrize("mode", ["layer", "copy"])
@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [*((d, "stochastic") for d in DTYPES), (torch.bfloat16, "split"), (torch.bfloat16, "nearest")],
)
@pytest.mark.parametrize("best", [Outcome.APPLIED, Outcome.STAYED, Outcome.REVERSED])
def test_conservative_is_the_best_of_the_points_that_it_would_write(
    best: Outcome, dtype: torch.dtype, rounding: Any, mode: str, layout: Callable[[Tree], Tree]
) -> None:
    """By brute force: what each scale would write, found with the journal's outcome on a copy of rule and theta."""
    tree = layout(random_tree(dtype, **SHAPES))
    theta, rule = Point(tree, mode=mode), conservative.Rule(conservative.Config(rounding=rounding), 3)
    rule.update_(theta, estimate(0), 1e-3, 0, outcome=Outcome.APPLIED)  # planes that are not 0
    g, points = estimate(1), {}
    for outcome in (Outcome.APPLIED, Outcome.STAYED, Outcome.REVERSED):
        copied, again = layout(random_tree(dtype, **SHAPES)), conservative.Rule(rule.config, 3)
        copied.load_state_dict(tree.state_dict())
        again.load_state_dict(rule.state_dict())
        other = Point(copied)
        assert again.update_(other, g, 1e-3, 1, outcome=outcome) is outcome
        points[outcome] = (snapshot(other), again.low)
    seen: list[Whole] = []

    def f() -> float:
        """0 at the written values of `best`, more elsewhere."""
        seen.append(tree.read())
        return sum(float((seen[-1][n] - v.double()).abs().sum()) for n, v in points[best][0].items())

    assert rule.update_(theta, g, 1e-3, 1, f) is best
    assert len(seen) == rule.forwards == 3
    for read, (weights, _) in zip(seen, (points[o] for o in (Outcome.APPLIED, Outcome.STAYED, Outcome.REVERSED))):
        assert all(torch.equal(read[n], v.double()) for n, v in weights.items())
    assert all(torch.equal(theta[n], v) for n, v in points[best][0].items())
    if rounding == "split":
        assert all(torch.equal(rule.low[n], plane) for n, plane in points[best][1].items())  # pyright: ignore


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.0, 1.0, 1.0), Outcome.APPLIED),
        ((2.0, 1.0, 1.0), Outcome.STAYED),
        ((1.0, 2.0, 1.0), Outcome.APPLIED),
        ((math.nan, 2.0, 1.0), Outcome.REVERSED),
        ((math.nan, math.nan, 5.0), Outcome.REVERSED),
        ((math.nan, 1.0, math.inf), Outcome.STAYED),
        ((-math.inf, 1.0, 2.0), Outcome.STAYED),
    ],
)
def test_conservative_ties_and_values_that_are_not_finite(values: tuple[float, ...], expected: Outcome) -> None:
    theta = Point(random_tree(**SHAPES))
    before, rule = theta.sha256(), conservative.Rule(conservative.Config(), 1)
    assert rule.update_(theta, estimate(0), 1e-3, 0, iter(values).__next__) is expected
    assert (theta.sha256() == before) == (expected is Outcome.STAYED)
    with pytest.raises(ValueError, match="give f"):
        rule.update_(theta, estimate(0), 1e-3, 0)

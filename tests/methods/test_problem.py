"""Schedules, the guard around an update, selection, the divergence warning."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from zofo.errors import NonFiniteError
from zofo.methods._first_order import Descent
from zofo.methods._nonfinite import HALVINGS, Refusals
from zofo.methods._problem import Problem, Schedule
from zofo.train.progress import Divergence
from zofo.train.selection import Selection
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome
from zofo.zo.journalled import Journalled
from zofo.zo.point import Point
from zofo.zo.rules.sgd import Config, Rule


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("constant", [0.5, 1, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.75, 0.5]), ("cosine", [0.5, 1, 1, 0.8535533906, 0.5])],
)
def test_schedules(kind, expected):
    """10 counted steps, 2 of warm-up: half way through the decay at step 6."""
    rate = Schedule(kind, total=10, warmup=2)
    assert [rate(1.0, step) for step in (0, 1, 2, 4, 6)] == pytest.approx(expected)
    assert rate(0.0, 5) == 0.0


def test_linear_and_cosine_end_near_zero():
    assert Schedule("linear", 100)(1.0, 99) == pytest.approx(0.01)
    assert Schedule("cosine", 100)(1.0, 100) == pytest.approx(0.0, abs=1e-12)


def test_divergence_is_reported_once_it_stands_out():
    watch = Divergence()
    assert [watch.check(c) for c in [1.0, -2.0, 1.5] * 5] == [None] * 15
    message = watch.check(-40.0)
    assert message is not None
    assert "times its running median" in message
    assert "lr_theta" in message


def test_exact_zeros_are_reported():
    watch = Divergence()
    assert [watch.check(0.0) is not None for _ in range(4)] == [False, False, True, False]


def problem(**kwargs: Any) -> Problem:
    return Problem(theta=None, adapters=None, loss=None, streams={}, seed=0, **kwargs)  # pyright: ignore


def refuse(p: Problem, level: str) -> None:
    with p.update(level):
        raise NonFiniteError("the loss is nan")


@pytest.mark.parametrize("policy", ["stop", "skip", "halve"])
def test_a_nonfinite_update_leaves_no_gradient_behind(policy):
    weight = nn.Parameter(torch.ones(3))
    p = problem(refusals=Refusals(policy))
    p.descents.append(Descent({"w": weight}))
    weight.grad = torch.ones(3)
    with pytest.raises(NonFiniteError, match=r"^upper update: the loss is nan$") if policy == "stop" else nullcontext():
        refuse(p, "upper")
    assert weight.grad is None
    assert p.refusals.skipped == {"upper": 1}


def test_halving_is_of_the_levels_own_rates():
    p = problem(refusals=Refusals("halve"), rate=Schedule("linear", 10))
    refuse(p, "lower")
    refuse(p, "lower")
    refuse(p, "upper")
    assert [p.lr(level, 0.1, 5) for level in ("lower", "upper")] == [0.1 * 0.5 / 4, 0.1 * 0.5 / 2]  # exact
    assert p.refusals.halvings == {"lower": 2, "upper": 1}


@pytest.mark.parametrize("between", ["nothing", "an update of the other level", "one of its own"])
def test_halvings_in_a_row_are_bounded(between):
    """An update of the level that was made begins the count again; one of the other level does not."""
    p = problem(refusals=Refusals("halve"))
    for _ in range(HALVINGS - 1):
        refuse(p, "upper")
    if between != "nothing":
        with p.update("upper" if between == "one of its own" else "lower"):
            pass
    again = Refusals("halve")
    again.load_state_dict(p.refusals.state_dict())  # as a resume does
    p.refusals = again
    words = rf"^upper update: the loss is nan, and so were the {HALVINGS - 1} before it"
    with nullcontext() if between == "one of its own" else pytest.raises(NonFiniteError, match=words):
        refuse(p, "upper")
    assert p.refusals.factor("upper") == 0.5**HALVINGS


def test_a_nonfinite_gradient_moves_nothing():
    weight = nn.Parameter(torch.ones(3))
    descent = Descent({"w": weight})
    weight.grad = torch.tensor([1.0, math.inf, 0.0])
    with pytest.raises(NonFiniteError, match="gradient"):
        descent.step(0.1)
    assert torch.equal(weight.detach(), torch.ones(3))
    assert not descent.state_dict()


def test_adamw_is_torchs_and_its_state_restores():
    """Against torch.optim.AdamW on a copy; cut in the middle and restored from the saved state."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    descent, reference = Descent({"w": ours}), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0)
    for k in range(6):
        grad = torch.randn(5, generator=generator)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        if k == 3:
            state = descent.state_dict()
            descent = Descent({"w": ours})
            descent.load_state_dict(state)
        descent.step(0.1)
        reference.step()
        torch.testing.assert_close(ours, theirs)


def test_clipping_bounds_the_norm():
    weight = nn.Parameter(torch.zeros(4))
    descent = Descent({"w": weight}, "sgd", max_grad_norm=1.0)
    weight.grad = torch.full((4,), 3.0)
    assert descent.step(1.0) == pytest.approx(6.0)
    assert weight.detach().norm() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("bad", [(math.nan, 1e-3), (math.inf, 1e-3), (float32(1e20), 1e30)])
def test_a_bad_coefficient_never_reaches_theta(bad):
    c, lr = bad
    theta = Point(nn.Linear(4, 4))
    before = theta.sha256()
    rule = Journalled(Rule(Config(), 0), None)
    with pytest.raises(NonFiniteError, match="coefficient"):
        rule.update_(theta, ZOGrad(((c, Direction(1)),), 0.0, 2), lr, 0)
    assert theta.sha256() == before


def test_normalize_and_clip():
    """normalize: c over the root of the bias-corrected running mean square; clip after it."""
    rule = Rule(Config(normalize=True, memory=0.5), 0)
    assert rule._scale(3.0) == pytest.approx(1.0)
    expected = -1.0 / math.sqrt((0.25 * 9 + 0.5 * 1) / 0.75)
    assert rule._scale(-1.0) == pytest.approx(expected)
    assert Rule(Config(clip=2.0), 0)._scale(-7.0) == -2.0


def test_selection():
    pick = Selection("loss", "accuracy", ("s", "p"))
    tie = {"s": {"loss": 0.5, "accuracy": 0.7}, "p": {"loss": 0.5, "accuracy": 0.9}}
    best = pick.better(tie, None, 11, 1, 100)
    assert best is not None
    assert best.candidate == "s"  # a tie goes to s
    assert pick.better(tie, best, 22, 2, 200) is None  # and to the earlier evaluation
    nan = {"s": {"loss": math.nan}, "p": {"loss": math.nan}}
    assert pick.better(nan, best, 22, 2, 200) is None
    by_metric = Selection("metric", "accuracy", ("s", "p")).better(tie, None, 11, 1, None)
    assert by_metric is not None
    assert by_metric.candidate == "p"


def test_outcomes_keep_their_numbers():
    """They are in every journal."""
    assert [int(o) for o in (Outcome.REVERSED, Outcome.STAYED, Outcome.APPLIED, Outcome.SKIPPED)] == [-1, 0, 1, 2]

"""A rule's, an optimizer's and an estimator's numbers from a checkpoint: what does not fit is refused, not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zofo.methods._first_order import Descent
from zofo.zo.direction import Direction
from zofo.zo.estimators import svrg
from zofo.zo.grad import ZOGrad
from zofo.zo.point import Point
from zofo.zo.rules import adam, sgd


def theta(dtype: torch.dtype = torch.float32) -> Point:
    return Point(
        nn.ParameterDict({"a": nn.Parameter(torch.ones(30, 20, dtype=dtype)), "b": nn.Parameter(torch.ones(7))})
    )


def moved(rule: Any, at: Point) -> None:
    rule.update_(at, ZOGrad(((0.5, Direction(3)),), 0.0, 2), 0.1, 0)


SPOILT: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "nothing": lambda parts: {},
    "a part is gone": lambda parts: dict(list(parts.items())[1:]),
    "a part too many": lambda parts: {**parts, "more": torch.zeros(3)},
    "another dtype": lambda parts: {part: t.to(torch.float64) for part, t in parts.items()},
    "too short": lambda parts: {part: t.flatten()[:-1].clone() for part, t in parts.items()},
    "too long": lambda parts: {part: torch.cat([t.flatten(), t.flatten()]) for part, t in parts.items()},
}


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("how", SPOILT)
def test_moments_of_a_rule(how: str, kind: Any) -> None:
    """At the loading, before anything moves."""
    rule, at = adam.Rule(adam.Config(state=kind), 0), theta()
    moved(rule, at)
    state = rule.state_dict()
    again = adam.Rule(adam.Config(state=kind), 0)
    again.load_state_dict(state)
    moved(again, theta())
    before = {name: tensor.clone() for name, tensor in at.items()}

    def go_on() -> None:
        again.load_state_dict({**state, "v": {**state["v"], "a": SPOILT[how](state["v"]["a"])}})
        again.fits(at, masked=False)

    with pytest.raises(ValueError, match="what the rule keeps for"):
        go_on()
    assert all(torch.equal(before[name], tensor) for name, tensor in at.items())


@pytest.mark.parametrize("low", [{"a": (3,), "b": (7,)}, {"c": (7,)}], ids=["a size", "a name"])
def test_residual_planes(low: dict[str, tuple[int, ...]]) -> None:
    rule = sgd.Rule(sgd.Config(rounding="split"), 0)
    rule.load_state_dict({**rule.state_dict(), "low": {n: torch.zeros(s, dtype=torch.int16) for n, s in low.items()}})
    with pytest.raises(ValueError, match=r"residual plane of \w is of another model"):
        rule.fits(theta(torch.bfloat16), masked=True)


@pytest.mark.parametrize("key", ["step", "exp_avg", "exp_avg_sq"])
def test_moments_of_adamw(key: str) -> None:
    param = nn.Parameter(torch.ones(5))
    param.grad = torch.ones(5)
    descent = Descent({"w": param})
    descent.step(0.1)
    state = descent.state_dict()
    descent.load_state_dict(state)
    with pytest.raises(ValueError, match="the moments of w are"):
        descent.load_state_dict({"w": {k: v for k, v in state["w"].items() if k != key}})


@pytest.mark.parametrize("name", ["a", "b"])
def test_an_anchor(name: str) -> None:
    at = theta()
    estimator = svrg.Estimator(svrg.Config(refresh=4))
    estimator.take(at, 0)
    state = estimator.state_dict()
    other = svrg.Estimator(svrg.Config(refresh=4))
    other.load_state_dict({**state, "anchor": {n: t for n, t in state["anchor"].items() if n != name}})
    with pytest.raises(ValueError, match="anchor of svrg is of another model"):
        other.fits(at)
    other.load_state_dict(state)
    other.fits(at)

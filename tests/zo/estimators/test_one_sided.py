"""The estimator `one-sided`: its bias on a quadratic by hand, its drift in place, its evaluations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny_models import build, logits
from zofo.zo.direction import Direction
from zofo.zo.estimators import one_sided, spsa
from zofo.zo.grad import float32
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.laws import LAWS
from zofo.zo.point import Point

D = 8


def quadratic() -> tuple[nn.ParameterDict, torch.Tensor, torch.Tensor]:
    """f(x) = b'x + x'Hx / 2 with x in float64, so that no rounding hides the second order. Returns x, b, H."""
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(D, D, generator=generator, dtype=torch.float64)
    x = torch.randn(D, generator=generator, dtype=torch.float64)
    return nn.ParameterDict({"x": nn.Parameter(x)}), torch.ones(D, dtype=torch.float64), root @ root.T


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("eps", [0.5, 2.0**-6])
def test_the_bias_is_the_curvature_along_z(law: Any, eps: float) -> None:
    """c = <grad f, z> + eps/2 z'Hz exactly on a quadratic; the two sides cancel the second term."""
    module, b, H = quadratic()
    theta = Point(module)

    def f() -> float:
        x = module["x"]
        return float(b @ x + x @ H @ x / 2)

    for k in range(5):
        seed = derive(0, "z", k)
        one = one_sided.Estimator(one_sided.Config(eps=eps, law=law))(f, theta, k, seed)
        two = spsa.Estimator(spsa.Config(eps=eps, law=law))(f, theta, k, seed)
        (c, z), (c2, _) = one.terms[0], two.terms[0]
        entries = reference.entries(z.entries, seed, tensor_key("x"), 0, D)
        moved = entries.double() * float32(eps * theta.stretch(z)) / eps  # fp32 product, as the shift adds it
        x = theta["x"].detach()
        slope, curvature = float((b + H @ x) @ moved), float(moved @ H @ moved)
        assert curvature > 1
        assert c == pytest.approx(slope + eps / 2 * curvature, rel=1e-6, abs=1e-5)
        assert c2 == pytest.approx(slope, rel=1e-6, abs=1e-5)
        assert one.value == f()
        assert (one.forwards, z.law, c) == (2, law, float32(c))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_evaluations(dtype: torch.dtype) -> None:
    """One at theta itself, one at theta + eps z, and theta is as it was."""
    model = build("llama", dtype)
    theta, seen, z = Point(model), [], Direction(5, "gaussian")
    before = theta.sha256()
    config = one_sided.Config(eps=1e-2, law="gaussian")
    one_sided.Estimator(config)(lambda: seen.append(logits(model)) or 0.0, theta, 0, 5)
    assert len(seen) == 2
    assert torch.equal(seen[0], logits(model))
    with theta.shifted(z, 1e-2):
        assert torch.equal(seen[1], logits(model))
    assert not torch.equal(*seen)
    assert theta.sha256() == before


@pytest.mark.parametrize("estimator", [spsa, one_sided])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_place_drifts_and_the_drift_can_be_done_again(estimator: Any, dtype: torch.dtype) -> None:
    """+ eps, - eps: theta does not come back, and `drift_`, which a replay calls, leaves the same bits."""
    model, again = build("llama", dtype), build("llama", dtype)
    theta, other = Point(model, mode="inplace"), Point(again, mode="inplace")
    config, before = estimator.Config(eps=1e-3, shift="inplace"), theta.sha256()
    for step in range(3):
        g = estimator.Estimator(config)(lambda: float(logits(model).float().mean()), theta, step, derive(0, "z", step))
        estimator.Estimator(config).drift_(other, g.terms[0][1])
    assert theta.sha256() == other.sha256() != before
    wrong = Point(build("llama", dtype), mode="inplace")
    other = spsa if estimator is one_sided else one_sided
    other.Estimator(other.Config(eps=1e-3)).drift_(wrong, Direction(derive(0, "z", 0)))
    right = Point(build("llama", dtype), mode="inplace")
    estimator.Estimator(config).drift_(right, Direction(derive(0, "z", 0)))
    assert wrong.sha256() != right.sha256()


def test_no_state() -> None:
    estimator = one_sided.Estimator(one_sided.Config())
    assert estimator.state_dict() == {}
    estimator.load_state_dict({})

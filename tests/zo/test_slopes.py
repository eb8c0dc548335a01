"""Slopes beside gradients and Hessians in float64: exact for a quadratic, theta back bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zofo.zo.direction import Direction
from zofo.zo.kernels.reference import add
from zofo.zo.keys import Address
from zofo.zo.point import Point
from zofo.zo.slopes import slopes
from zofo.zo.support import Support


def model_and_rows() -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(4)
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 6, generator=draw))
        model.bias.copy_(torch.randn(3, generator=draw))
    return model, torch.randn(5, 6, generator=draw), torch.randn(5, 3, generator=draw)


def entries(theta: Point, z: Direction, name: str) -> torch.Tensor:
    """z of one tensor, by the reference kernel."""
    zeros = torch.zeros(theta[name].numel())
    at = Address.of(name, theta[name].shape)
    add(zeros, zeros, [(z.seed, 1.0)], at.key, 0, law=z.entries)
    return zeros.double().view(theta[name].shape)


@pytest.mark.parametrize("part", [None, "weight"])
def test_of_a_quadratic_they_are_exact(part: str | None) -> None:
    model, x, y = model_and_rows()
    theta = Point(model)
    before = {name: tensor.clone() for name, tensor in theta.items()}
    support = None if part is None else Support({part: None})
    every = [Direction(seed, support=support) for seed in (3, 8, 21)]
    found = slopes(lambda: 0.5 * (model(x) - y).square().sum(1), theta, every, 0.25)
    weight, bias = theta["weight"].double(), theta["bias"].double()
    residual = x.double() @ weight.T + bias - y.double()
    assert torch.allclose(found.losses, 0.5 * residual.square().sum(1), rtol=1e-6)
    for k, z in enumerate(every):
        moved = x.double() @ entries(theta, z, "weight").T
        moved = moved + entries(theta, z, "bias") if part is None else moved
        assert torch.allclose(found.first[k], (residual * moved).sum(1), rtol=1e-4, atol=1e-4)
        assert torch.allclose(found.second[k], moved.square().sum(1), rtol=1e-4, atol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in theta.items())


def test_mode_inplace_is_refused() -> None:
    model, x, _ = model_and_rows()
    with pytest.raises(ValueError, match="does not return to it"):
        slopes(lambda: model(x).sum(1), Point(model, mode="inplace"), [Direction(1)], 1e-3)

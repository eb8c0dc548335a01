"""fo-ft descends the loss of every weight, and of nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.float64_llama import gradient, widen
from tests.tiny_bilevel import leaves, ready, values, world
from zofo.methods import fo_ft
from zofo.zo.masks import magnitude
from zofo.zo.support import members


def test_fo_ft_descends_the_loss_of_every_weight() -> None:
    """Plain SGD shows the gradient: theta moves by lr times the float64 gradient, and nothing else does."""
    w = world("options")
    problem = w.problem()
    theta = leaves(w.theta)
    adapter = widen(w.adapters.parameters("p"))  # active while it rests: its part is in the loss
    want = dict(zip(theta, gradient(w.wide.loss(theta, adapter, w.f[0]), list(theta.values()))))
    before = values(w.theta)
    ready(fo_ft.Method(fo_ft.Config(lr=0.5, optimizer="sgd")), problem).step(0)
    for name, value in w.theta.items():
        scale = float(want[name].abs().max())
        torch.testing.assert_close((before[name] - value).double() / 0.5, want[name], rtol=1e-4, atol=1e-4 * scale)
        assert value.grad is None
        assert not value.requires_grad


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_with_a_mask_what_rests_does_not_move(optimizer: Any) -> None:
    """Those that move are the mask's, of every tensor; a tensor without a share of it rests as a whole."""
    w = world("options")
    mask = magnitude.Mask(magnitude.Config(sparsity=0.75), 0)
    problem = w.problem(mask=mask)
    support, before = mask.at(w.theta, 0), values(w.theta)
    member = {
        name: members(support.parts[name], tensor, w.theta.addresses[name].key)
        for name, tensor in w.theta.items()
        if name in support.parts
    }
    assert 0 < len(member) < len(before), "norms have no share"
    method = ready(fo_ft.Method(fo_ft.Config(lr=0.1, optimizer=optimizer)), problem)
    method.step(0)
    for name, tensor in w.theta.items():
        moved = tensor != before[name]
        if name not in member:
            assert not moved.any(), name
        else:
            assert not (moved & ~member[name]).any(), name
            assert (moved & member[name]).any(), name

"""fo-ft descends the loss of every weight, and of nothing else."""

from __future__ import annotations

import torch

from tests.float64_llama import gradient, widen
from tests.tiny_bilevel import leaves, ready, values, world
from zofo.methods import fo_ft


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

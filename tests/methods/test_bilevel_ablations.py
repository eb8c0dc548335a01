"""The ablations of Bilevel ZOFO: with every departure off they are Algorithm 2, to the last bit."""

from __future__ import annotations

import torch

from tests.tiny_bilevel import World, world
from zofo.methods import bilevel_ablations, bilevel_zofo

SETTINGS = {"inner_steps": 2, "lam": 3.0, "lr_s": 1e-2, "lr_theta": 1e-3, "lr_p": 2e-2}


def after(module: object, steps: int = 2) -> tuple[World, list[dict[str, float]]]:
    w = world()
    method = module.Method(module.Config(**SETTINGS))  # pyright: ignore[reportAttributeAccessIssue]
    method.setup(w.problem())
    return w, [method.step(k) for k in range(steps)]


def test_with_all_off_it_is_algorithm_2() -> None:
    (one, metrics), (other, others) = after(bilevel_zofo), after(bilevel_ablations)
    assert metrics == others
    assert one.theta.sha256() == other.theta.sha256()
    for name in ("p", "s"):
        state, others_state = one.adapters.state(name), other.adapters.state(name)
        assert all(torch.equal(state[key], others_state[key]) for key in state)
    assert bilevel_ablations.Method(bilevel_ablations.Config()).updates(7) == {"lower": 70, "upper": 7}

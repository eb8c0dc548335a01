"""bilevel-fo against equation (6), and against Bilevel ZOFO where the two are one."""

from __future__ import annotations

import torch

from tests.float64_llama import gradient, widen
from tests.tiny_bilevel import leaves, ready, same, values, world
from zofo.methods import bilevel_fo, bilevel_zofo


def test_bilevel_fo_is_equation_6_with_the_sign_of_equation_5() -> None:
    w, lam, lr = world(), 7.0, 0.05
    problem = w.problem()
    problem.estimator = problem.rule = None
    theta, p, s = leaves(w.theta), leaves(w.adapters.parameters("p")), widen(w.adapters.parameters("s"))
    F = w.wide.loss
    G = F(theta, p, w.f[0]) + lam * (F(theta, p, w.p[0]) - F(theta, s, w.p[0]))
    grads = gradient(G, [*theta.values(), *p.values()])
    before = values(w.theta), values(w.adapters.parameters("p")), values(w.adapters.parameters("s"))
    config = bilevel_fo.Config(lam=lam, inner_steps=0, lr_p=lr, lr_theta=lr, optimizer="sgd", optimizer_theta="sgd")
    ready(bilevel_fo.Method(config), problem).step(0)
    after = {**w.theta, **w.adapters.parameters("p")}
    for (name, value), want, old in zip(after.items(), grads, [*before[0].values(), *before[1].values()]):
        taken = (old - value.detach()).double() / lr
        torch.testing.assert_close(taken, want, rtol=1e-3, atol=2e-4 * float(want.abs().max()), msg=name)
    assert same(values(w.adapters.parameters("s")), before[2])
    assert all(t.grad is None for t in (*w.theta.values(), *w.adapters.parameters("s").values()))


def test_bilevel_fo_moves_s_and_p_as_algorithm_2_does() -> None:
    """With lr_theta = 0 the two algorithms are one, bit for bit."""
    adapters = []
    for module in (bilevel_zofo, bilevel_fo):
        w = world()
        method = ready(module.Method(module.Config(inner_steps=2, lr_theta=0.0)), w.problem())
        method.step(0)
        s = {f"s{name}": value for name, value in w.adapters.state("s").items()}
        adapters.append({**values(w.adapters.parameters("p")), **s})
    assert same(*adapters)

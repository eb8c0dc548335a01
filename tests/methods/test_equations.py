"""Bilevel ZOFO's equations (7), (8), (9) against an independent float64 computation, and the order of its updates.

The run under test is the real one: PEFT's LoRA, padded batches, mixed rows, stand-ins, fp32. The other side is in
tests/float64_llama.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.float64_llama import gradient, widen
from tests.tiny_bilevel import EPS, SEED, World, direction, moved, world
from tests.tiny_models import PAD
from zofo.data.batch import Batch, collate
from zofo.errors import NonFiniteError
from zofo.methods._first_order import Descent
from zofo.methods._problem import Problem
from zofo.objectives._loss import Loss
from zofo.zo.estimators import spsa
from zofo.zo.grad import float32
from zofo.zo.journalled import Journalled
from zofo.zo.keys import derive
from zofo.zo.point import Point


@dataclass
class Expected:
    """One upper step in float64: s^{k+1}, c, and p's gradient."""

    s: dict[str, Tensor]
    c: float
    c_with_old_s: float
    grad_p: dict[str, Tensor]


def expected(w: World, lam: float, inner: int, lr_s: float) -> Expected:
    theta, p, s = widen(w.theta), widen(w.adapters.parameters("p")), widen(w.adapters.parameters("s"))
    old_s, F = dict(s), w.wide.loss
    for t in range(inner):  # lines 3-7
        leaves = {name: value.requires_grad_(True) for name, value in widen(s).items()}
        grads = gradient(F(theta, leaves, w.p[t]), list(leaves.values()))
        s = {name: value - lr_s * g for (name, value), g in zip(s.items(), grads)}
    z, batch_f, batch_p = direction(w.theta, 0), w.f[0], w.p[inner]

    def G(at: dict[str, Tensor], s: dict[str, Tensor]) -> float:  # (5)
        return float(F(at, p, batch_f) + lam * (F(at, p, batch_p) - F(at, s, batch_p)))

    plus, minus = moved(theta, z, EPS), moved(theta, z, -EPS)
    c, old = ((G(plus, adapter) - G(minus, adapter)) / (2 * EPS) for adapter in (s, old_s))  # (7), (9)
    leaves = {name: value.requires_grad_(True) for name, value in widen(p).items()}
    upper = F(theta, leaves, batch_f) + lam * F(theta, leaves, batch_p)  # (8)
    return Expected(s, c, old, dict(zip(leaves, gradient(upper, list(leaves.values())))))


def close(actual: Tensor, wanted: Tensor, scale: float, tolerance: float) -> None:
    torch.testing.assert_close(actual.detach().double(), wanted, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("objective", ["lm", "options"])
@pytest.mark.parametrize("lam", [0.0, 1.0, 10.0, 10000.0])
def test_an_upper_step_in_float64(lam: float, objective: str) -> None:
    w, lr_s, lr_p, lr_theta, inner = world(objective), 0.3, 0.01, 1e-3, 2
    want = expected(w, lam, inner, lr_s)
    theta = {name: value.clone() for name, value in w.theta.items()}
    p = {name: value.detach().clone() for name, value in w.adapters.parameters("p").items()}
    metrics = w.method(lam=lam, inner_steps=inner, lr_s=lr_s, lr_p=lr_p, lr_theta=lr_theta).step(0)

    for name, value in w.adapters.parameters("s").items():  # s descends F(.; D_p), without the factor lam
        close(value, want.s[name], 1.0, 2e-6)
    c = metrics["c"]  # (7) of G: one z for three terms, the same B_p for p and s, at s^{k+1}
    assert c == pytest.approx(want.c, rel=3e-5, abs=1e-4)
    assert lam == 0 or abs(want.c_with_old_s - want.c) > 20 * (3e-5 * abs(want.c) + 1e-4)  # s^k would have shown
    z, factor = direction(w.theta, 0), torch.tensor(float32(-lr_theta * c))
    for name, value in w.theta.items():  # (9), bit for bit
        assert torch.equal(value, theta[name] + factor * z[name])
    biggest = max(float(g.abs().max()) for g in want.grad_p.values())
    for name, value in w.adapters.parameters("p").items():  # (8): plain SGD shows the gradient
        close((p[name] - value) / lr_p, want.grad_p[name], biggest, 5e-5)


def test_the_coefficient_is_the_slope_of_G_along_z() -> None:
    """c -> <grad_theta G, z> as eps -> 0, both in float64; and fp32's c at a small eps is near it."""
    w, lam = world(), 10.0
    theta = {name: value.requires_grad_(True) for name, value in widen(w.theta).items()}
    p, s, F = widen(w.adapters.parameters("p")), widen(w.adapters.parameters("s")), w.wide.loss
    G = F(theta, p, w.f[0]) + lam * (F(theta, p, w.p[0]) - F(theta, s, w.p[0]))
    z = direction(w.theta, 0)
    slope = sum(float((g * z[name]).sum()) for name, g in zip(theta, gradient(G, list(theta.values()))))
    problem = w.problem()
    problem.estimator = spsa.Estimator(spsa.Config(eps=1e-3))
    metrics = w.method(problem, lam=lam, inner_steps=0, lr_theta=0.0).step(0)
    assert metrics["c"] == pytest.approx(slope, rel=0.02)
    assert metrics["G"] == pytest.approx(float(G.detach()), rel=0.01)


# ---------------------------------------------------------------------------------------------------- order of updates


class Spy:
    """Writes down what a step does, in order, and with what."""

    def __init__(self, w: World, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.batches: dict[int, Batch] = {}
        self.theta, theta = [], w.theta
        each, backward, step = Loss.each, Loss.backward, Descent.step
        shifted, update = Point.shifted, Journalled.update_

        def note(text: str) -> None:
            assert all(t.grad is None and not t.requires_grad for t in theta.values())
            self.events.append(text)

        def named(batch: Batch) -> str:
            self.batches[id(batch)] = batch  # kept alive, so that no id is used twice
            return f"#{list(self.batches).index(id(batch))}"

        def spy_each(loss: Loss, parts: Any) -> list[float]:
            note("each " + " ".join(f"{named(b)}{name or loss.adapters.current}" for b, name in parts))  # pyright: ignore
            return each(loss, parts)

        def spy_backward(loss: Loss, batch: Batch, scale: float = 1.0) -> float:
            note(f"backward {named(batch)}{loss.adapters.current} x{scale:g}")  # pyright: ignore
            return backward(loss, batch, scale)

        def spy_step(descent: Descent, lr: float) -> float:
            mine = {id(t) for t in descent.params.values()}
            which = "s" if mine == {id(t) for t in w.adapters.parameters("s").values()} else "p"
            note(f"step {which} {lr:g}")
            return step(descent, lr)

        def spy_shifted(point: Point, move: Any, scale: float, rounding: str = "stochastic") -> Any:
            note(f"shift {scale:+g} z{move.seed == derive(SEED, 'z', 0)}")
            return shifted(point, move, scale, rounding)

        def spy_update(rule: Journalled, *args: Any) -> Any:
            note("move theta")
            return update(rule, *args)

        for owner, name, spy in (
            (Loss, "each", spy_each),
            (Loss, "backward", spy_backward),
            (Descent, "step", spy_step),
            (Point, "shifted", spy_shifted),
            (Journalled, "update_", spy_update),
        ):
            monkeypatch.setattr(owner, name, spy)


def test_order_of_the_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """theta's estimate and p's gradient both at (theta^k, p^k, s^{k+1})."""
    w = world()
    problem = w.problem()
    method = w.method(problem, lam=7.0, inner_steps=2, lr_s=0.3, lr_p=0.2, lr_theta=0.1)
    spy = Spy(w, problem, monkeypatch)
    method.step(0)
    assert spy.events == [
        "backward #0s x1",
        "step s 0.3",
        "backward #1s x1",
        "step s 0.3",
        "backward #2p x1",
        "backward #3p x7",
        "shift +0.01 zTrue",
        "each #2p #3p #3s",
        "shift -0.01 zTrue",
        "each #2p #3p #3s",
        "move theta",
        "step p 0.2",
    ]
    drawn = list(spy.batches.values())
    for batch, source in zip(drawn, [w.p[0], w.p[1], w.f[0], w.p[2]], strict=True):
        assert torch.equal(batch.input_ids, collate(source, PAD).input_ids)


def test_theta_never_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    problem = w.problem(max_grad_norm=1.0)
    method = w.method(problem, inner_steps=2, optimizer="adamw")
    spy = Spy(w, problem, monkeypatch)  # looks at every event
    for k in range(2):
        method.step(k)
    assert len(spy.events) == 24
    assert all(t.grad is None and not t.requires_grad for t in w.theta.values())
    assert all(t.grad is None for name in "ps" for t in w.adapters.parameters(name).values())


def test_a_gradient_of_p_that_is_not_finite_leaves_theta_alone() -> None:
    """The loss is finite, the backward pass overflows (as in fp16): the update must not happen by half."""
    w = world()
    method = w.method(lam=10.0, inner_steps=0, lr_theta=1e-3)
    next(iter(w.adapters.parameters("p").values())).register_hook(lambda gradient: gradient * float("inf"))
    before = w.theta.sha256()
    with pytest.raises(NonFiniteError):
        method.step(0)
    assert w.theta.sha256() == before

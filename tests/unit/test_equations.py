"""Bilevel ZOFO's equations (7), (8), (9) against an independent float64 computation, and the order of its updates.

The run under test is the real one: PEFT's LoRA, padded batches, mixed rows, stand-ins, fp32. See tests/wide.py for the
other side.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.wide import Wide, gradient, widen
from tests.zoo import VOCAB, build, config
from zofo.adapters import lora
from zofo.adapters._set import AdapterSet
from zofo.data import Batch, Encoded, Row, collate
from zofo.estimators import spsa
from zofo.first_order import Descent
from zofo.methods import bilevel_zofo, mezo
from zofo.objective import OBJECTIVES, LabelHead, Loss
from zofo.problem import Journalled, Problem
from zofo.rules import sgd
from zofo.tasks import Example
from zofo.zo.direction import Direction
from zofo.zo.grad import float32
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.point import Point

EPS, SEED, PAD = 1e-2, 3, 2
R, ALPHA = 4, 8


def examples(objective: str, n: int, seed: int) -> list[Encoded]:
    """Prompts of 2 to 7 random tokens; lm: one answer of 1 to 4 tokens; options: 2 or 3 of unequal lengths."""
    rng, found = random.Random(seed), []
    for i in range(n):
        prompt = [rng.randrange(3, VOCAB) for _ in range(rng.randrange(2, 8))]
        count = 1 if objective == "lm" else rng.choice([2, 3])
        rows = []
        for option in range(count):
            answer = [rng.randrange(3, VOCAB) for _ in range(rng.randrange(1, 5))]
            labels = tuple((len(prompt) - 1 + t, token, option) for t, token in enumerate(answer))
            rows.append(Row((*prompt, *answer[:-1]), labels))
        found.append(Encoded(Example(f"x/{i}", "", ("",) * count, (0,)), tuple(rows), (rng.randrange(count),), count))
    return found


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices are so small that a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class World:
    """A tiny Llama with LoRAs p and s (both away from zero, and different), batches, and the same in float64."""

    model: Any
    theta: Point
    adapters: AdapterSet
    loss: Loss
    f: list[list[Encoded]]  # the batches of D_f and D_p, in the order in which they will be drawn
    p: list[list[Encoded]]
    wide: Wide

    def problem(self, **kwargs: Any) -> Problem:
        streams = {name: iter([collate(e, PAD) for e in getattr(self, name)]) for name in ("f", "p")}
        streams["train"] = streams["f"]
        problem = Problem(self.theta, self.adapters, self.loss, streams, SEED, **kwargs)
        problem.estimator = spsa.Estimator(spsa.Config(eps=EPS))
        problem.rule = Journalled(sgd.Rule(sgd.Config(), SEED), None)
        return problem

    def method(self, problem: Problem | None = None, **settings: Any) -> bilevel_zofo.Method:
        method = bilevel_zofo.Method(bilevel_zofo.Config(**{"optimizer": "sgd", **settings}))
        method.setup(problem or self.problem())
        return method


def lively(model: Any) -> Any:
    """Matrices of a trained model's size (0.12), so that p, s and a shift by eps all matter."""
    for param in model.parameters():
        if param.ndim > 1:
            param.mul_(6)
    return model


def world(
    objective: str = "lm",
    trained: bool = True,
    micro: int | None = None,
    family: str = "llama",
    dtype: torch.dtype = torch.float32,
) -> World:
    model = lively(build(family)).to(dtype)
    theta, head = Point(model), LabelHead(model)
    adapters = lora.Adapter(lora.Config(r=R, alpha=ALPHA)).build(model, ("p", "s"), SEED)
    generator = torch.Generator().manual_seed(4)
    for name in ("p", "s") if trained else ():
        for tensor in adapters.parameters(name).values():
            tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
    loss = Loss(adapters.model, head, OBJECTIVES[objective], PAD, torch.device("cpu"), adapters, micro)
    batches = [examples(objective, 5, 10 * i) for i in range(8)]
    wide = Wide(config(family), ALPHA / R, objective)
    return World(model, theta, adapters, loss, batches[:2], batches[2:], wide)


def direction(theta: Point, step: int) -> dict[str, Tensor]:
    """z of a step, whole, by the reference kernel."""
    seed = derive(SEED, "z", step)
    return {n: reference.signs(seed, tensor_key(n), 0, t.numel()).view(t.shape) for n, t in theta.items()}


def moved(theta: dict[str, Tensor], z: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    return {name: value + scale * z[name] for name, value in theta.items()}


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
    c, old = ((G(plus, some) - G(minus, some)) / (2 * EPS) for some in (s, old_s))  # (7), (9)
    leaves = {name: value.requires_grad_(True) for name, value in widen(p).items()}
    upper = F(theta, leaves, batch_f) + lam * F(theta, leaves, batch_p)  # (8)
    return Expected(s, c, old, dict(zip(leaves, gradient(upper, list(leaves.values())))))


def close(found: Tensor, wanted: Tensor, scale: float, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found.detach().double(), wanted, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("objective", ["lm", "options"])
@pytest.mark.parametrize("lam", [0.0, 1.0, 10.0, 10000.0])
def test_an_upper_step_in_float64(lam: float, objective: str) -> None:
    w, lr_s, lr_p, lr_theta, inner = world(objective), 0.3, 0.01, 1e-3, 2
    want = expected(w, lam, inner, lr_s)
    theta = {name: value.clone() for name, value in w.theta.items()}
    p = {name: value.detach().clone() for name, value in w.adapters.parameters("p").items()}
    metrics = w.method(lam=lam, inner_steps=inner, lr_s=lr_s, lr_p=lr_p, lr_theta=lr_theta).step(0)

    for name, value in w.adapters.parameters("s").items():  # s descends F(.; D_p), without the factor lam
        close(value, want.s[name], 1.0, 1e-5)
    c = metrics["c"]  # (7) of G: one z for three terms, the same B_p for p and s, at s^{k+1}
    assert c == pytest.approx(want.c, rel=1e-3, abs=2e-4)
    assert lam == 0 or abs(want.c_with_old_s - want.c) > 20 * (1e-3 * abs(want.c) + 2e-4)  # s^k would have shown
    z, factor = direction(w.theta, 0), torch.tensor(float32(-lr_theta * c))
    for name, value in w.theta.items():  # (9), bit for bit
        assert torch.equal(value, theta[name] + factor * z[name])
    biggest = max(float(g.abs().max()) for g in want.grad_p.values())
    for name, value in w.adapters.parameters("p").items():  # (8): plain SGD shows the gradient
        close((p[name] - value) / lr_p, want.grad_p[name], biggest, 1e-4)


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
            (Loss, "each", spy_each), (Loss, "backward", spy_backward), (Descent, "step", spy_step),
            (Point, "shifted", spy_shifted), (Journalled, "update_", spy_update),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, spy)


def test_order_of_the_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC section 3, steps 1 to 4: theta's estimate and p's gradient both at (theta^k, p^k, s^{k+1})."""
    w = world()
    problem = w.problem()
    method = w.method(problem, lam=7.0, inner_steps=2, lr_s=0.3, lr_p=0.2, lr_theta=0.1)
    spy = Spy(w, problem, monkeypatch)
    method.step(0)
    assert spy.events == [
        "backward #0s x1", "step s 0.3", "backward #1s x1", "step s 0.3",
        "shift +0.01 zTrue", "each #2p #3p #3s", "shift -0.01 zTrue", "each #2p #3p #3s",
        "backward #2p x1", "backward #3p x7", "move theta", "step p 0.2",
    ]  # fmt: skip
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


# ---------------------------------------------------------------------------------------------------------------- MeZO


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_mezo_identity(dtype: torch.dtype, optimizer: str) -> None:
    """lam = 0, T = 0 and a LoRA at its start: Bilevel ZOFO's upper steps are MeZO's, bit for bit."""
    w = world(trained=False, dtype=dtype)
    method = w.method(lam=0.0, inner_steps=0, lr_p=0.0, lr_theta=1e-3, optimizer=optimizer)
    plain = lively(build("llama")).to(dtype)
    loss = Loss(plain, LabelHead(plain), OBJECTIVES["lm"], PAD, torch.device("cpu"))
    other = World(plain, Point(plain), w.adapters, loss, w.f, w.p, w.wide)
    problem = other.problem()
    problem.adapters = None
    rival = mezo.Method(mezo.Config(lr=1e-3))
    rival.setup(problem)
    start = w.theta.sha256()
    assert start == other.theta.sha256()
    for k in range(2):
        assert method.step(k)["c"] == rival.step(k)["c"] != 0
        assert w.theta.sha256() == other.theta.sha256() != start


def test_mezo_is_its_rule_given_z() -> None:
    """theta - lr c z with c = [F(theta + eps z) - F(theta - eps z)] / (2 eps), computed by hand in float64."""
    plain, w = lively(build("llama")), world()
    theta = Point(plain)
    loss = Loss(plain, LabelHead(plain), OBJECTIVES["lm"], PAD, torch.device("cpu"))
    problem = World(plain, theta, w.adapters, loss, w.f, w.p, w.wide).problem()
    method = mezo.Method(mezo.Config(lr=1e-2))
    method.setup(problem)
    for k in range(2):
        before, z = widen(theta), direction(theta, k)
        plus, minus = (float(w.wide.loss(moved(before, z, scale), None, w.f[k])) for scale in (EPS, -EPS))
        c = method.step(k)["c"]
        assert c == pytest.approx((plus - minus) / (2 * EPS), rel=1e-3, abs=1e-4)
        for name, value in theta.items():
            assert torch.equal(value, before[name].float() + torch.tensor(float32(-1e-2 * c)) * z[name])


# -------------------------------------------------------------------------------------------- micro-batches, mixed rows


@pytest.mark.parametrize("objective", ["lm", "options"])
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_micro_batches_are_the_whole_batch(micro: int, objective: str) -> None:
    """Values of the ZO side and gradients of the FO side, with batches whose parts have unequal numbers of tokens."""
    whole, cut = world(objective), world(objective, micro=micro)
    found = []
    for w in (whole, cut):
        f, p = collate(w.f[0], PAD), collate(w.p[0], PAD)
        values = w.loss.each([(f, "p"), (p, "p"), (p, "s")])
        w.adapters._activate("p")
        values += [w.loss(f), w.loss.backward(f), w.loss.backward(p, scale=3.0)]
        found.append((values, [t.grad for t in w.adapters.parameters("p").values()]))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for one, two in zip(found[0][1], found[1][1]):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5 * float(one.abs().max()))
    exact = float(whole.wide.loss(widen(whole.theta), widen(whole.adapters.parameters("p")), whole.f[0]))
    assert found[1][0][0] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_mixed_rows_are_separate_forwards(family: str) -> None:
    w = world("options", family=family)
    f, p = collate(w.f[0], PAD), collate(w.p[0], PAD)
    for scale in (0.0, EPS, -EPS):
        with w.theta.shifted(Direction(derive(SEED, "z", 0)), scale):
            mixed = w.loss.each([(f, "p"), (p, "p"), (p, "s")])
            alone = [w.loss.each([part])[0] for part in ((f, "p"), (p, "p"), (p, "s"))]
        assert mixed == pytest.approx(alone, rel=1e-5)
        assert abs(mixed[1] - mixed[2]) > 1e-3 * mixed[1]

"""MeZO, and what must be the same number twice: MeZO inside Bilevel ZOFO, micro-batches, mixed rows."""

from __future__ import annotations

import pytest
import torch

from tests.float64_llama import widen
from tests.tiny_bilevel import EPS, SEED, World, direction, lively, moved, world
from tests.tiny_models import PAD, build, cpu_loss
from zofo.data.batch import collate
from zofo.methods import mezo
from zofo.zo.direction import Direction
from zofo.zo.grad import float32
from zofo.zo.keys import derive
from zofo.zo.point import Point

# ---------------------------------------------------------------------------------------------------------------- MeZO


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_mezo_identity(dtype: torch.dtype, optimizer: str) -> None:
    """lam = 0, T = 0 and a LoRA at its start: Bilevel ZOFO's upper steps are MeZO's, bit for bit."""
    w = world(trained=False, dtype=dtype)
    method = w.method(lam=0.0, inner_steps=0, lr_p=0.0, lr_theta=1e-3, optimizer=optimizer)
    plain = lively(build("llama")).to(dtype)
    other = World(plain, Point(plain), w.adapters, cpu_loss(plain, "lm"), w.f, w.p, w.wide)
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
    problem = World(plain, theta, w.adapters, cpu_loss(plain, "lm"), w.f, w.p, w.wide).problem()
    method = mezo.Method(mezo.Config(lr=1e-2))
    method.setup(problem)
    for k in range(2):
        before, z = widen(theta), direction(theta, k)
        plus, minus = (float(w.wide.loss(moved(before, z, scale), None, w.f[k])) for scale in (EPS, -EPS))
        c = method.step(k)["c"]
        assert c == pytest.approx((plus - minus) / (2 * EPS), rel=3e-5, abs=1e-4)
        for name, value in theta.items():
            assert torch.equal(value, before[name].float() + torch.tensor(float32(-1e-2 * c)) * z[name])


# -------------------------------------------------------------------------------------------- micro-batches, mixed rows


@pytest.mark.parametrize("objective", ["lm", "options"])
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_micro_batches_are_the_whole_batch(micro: int, objective: str) -> None:
    """Values of the ZO side and gradients of the FO side, with batches whose parts have unequal numbers of tokens."""
    whole, cut = world(objective), world(objective, micro=micro)
    values_and_grads = []
    for w in (whole, cut):
        f, p = collate(w.f[0], PAD), collate(w.p[0], PAD)
        values = w.loss.each([(f, "p"), (p, "p"), (p, "s")])
        with w.adapters.active("p"):
            values += [w.loss(f), w.loss.backward(f), w.loss.backward(p, scale=3.0)]
        values_and_grads.append((values, [t.grad for t in w.adapters.parameters("p").values()]))
    assert values_and_grads[1][0] == pytest.approx(values_and_grads[0][0], rel=1e-5)
    for one, two in zip(values_and_grads[0][1], values_and_grads[1][1]):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5 * float(one.abs().max()))
    exact = float(whole.wide.loss(widen(whole.theta), widen(whole.adapters.parameters("p")), whole.f[0]))
    assert values_and_grads[1][0][0] == pytest.approx(exact, rel=1e-5)


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

"""The options of Bilevel ZOFO, each against its equation in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.float64_llama import gradient, widen
from tests.tiny_bilevel import EPS, SEED, direction, leaves, moved, same, values, world
from zofo.methods import bilevel_ablations, bilevel_zofo
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key


@pytest.mark.parametrize(
    ("kind", "expected"), [("linear", [2.0, 4.0, 6.0, 8.0]), ("geometric", [2.0, 3.1748, 5.0397, 8.0])]
)
def test_lambda_goes_from_lam_start_to_lam(kind: str, expected: list[float]) -> None:
    """4 iterations of 3 counted steps, the first at lam_start and the last at lam; the same when upper steps count."""
    for total, count in ((12, "all"), (13, "all"), (4, "outer")):
        problem = world().problem(total=total, count=count)
        method = world().method(problem, lam=8.0, lam_start=2.0, lam_schedule=kind, inner_steps=2)
        assert [method.lam(k) for k in range(4)] == pytest.approx(expected, rel=1e-4)
        assert method.lam(9) == 8.0


def test_what_counts() -> None:
    """`all`: T lower and one upper update an iteration; `outer`: one. Schedules go by it."""
    rates: list[int] = []

    def rate(value: float, step: int) -> float:
        rates.append(step)
        return value

    for count, expected in (("all", [3, 4, 5, 5]), ("outer", [1, 1, 1, 1])):
        rates.clear()
        world().method(world().problem(rate=rate, count=count), inner_steps=2).step(1)
        assert rates[1:5] == expected  # the first one is for the log


def test_s_starts_warm_at_p_or_anew() -> None:
    starts = {}
    for s_start in ("warm", "from_p", "reset"):
        w = world()
        initial = values(w.adapters.parameters("s"))
        method = w.method(s_start=s_start, inner_steps=1, lr_s=0.1, lr_p=0.1, optimizer="adamw")
        method.step(0)
        p, s = values(w.adapters.parameters("p")), values(w.adapters.parameters("s"))
        assert method.opt_s.state_dict()
        method.start_s()
        starts[s_start] = values(w.adapters.parameters("s"))
        assert same(starts[s_start], {"warm": s, "from_p": p, "reset": initial}[s_start])
        assert bool(method.opt_s.state_dict()) == (s_start == "warm")
        assert not same(s, p)
        assert not same(s, initial)


def test_p_restarted_at_s_takes_its_step_from_there() -> None:
    """At p = s the penalty is 0, so G is F(theta, s; B_f) and p leaves s by one step of (8)."""
    w, lr = world(), 0.05
    method = w.method(p_start="s", inner_steps=1, lr_s=0.3, lr_p=lr, lam=5.0, lr_theta=0.0)
    metrics = method.step(0)
    s = leaves(w.adapters.parameters("s"))
    theta = widen(w.theta)
    F = w.wide.loss
    z = direction(w.theta, 0)
    sides = [float(F(moved(theta, z, e), widen(s), w.f[0])) for e in (EPS, -EPS)]
    assert metrics["G"] == pytest.approx(sum(sides) / 2, rel=1e-5)
    assert metrics["c"] == pytest.approx((sides[0] - sides[1]) / (2 * EPS), rel=1e-3, abs=1e-3)
    want = dict(zip(s, gradient(F(theta, s, w.f[0]) + 5.0 * F(theta, s, w.p[1]), list(s.values()))))
    biggest = max(float(g.abs().max()) for g in want.values())
    for name, value in w.adapters.parameters("p").items():
        taken = (s[name].detach() - value.detach().double()) / lr
        torch.testing.assert_close(taken, want[name], rtol=1e-3, atol=2e-4 * biggest)


def test_more_steps_of_p_are_on_batches_of_their_own() -> None:
    """Two steps of p: the second at the new theta and p, on the next B_f and B_p; each is a counted upper update."""
    w, lr = world(), 0.05
    method = w.method(p_steps=2, inner_steps=0, lr_p=lr, lam=5.0, lr_theta=1e-3)
    once = world()
    once.method(inner_steps=0, lr_p=lr, lam=5.0, lr_theta=1e-3).step(0)
    method.step(0)
    assert same(values(w.theta), values(once.theta))
    p, theta, F = leaves(once.adapters.parameters("p")), widen(once.theta), w.wide.loss
    want = dict(zip(p, gradient(F(theta, p, w.f[1]) + 5.0 * F(theta, p, w.p[1]), list(p.values()))))
    biggest = max(float(g.abs().max()) for g in want.values())
    for name, value in w.adapters.parameters("p").items():
        taken = (p[name].detach() - value.detach().double()) / lr
        torch.testing.assert_close(taken, want[name], rtol=1e-3, atol=2e-4 * biggest)
    assert method.updates(3) == {"lower": 0, "upper": 6}


def test_tied_rates() -> None:
    """One zeta: p moves at theta's rate."""
    ends = []
    choices: list[dict[str, Any]] = [{"lr_p": "lr_theta"}, {"lr_p": 1e-3}]
    for settings in choices:
        w = world()
        w.method(inner_steps=1, lr_theta=1e-3, **settings).step(0)
        ends.append(values(w.adapters.parameters("p")))
    assert same(*ends)


def test_independent_z_is_the_sum_of_three_estimates() -> None:
    """Each term of (9) with its own z: theta moves along three directions, whose coefficients are float64's."""
    w, lam, lr = world(), 7.0, 1e-3
    theta, p, s = widen(w.theta), widen(w.adapters.parameters("p")), widen(w.adapters.parameters("s"))
    F = w.wide.loss
    terms = (
        ("z", lambda at: F(at, p, w.f[0])),
        ("z/p", lambda at: lam * F(at, p, w.p[0])),
        ("z/s", lambda at: -lam * F(at, s, w.p[0])),
    )
    want = {name: torch.zeros_like(value) for name, value in theta.items()}
    for purpose, f in terms:
        seed = derive(SEED, purpose, 0)
        z = {n: reference.signs(seed, tensor_key(n), 0, t.numel()).view(t.shape) for n, t in theta.items()}
        c = float(f(moved(theta, z, EPS)) - f(moved(theta, z, -EPS))) / (2 * EPS)
        for name in want:
            want[name] -= lr * c * z[name]
    w.method(independent_z=True, lam=lam, inner_steps=0, lr_theta=lr).step(0)
    for name, value in w.theta.items():
        torch.testing.assert_close(value.double() - theta[name], want[name], rtol=1e-3, atol=1e-6)


def test_apart_draws_s_anew() -> None:
    w = world(trained=False)
    method = w.method(apart=True, s_start="reset")
    p, s = w.adapters.parameters("p"), w.adapters.parameters("s")
    assert any(not torch.equal(p[name], s[name]) for name in p)
    assert same(method.initial, values(s))
    again = world(trained=False)
    again.method(apart=True)
    assert same(values(again.adapters.parameters("s")), values(s))


def test_deploy_fixes_the_adapter() -> None:
    for deploy, expected in (("best", ("s", "p")), ("p", ("p",)), ("s", ("s",))):
        method = bilevel_zofo.Method(bilevel_zofo.Config(deploy=deploy))  # pyright: ignore[reportArgumentType]
        assert method.deployable == expected
        assert method.candidates == ("s", "p")  # both are reported


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lam_schedule": "linear"}, "lam_start: needed"),
        ({"lam_start": 1.0}, "lam_start: has no effect"),
        ({"lam_schedule": "geometric", "lam_start": 0.0}, "cannot start or end at 0"),
        ({"upper_data": "dev", "upper_share": 0.5}, "upper_data: dev splits nothing"),
    ],
)
def test_options_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    assert any(message in line for line in bilevel_ablations.Config(**settings).problems())

"""The rule `adam`: torch's AdamW on the same dense gradients, every operation's rounding by hand, its state."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.python_ints import assert_same_bits
from zofo.train import checkpoint
from zofo.zo import dense_update as steps
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome
from zofo.zo.journalled import Journalled
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.laws import LAWS
from zofo.zo.point import Point
from zofo.zo.rules import adam

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = {"a": (40, 30), "b": (7,), "c": (5000,)}
SEED = 9


def point(dtype: torch.dtype = torch.float32) -> Point:
    generator = torch.Generator().manual_seed(0)
    return Point(
        nn.ParameterDict(
            {n: nn.Parameter((0.1 * torch.randn(size, generator=generator)).to(dtype)) for n, size in SIZES.items()}
        )
    )


def estimates(law: str, steps: int = 6, terms: int = 2) -> list[ZOGrad]:
    """Coefficients of changing sign and size, as a run has them."""
    return [
        ZOGrad(
            tuple((float32((-1.7) ** k / (i + 1) + 0.3), Direction(derive(k, "z", i), law)) for i in range(terms)), 0, 2
        )
        for k in range(steps)
    ]


def dense(theta: Point, g: ZOGrad, name: str) -> Tensor:
    """g by the reference: fp32 products, summed in fp32 in order, from 0."""
    n, key = theta[name].numel(), tensor_key(name)
    factors = [float32(c * theta.stretch(z)) for c, z in g.terms]
    first, *others = (reference.entries(z.entries, z.seed, key, 0, n) * c for c, (_, z) in zip(factors, g.terms))
    return (torch.zeros(n) + sum(others, first)).view(theta[name].shape)


@pytest.mark.parametrize("law", LAWS)
def test_against_torch(law: str) -> None:
    """torch.optim.AdamW without decay, in float64, on the dense gradient."""
    theta, rule = point(), adam.Rule(adam.Config(beta1=0.8, beta2=0.95, adam_eps=1e-3), SEED)
    doubles = {name: nn.Parameter(p.detach().double()) for name, p in theta.items()}
    optimizer = torch.optim.AdamW(doubles.values(), lr=1.0, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.0)
    start = {name: p.detach().clone() for name, p in theta.items()}
    for step, g in enumerate(estimates(law)):
        rate = 1e-3 / (step + 1)
        optimizer.param_groups[0]["lr"] = rate
        for name, p in doubles.items():
            p.grad = dense(theta, g, name).double()
        optimizer.step()
        assert rule.update_(theta, g, rate, step) is Outcome.APPLIED
    for name, p in theta.items():
        moved, expected = (p - start[name]).double(), doubles[name].detach() - start[name].double()
        assert float(expected.abs().mean()) > 1e-4
        torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-7)


def rounded(x: Tensor) -> Tensor:
    """A float64 result of one operation on fp32 numbers, rounded once more to fp32: that operation's IEEE result."""
    return x.float().double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_every_rounding_by_hand(law: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The definition of docs/journal.md, operation by operation in float64; whatever the slices."""
    monkeypatch.setattr(steps, "SLICE", 1000)
    theta, rule = point(dtype), adam.Rule(adam.Config(), SEED)
    expected = {name: p.detach().clone() for name, p in theta.items()}
    m = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in theta.items()}
    v = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in theta.items()}
    power1 = power2 = 1.0
    for step, g in enumerate(estimates(law)):
        rule.update_(theta, g, 1e-3, step)
        power1, power2 = power1 * 0.9, power2 * 0.999
        rate, root = float32(-1e-3 / (1 - power1)), float32(1 / math.sqrt(1 - power2))
        for name, p in expected.items():
            grad = dense(theta, g, name).double()
            m[name] = rounded(rounded(m[name] * float32(0.9)) + rounded(grad * float32(1 - 0.9)))
            v[name] = rounded(rounded(v[name] * float32(0.999)) + rounded(rounded(grad * grad) * float32(1 - 0.999)))
            below = rounded(rounded(rounded(v[name].sqrt()) * root) + float32(1e-8))
            delta = rounded(rounded(m[name] * rate) / below).float()
            flat = p.view(-1)
            reference.add_dense(flat, flat, delta.view(-1), tensor_key(name), 0, derive(SEED, "round/update", step))
    for name, p in theta.items():
        assert_same_bits(p.detach().flatten(), expected[name].flatten())
        assert torch.equal(rule.states["m"].values[name].double(), m[name])
        assert torch.equal(rule.states["v"].values[name].double(), v[name])


def test_with_signs_and_one_term_the_denominator_is_one_number() -> None:
    theta, rule = point(), adam.Rule(adam.Config(), SEED)
    for step, g in enumerate(estimates("rademacher", terms=1)):
        rule.update_(theta, g, 1e-3, step)
    assert len({float(x) for v in rule.states["v"].values.values() for x in v.unique()}) == 1
    assert all(len(m.unique()) > 4 for name, m in rule.states["m"].values.items() if name != "b")
    gaussian = adam.Rule(adam.Config(), SEED)
    gaussian.update_(theta, estimates("gaussian", terms=1)[0], 1e-3, 0)
    assert len(gaussian.states["v"].values["c"].unique()) > 1000


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_rounding_is_unbiased(dtype: torch.dtype) -> None:
    """A first step moves each weight by rate * sign(g), here 0.3 of the last place: on average by that."""
    n, unit = 1 << 18, torch.finfo(dtype).eps
    theta = Point(nn.ParameterDict({"w": nn.Parameter(torch.full((n,), 1.5, dtype=dtype))}))
    adam.Rule(adam.Config(), SEED).update_(theta, ZOGrad(((2.0, Direction(5)),), 0, 2), 0.3 * unit, 0)
    z = reference.signs(5, tensor_key("w"), 0, n)
    moved = (theta["w"].detach().float() - 1.5) / unit
    assert set(moved.tolist()) == {-1.0, 0.0, 1.0}
    error = moved + 0.3 * z
    assert abs(float(error.mean())) < 5 * 0.46 / n**0.5
    assert abs(float((error * z).mean())) < 5 * 0.46 / n**0.5


@pytest.mark.parametrize("law", LAWS)
def test_a_saved_state_goes_on(law: str, tmp_path: Path) -> None:
    """Through a checkpoint's files; the rule that was saved going on does not disturb the one that was loaded."""
    whole, rule = point(torch.bfloat16), adam.Rule(adam.Config(), SEED)
    cut = point(torch.bfloat16)
    first, second = adam.Rule(adam.Config(), SEED), adam.Rule(adam.Config(), SEED)
    updates = estimates(law)
    for step, g in enumerate(updates):
        rule.update_(whole, g, 1e-3, step)
    for step in range(3):
        first.update_(cut, updates[step], 1e-3, step)
    checkpoint.save_tree(tmp_path, "state", {"rule": first.state_dict()})
    second.load_state_dict(checkpoint.load_tree(tmp_path, "state")["rule"])
    third = adam.Rule(adam.Config(), SEED)
    third.load_state_dict(first.state_dict())
    first.update_(point(torch.bfloat16), updates[3], 1.0, 3)
    aside = point(torch.bfloat16)
    with torch.no_grad():
        for name, p in aside.items():
            p.copy_(cut[name])
    for loaded, theta in ((second, cut), (third, aside)):
        for step in range(3, len(updates)):
            loaded.update_(theta, updates[step], 1e-3, step)
        assert theta.sha256() == whole.sha256()
        assert loaded.powers == rule.powers


def test_a_state_of_no_updates_is_saved(tmp_path: Path) -> None:
    rule = adam.Rule(adam.Config(), SEED)
    checkpoint.save_tree(tmp_path, "state", {"rule": rule.state_dict()})
    rule.load_state_dict(checkpoint.load_tree(tmp_path, "state")["rule"])
    assert rule.update_(point(), estimates("rademacher")[0], 1e-3, 0) is Outcome.APPLIED


def test_a_skipped_update_leaves_everything() -> None:
    theta, rule = point(), adam.Rule(adam.Config(), SEED)
    updates = estimates("gaussian")
    rule.update_(theta, updates[0], 1e-3, 0)
    before, powers = theta.sha256(), rule.powers
    moments = [
        {name: t.clone() for name, t in part.items()} for part in (rule.states["m"].values, rule.states["v"].values)
    ]
    assert rule.update_(theta, updates[1], 1e-3, 1, outcome=Outcome.SKIPPED) is Outcome.SKIPPED
    assert theta.sha256() == before
    assert rule.powers == powers
    for part, copies in zip((rule.states["m"].values, rule.states["v"].values), moments):
        assert all(torch.equal(part[name], t) for name, t in copies.items())


def test_strided_weights_are_numbered_row_major() -> None:
    base = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    moved = []
    for value in (base.t().clone(memory_format=torch.preserve_format), base.t().contiguous()):
        theta = Point(nn.ParameterDict({"w": nn.Parameter(value)}))
        adam.Rule(adam.Config(), SEED).update_(theta, estimates("gaussian")[0], 1e-2, 0)
        moved.append(theta["w"].detach())
    assert not moved[0].is_contiguous()
    assert torch.equal(*moved)
    assert not torch.equal(moved[1], base.t())


def test_bytes_a_weight_are_those_of_the_state() -> None:
    theta, rule = point(torch.bfloat16), adam.Rule(adam.Config(), SEED)
    rule.update_(theta, estimates("gaussian")[0], 1e-3, 0)
    held = sum(
        t.numel() * t.element_size()
        for part in (rule.states["m"].values, rule.states["v"].values)
        for t in part.values()
    )
    assert held == rule.bytes_per_weight * theta.size
    assert [f.name for f in dataclasses.fields(adam.Config)] == ["rounding", "state", "beta1", "beta2", "adam_eps"]


def test_the_time_of_an_update_is_this_rules_own() -> None:
    """Replays of a dense rule take longer than a pass of `sgd`: the fastest update itself is timed."""
    theta, rule = point(), Journalled(adam.Rule(adam.Config(), SEED), None)
    assert rule.seconds == math.inf
    rule.update_(theta, estimates("gaussian")[0], 1e-3, 0)
    first = rule.seconds
    rule.update_(theta, estimates("gaussian")[0], 1e-3, 1)
    assert 0 < rule.seconds <= first < math.inf

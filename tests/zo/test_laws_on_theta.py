"""theta moved by each law: the radius of the sphere, the logits, replay, what a dtype lets through of a shift."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.python_ints import field_by_hand
from tests.tiny_models import build, logits
from zofo.zo import kernels, sphere
from zofo.zo.diagnostics import realised
from zofo.zo.direction import Direction
from zofo.zo.estimators import spsa
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Record
from zofo.zo.kernels import cpu, reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.laws import LAWS, gaussian_table
from zofo.zo.point import Point
from zofo.zo.replay import replay
from zofo.zo.rules import sgd
from zofo.zo.support import Chance, Indices, Support

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KEY, SEED = 0x0123456789ABCDEF, 0xFEDCBA9876543210
TABLE = gaussian_table()


def point(dtype: torch.dtype = torch.float32, **sizes: int) -> Point:
    generator = torch.Generator().manual_seed(0)
    weights = {n: nn.Parameter((0.05 * torch.randn(size, generator=generator)).to(dtype)) for n, size in sizes.items()}
    return Point(nn.ParameterDict(weights))


# ------------------------------------------------------------------------------------------------------------- sphere


def test_sum_of_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (1, 127, 128, 255, 256, 257, 5000):
        expected = sum(TABLE[field_by_hand(SEED, KEY, e, 16) >> 4] ** 2 for e in range(min(n, 300)))
        if n > 300:
            expected = sum(int(q) ** 2 for q in reference.quantiles(SEED, KEY, 0, n).tolist())
        assert cpu.sum_squares(n, SEED, KEY) == reference.sum_squares(n, SEED, KEY) == expected
    monkeypatch.setattr(reference, "CHUNK", 77)
    assert reference.sum_squares(5000, SEED, KEY) == expected


@pytest.mark.parametrize("part", [Indices(torch.arange(0, 700, 3, dtype=torch.int32)), Chance(KEY, 1000)])
def test_the_sphere_of_what_moves_has_radius_root_of_their_number(part: Any) -> None:
    """Read off the shifted weights, which are 0 at rest; the other tensor rests as a whole."""
    model = nn.ParameterDict({"a": nn.Parameter(torch.zeros(700)), "b": nn.Parameter(torch.zeros(13))})
    theta = Point(model)
    with theta.shifted(Direction(SEED, "sphere", Support({"a": part})), 1.0):
        moved, rests = (model[name] * 1.0 for name in ("a", "b"))
    number = int((moved != 0).sum())
    assert 0 < number < 700
    assert float(moved.double().square().sum()) == pytest.approx(number, rel=1e-5)
    assert not rests.any()


def test_the_sphere_has_radius_root_d() -> None:
    """Over all tensors together, not each alone; and it is the gaussian direction of its seed, scaled."""
    theta, z = point(a=700, b=13, c=5000), Direction(SEED, "sphere")
    entries = {name: reference.entries("gaussian", SEED, tensor_key(name), 0, p.numel()) for name, p in theta.items()}
    squares = sum(float(e.double().square().sum()) for e in entries.values())
    assert theta.stretch(z) == pytest.approx(math.sqrt(5713 / squares), rel=1e-14)
    before = {name: p.clone() for name, p in theta.items()}
    with torch.no_grad():
        for p in theta.values():
            p.zero_()
    theta.add_(ZOGrad(((1.0, z),), 0.0, 0), 1.0, None)
    norm = sum(float(p.double().square().sum()) for p in theta.values()) ** 0.5
    assert norm == pytest.approx(math.sqrt(5713), rel=1e-7)
    for name, p in theta.items():
        assert torch.equal(p, entries[name] * float32(theta.stretch(z)))
        assert p.shape == before[name].shape
    assert theta.stretch(Direction(SEED, "gaussian")) == theta.stretch(Direction(SEED)) == 1.0


def test_the_stretch_is_remembered_for_the_last_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    theta, calls = point(a=300, b=20), []
    plain = kernels.sum_squares
    monkeypatch.setattr(sphere, "REMEMBERED", 2)
    monkeypatch.setattr(kernels, "sum_squares", lambda *args: calls.append(args) or plain(*args))
    for seed in (1, 1, 2, 1, 3, 2, 1):
        theta.stretch(Direction(seed, "sphere"))
    assert len(calls) == 2 * 4  # two tensors; 1, 2, 3, and 1 again, which 3 had pushed out
    assert len(theta._stretches._known) == 2


# ------------------------------------------------------------------------------------------------- theta, by every law


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_are_those_of_replaced_weights(law: str, dtype: torch.dtype) -> None:
    model, z = build("llama", dtype), Direction(SEED, law)
    theta = Point(model)
    with theta.shifted(z, 2e-2):
        shifted = logits(model)
    before, factor = theta.sha256(), float32(2e-2 * theta.stretch(z))
    with torch.no_grad():
        for name, p in theta.items():
            flat = p.view(-1)
            reference.add(flat, flat, [(SEED, factor)], tensor_key(name), 0, z.rounding_seed, z.entries)
    assert theta.sha256() != before
    assert torch.equal(shifted, logits(model))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("mode", ["layer", "inplace"])
def test_replay(law: str, mode: str) -> None:
    model, again = build("llama", torch.bfloat16), build("llama", torch.bfloat16)
    theta, config, records = Point(model, mode=mode), spsa.Config(law=law, eps=1e-2, shift=mode), []  # pyright: ignore
    estimate, rule = spsa.Estimator(config), sgd.Rule(sgd.Config(), 5)
    start = theta.sha256()
    for step in range(3):
        g = estimate(lambda: float(logits(model).float().square().mean()), theta, step, derive(0, "z", step))
        assert {z.law for _, z in g.terms} == {law}
        if mode == "layer" and step == 0:
            assert theta.sha256() == start
        rule.update_(theta, g, 1e-3, step)
        records.append(Record(step, tuple((z.seed, c) for c, z in g.terms), 1e-3))
    for other in LAWS:
        fresh = Point(build("llama", torch.bfloat16) if other != law else again, mode=mode)
        replay(fresh, spsa.Estimator(spsa.Config(law=other, eps=1e-2)), sgd.Rule(sgd.Config(), 5), records)  # pyright: ignore
        assert (fresh.sha256() == theta.sha256()) == (other == law)


@pytest.mark.parametrize("law", LAWS)
def test_the_share_of_a_shift_that_is_realised(law: str) -> None:
    """All of it in fp32 and, by stochastic rounding, in bf16; to nearest it depends on the weights and the entries."""
    z = Direction(SEED, law)
    assert realised(point(a=5000), z, 1e-3)["a"] == pytest.approx(1, abs=1e-4)
    half = point(torch.bfloat16, a=200_000)
    assert realised(half, z, 1e-3)["a"] == pytest.approx(1, abs=0.01)
    large = Point(nn.ParameterDict({"a": nn.Parameter(torch.full((50_000,), 1.5, dtype=torch.bfloat16))}))
    entries = reference.entries(z.entries, SEED, tensor_key("a"), 0, 50_000).double()
    moves = entries.abs() * large.stretch(z) * 1e-3 > 2.0**-8  # half a unit in the last place of 1.5
    expected = float((entries.sign() * moves * 2.0**-7 * entries).sum() / entries.square().sum()) / 1e-3
    share = realised(large, z, 1e-3, "nearest")["a"]
    assert share == pytest.approx(expected / large.stretch(z), rel=1e-6, abs=1e-12)
    assert (share > 0) == bool(moves.any())


@pytest.mark.parametrize("count", [500, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("law", ["gaussian", "sphere"])
def test_spsa_is_unbiased(law: str, count: int) -> None:
    """The mean of c z over many seeds is the gradient of a quadratic with curvature, by hand, in float64."""
    d = 6
    weight = nn.Parameter(torch.linspace(-1, 1, d, dtype=torch.float64))
    scales = torch.arange(1.0, d + 1, dtype=torch.float64)
    module = nn.ParameterDict({"w": weight})
    theta = Point(module)
    estimate = spsa.Estimator(spsa.Config(law=law, eps=1e-2))  # pyright: ignore[reportArgumentType]
    total = torch.zeros(d, dtype=torch.float64)
    for seed in range(count):
        g = estimate(lambda: float((scales * module["w"] * module["w"]).sum()), theta, 0, derive(seed, "z"))
        ((c, z),) = g.terms
        entries = reference.entries("gaussian", z.seed, tensor_key("w"), 0, d).double()
        total += c * theta.stretch(z) * entries
    gradient = 2 * scales * weight.detach()
    spread = 3 * float(gradient.norm()) / count**0.5
    assert float((total / count - gradient).abs().max()) < 2 * spread


def test_terms_of_two_laws_are_refused() -> None:
    with pytest.raises(ValueError, match="gaussian, rademacher"):
        ZOGrad(((1.0, Direction(1)), (1.0, Direction(2, "gaussian"))), 0.0, 0)
    with pytest.raises(ValueError, match="known: rademacher, gaussian, sphere"):
        Direction(1, "cauchy")

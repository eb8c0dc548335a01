"""Modes of a shift (layer, copy, inplace) and roundings of an update: equal where they must be, and how they differ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_models import build, logits
from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.estimators import spsa
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.keys import derive
from zofo.zo.laws import LAWS
from zofo.zo.point import Point
from zofo.zo.rules import adam, sgd

Z, EPS = Direction(11), 1e-3
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def toy(dtype: torch.dtype, mode: str = "layer", n: int = 5000) -> Point:
    generator = torch.Generator().manual_seed(1)
    weights = {name: nn.Parameter(torch.randn(n, generator=generator).to(dtype)) for name in ("a", "b")}
    return Point(nn.ParameterDict(weights), mode=mode)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_copy_computes_with_the_weights_that_stand_ins_make(family: str, dtype: torch.dtype, law: str) -> None:
    """In mode `copy` the model's parameters are theta + eps z, bit for bit; theta is as it was, and back in place."""
    model = build(family, dtype)
    point = Point(model, mode="copy")
    before, param_ids = point.sha256(), [id(p) for p in model.parameters()]
    z = Direction(3, law)
    with point.shifted(z, EPS):
        inside = {name: p.clone() for name, p in model.named_parameters()}
        copied = logits(model)
    assert [id(p) for p in model.parameters()] == param_ids
    assert point.sha256() == before
    for name, param in model.named_parameters():
        expected = torch.empty_like(param)
        terms = point.terms(z, EPS)
        kernels.add(expected, param.detach(), terms, point.addresses[name].key, 0, z.rounding_seed, z.entries)
        assert torch.equal(inside[name], expected)
    point.mode = "layer"
    with point.shifted(z, EPS):
        assert torch.equal(logits(model), copied)


def test_a_copys_memory_is_kept_and_counted() -> None:
    point = toy(torch.float32, "copy")
    assert point.scratch_bytes == 0
    with point.shifted(Z, EPS):
        pass
    assert point.scratch_bytes == point.nbytes
    with point.shifted(Z, -EPS):
        pass
    assert point.scratch_bytes == point.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_one_pass_restores_and_updates(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """theta + eps z, - 2 eps z, then + eps z - lr c z as one rounded sum: three passes a step, not four."""
    point, by_hand = toy(dtype, "inplace"), toy(dtype)
    passes: list[int] = []
    real = kernels.add_many

    def counted(items, terms, round_seed=None, law="rademacher"):
        passes.append(len(terms))
        real(items, terms, round_seed, law)

    monkeypatch.setattr(kernels, "add_many", counted)
    values = iter([3.0, 1.0])
    g = spsa.Estimator(spsa.Config(shift="inplace"))(lambda: next(values), point, 0, Z.seed)
    sgd.Rule(sgd.Config(rounding="nearest"), 0).update_(point, g, 1e-2, 0)
    assert passes == [1, 1, 2]
    (c, z), eps = g.terms[0], float32(EPS)
    assert z == Z
    for name, weight in by_hand.items():
        signs = torch.zeros_like(weight, dtype=torch.float32)
        kernels.add(signs, signs, [(z.seed, 1.0)], point.addresses[name].key)
        theta = weight.detach()
        for move in (signs * eps, signs * float32(-2 * EPS), signs * eps + signs * float32(-1e-2 * c)):
            theta = (theta.float() + move).to(dtype)
        assert torch.equal(point[name], theta)


def test_what_reads_theta_through_the_point_meets_it_restored() -> None:
    point = toy(torch.float32, "inplace")
    before = {name: p.detach().clone() for name, p in toy(torch.float32).items()}
    point.sides(lambda: 0.0, Z, EPS, "nearest")
    assert point._pending
    for name, weight in point.items():
        assert (weight - before[name]).abs().max() < 1e-6
    assert not point._pending
    point.sides(lambda: 0.0, Z, EPS, "nearest")
    point.add_(ZOGrad(((1.0, Direction(5, "gaussian")),), 0.0, 2), 0.0, None)  # another law cannot share the pass
    for name, weight in point.items():
        assert (weight - before[name]).abs().max() < 1e-6


# ------------------------------------------------------------------------------------------- rounding of the updates


def moved(rule, dtype: torch.dtype, steps: int, lr: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(theta after `steps` updates along one direction, theta before), in double precision, residuals included."""
    point = toy(dtype)
    before = {name: p.detach().double().clone() for name, p in point.items()}
    for step in range(steps):
        rule.update_(point, ZOGrad(((1.0, Z),), 0.0, 2), lr, step)
    low = rule.low or {}
    after = {n: kernels.join(p.detach(), low[n]) if n in low else p.detach() for n, p in point.items()}
    return {name: value.double() for name, value in after.items()}, before


@pytest.mark.parametrize(("rounding", "expected", "tolerance"), [("stochastic", 1, 0.1), ("split", 1, 2e-3)])
def test_small_updates_of_bf16_weights_add_up(rounding: str, expected: float, tolerance: float) -> None:
    """100 updates of 1e-5 a weight: the share of the wanted move that theta made."""
    share = _share(sgd.Rule(sgd.Config(rounding=rounding), 0))  # pyright: ignore[reportArgumentType]
    assert share == pytest.approx(expected, abs=tolerance)


def test_small_updates_rounded_to_nearest_are_lost() -> None:
    assert _share(sgd.Rule(sgd.Config(rounding="nearest"), 0)) < 0.1


def _share(rule: sgd.Rule) -> float:
    steps, lr = 100, 1e-5
    after, before = moved(rule, torch.bfloat16, steps, lr)
    wanted = 0.0
    total = 0.0
    for name in before:
        signs = torch.zeros(before[name].shape)
        kernels.add(signs, signs, [(Z.seed, 1.0)], toy(torch.bfloat16).addresses[name].key)
        total += float(((after[name] - before[name]) * -signs.double()).sum())
        wanted += steps * lr * signs.numel()
    return total / wanted


@pytest.mark.parametrize("module", [sgd, adam])
def test_split_weights_move_as_fp32_ones(module) -> None:
    """From the same start, bf16 weights with their planes are the fp32 run's weights, bit for bit."""
    half, single = toy(torch.bfloat16), toy(torch.float32)
    for name, weight in single.items():
        weight.data.copy_(half[name].float())
    rules = [module.Rule(module.Config(rounding=r), 3) for r in ("split", "nearest")]
    for step in range(5):
        g = ZOGrad(
            ((float32(1.7 - step), Direction(step, "gaussian")), (0.3, Direction(90 + step, "gaussian"))), 0.0, 2
        )
        for rule, point in zip(rules, (half, single)):
            rule.update_(point, g, 1e-4, step)
    for name, weight in single.items():
        assert torch.equal(kernels.join(half[name].detach(), rules[0].low[name]), weight)
        assert (half[name].float() - weight).abs().max() <= 2**-8 * weight.abs().max()
    assert rules[0].bytes_per_weight == rules[1].bytes_per_weight + 2


def test_a_split_rule_goes_on_from_its_state() -> None:
    g = ZOGrad(((2.0, Z),), 0.0, 2)
    whole, cut = toy(torch.bfloat16), toy(torch.bfloat16)
    one, first = (sgd.Rule(sgd.Config(rounding="split"), 1) for _ in range(2))
    for step in range(4):
        one.update_(whole, g, 1e-5, step)
    for step in range(2):
        first.update_(cut, g, 1e-5, step)
    second = sgd.Rule(sgd.Config(rounding="split"), 1)
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        second.update_(cut, g, 1e-5, step)
    assert cut.sha256() == whole.sha256()
    assert one.low is not None
    assert second.low is not None
    assert all(torch.equal(one.low[name], second.low[name]) for name in one.low)
    forgetful = toy(torch.bfloat16)
    for step in range(4):
        sgd.Rule(sgd.Config(rounding="split"), 1).update_(forgetful, g, 1e-5, step)
    assert forgetful.sha256() != whole.sha256()


def test_the_key_of_a_rounding_is_the_steps_own() -> None:
    rule, point = sgd.Rule(sgd.Config(), 5), toy(torch.bfloat16)
    assert rule.rounding(point, 3) == (derive(5, "round/update", 3), None)
    assert sgd.Rule(sgd.Config(rounding="nearest"), 5).rounding(point, 3) == (None, None)

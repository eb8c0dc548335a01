"""theta + eps z without writing theta: the same bits as a model whose weights were really replaced, and no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.tiny_models import FAMILIES, build, logits, replaced
from zofo.zo.diagnostics import realised, time_pass
from zofo.zo.direction import Direction
from zofo.zo.estimators import spsa
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Record
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.point import Point
from zofo.zo.replay import replay
from zofo.zo.rules import sgd

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS, Z = 2e-2, Direction(0xFEDCBA9876543210)
CASES = [(family, torch.float32) for family in FAMILIES]
CASES += [(family, dtype) for family in ("llama", "opt", "gpt2") for dtype in DTYPES[1:]]


@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_logits_are_those_of_replaced_weights(family: str, dtype: torch.dtype) -> None:
    model = build(family, dtype)
    point = Point(model)
    before, plain = point.sha256(), logits(model)
    assert len(point) == len({id(p) for p in model.parameters()})
    assert point.audit(lambda: logits(model)) == set()  # every weight is read, and through its stand-in
    for scale in (EPS, -EPS):
        for rounding in ("stochastic", "nearest") if dtype.itemsize == 2 else ("stochastic",):
            expected = logits(replaced(model, Z, scale, rounding))
            with point.shifted(Z, scale, rounding):
                shifted = logits(model)
            assert torch.equal(shifted, expected), (scale, rounding, float((shifted - expected).abs().max()))
            assert not torch.equal(shifted, plain)
    assert point.sha256() == before
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_theta_is_bit_identical_after_an_estimate(dtype: torch.dtype) -> None:
    model = build("opt", dtype)
    point = Point(model)
    before, objects = point.sha256(), [id(p) for p in model.parameters()]
    estimate = spsa.Estimator(spsa.Config(eps=EPS))
    for step in range(3):
        g = estimate(lambda: float(logits(model).float().square().mean()), point, step, derive(0, "z", step))
        assert g.terms[0][0] != 0
    assert point.sha256() == before
    assert [id(p) for p in model.parameters()] == objects
    assert all(p.grad is None and not p.requires_grad for p in point.values())


def test_a_move_of_several_terms() -> None:
    """A ZOGrad shifts by scale * sum c_i z_i, the factors rounded to fp32 before they are added."""
    model = build("llama")
    point, terms = Point(model), ((0.7, Direction(1)), (-1.3, Direction(2)))
    with point.shifted(ZOGrad(terms, 0.0, 0), EPS):
        shifted = logits(model)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for name, param in expected.named_parameters():
            flat, factors = param.detach().view(-1), [(z.seed, float32(EPS * c)) for c, z in terms]
            reference.add(flat, flat, factors, tensor_key(name))
    assert torch.equal(shifted, logits(expected))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_plus_and_minus_share_their_rounding_bits(dtype: torch.dtype) -> None:
    """At half a unit in the last place each side is cut or raised, but together: no noise is left in the difference."""
    module = nn.ParameterDict({"w": nn.Parameter(torch.full((4096,), 1.5, dtype=dtype))})
    point, unit, read = Point(module), torch.finfo(dtype).eps, []
    for scale in (0.5 * unit, -0.5 * unit):
        with point.shifted(Z, scale):
            read.append((module["w"] * 1.0 - 1.5) / unit)
    plus, minus = read
    assert set(plus.tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(plus - minus, reference.signs(Z.seed, tensor_key("w"), 0, 4096).to(dtype))


def test_the_share_of_a_shift_that_bf16_lets_through() -> None:
    """eps 1e-3 rounded to nearest: about the wanted move below .25, twice it to .5, nothing above."""
    generator = torch.Generator().manual_seed(0)
    ranges = {"small": (0.02, 0.25), "middle": (0.26, 0.49), "large": (0.51, 4.0)}
    weights = {n: nn.Parameter(torch.rand(20_000, generator=generator) * (b - a) + a) for n, (a, b) in ranges.items()}
    point = Point(nn.ParameterDict(weights).to(torch.bfloat16))
    shares = realised(point, Z, 1e-3, "nearest")
    assert shares["small"] == pytest.approx(0.98, abs=0.05)
    assert shares["middle"] == pytest.approx(1.95, abs=0.05)
    assert shares["large"] == 0
    for name, share in realised(point, Z, 1e-3, "stochastic").items():
        assert share == pytest.approx(1, abs=0.15 if name == "large" else 0.03)
    exact = Point(nn.ParameterDict({"w": nn.Parameter(torch.rand(1000, generator=generator))}))
    assert realised(exact, Z, 1e-3)["w"] == pytest.approx(1, abs=1e-4)


def test_timing_an_update_moves_nothing_whatever_the_strides() -> None:
    point = Point(
        nn.ParameterDict(
            {"w": nn.Parameter(torch.arange(24.0).view(6, 4).t()), "v": nn.Parameter(torch.tensor([-0.0]))}
        )
    )
    before = point.sha256()
    assert time_pass(point, "gaussian") > 0
    assert point.sha256() == before


# ----------------------------------------------------------------------------------------------- refusals and ends


@pytest.mark.parametrize("mode", ["layer", "inplace"])
def test_an_exception_inside_restores_the_parameters(mode: str) -> None:
    model = build("llama")
    point, objects = Point(model, mode=mode), list(model.parameters())
    values = [p.clone() for p in objects]
    with pytest.raises(RuntimeError, match="stop"):
        with point.shifted(Z, EPS):
            raise RuntimeError("stop")
    assert all(a is b for a, b in zip(objects, model.parameters()))
    for param, value in zip(objects, values):
        torch.testing.assert_close(param.data, value, rtol=0, atol=0 if mode == "layer" else 1e-6)
    with point.shifted(Z, EPS):  # and theta can be shifted again
        pass


@pytest.mark.parametrize("mode", ["layer", "inplace"])
def test_nested_shifts_raise(mode: str) -> None:
    point = Point(build("llama"), mode=mode)
    with point.shifted(Z, EPS):
        with pytest.raises(RuntimeError, match="nested"):
            with point.shifted(Z, EPS):
                pass


def test_no_gradient_reaches_theta() -> None:
    module = nn.Linear(4, 4)
    point, x = Point(module), torch.ones(2, 4, requires_grad=True)
    with point.shifted(Z, EPS):
        assert not module(x).requires_grad
    module(x).sum().backward()
    assert x.grad is not None
    assert module.weight.grad is None


def test_a_model_cast_after_its_point_is_refused() -> None:
    """The stand-ins would go on reading the old weights, while updates move the new ones."""
    model = build("llama")
    point = Point(model)
    model.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match="after its Point was built"):
        with point.shifted(Z, EPS):
            pass


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="layer, copy, inplace"):
        Point(nn.Linear(2, 2), mode="hook")


# --------------------------------------------------------------------------------------------------- in place, drifts


@pytest.mark.parametrize("dtype", DTYPES)
def test_inplace_drifts_and_its_replay_drifts_alike(dtype: torch.dtype) -> None:
    """MeZO's arithmetic does not come back to theta; a journal replayed in the same mode makes the same drift."""
    config, rule_config = spsa.Config(eps=1e-3, shift="inplace"), sgd.Config()
    model, again, still = (build("llama", dtype) for _ in range(3))
    point, other, layer = Point(model, mode="inplace"), Point(again, mode="inplace"), Point(still)
    records = []
    estimate, rule = spsa.Estimator(config), sgd.Rule(rule_config, 5)
    before = point.sha256()
    for step in range(4):
        g = estimate(lambda: float(logits(model).float().square().mean()), point, step, derive(0, "z", step))
        rule.update_(point, g, 0.0 if step < 2 else 1e-3, step)
        if step == 1:  # at a rate of 0, and not before the update: a reader between the two would part their pass
            assert point.sha256() != before
        records.append(Record(step, tuple((z.seed, c) for c, z in g.terms), 0.0 if step < 2 else 1e-3))
    replay(other, estimate, sgd.Rule(rule_config, 5), records)
    assert other.sha256() == point.sha256()
    replay(layer, spsa.Estimator(spsa.Config(eps=1e-3)), sgd.Rule(rule_config, 5), records)
    assert layer.sha256() != point.sha256()


def test_inplace_in_bf16_drifts_by_per_cents_as_measured_for_mezo() -> None:
    """SPEC 6: 100 cycles of + eps, - 2 eps, + eps move bf16 weights by about 4 % rms; `layer` by nothing."""
    point = Point(build("llama", torch.bfloat16), mode="inplace")
    before = {name: p.detach().float().clone() for name, p in point.items()}
    for step in range(100):
        point.sides(lambda: 0.0, Direction(step), 1e-3, "nearest")
    moved = sum(float((p.detach().float() - before[name]).square().sum()) for name, p in point.items())
    size = sum(float(b.square().sum()) for b in before.values())
    assert 0.005 < (moved / size) ** 0.5 < 0.2

"""Rules over q terms and masks against dense float64 references; what rests stays; stored states."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.float64_directions import dense, moved_by, random_tree, snapshot
from zofo.config import registry
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome
from zofo.zo.keys import derive
from zofo.zo.low_rank import LowRank
from zofo.zo.point import Point
from zofo.zo.rules import sgd, sign
from zofo.zo.rules._state import BLOCK, decode, encode
from zofo.zo.support import Band, Chance, Indices, Support

SHAPES: dict[str, Any] = {"w": (16, 48), "b": (8, 32), "norm": (40,)}
STEPS, RATE = 6, 0.01
SUPPORTS: dict[str, Support | None] = {
    "all": None,
    "band": Support({"w": Band(0.0, 0.08), "b": Band(0.05, 9.0)}),
    "random": Support({"w": Chance(3, 1500), "b": Chance(3, 1500)}, 1.5),
    "indices": Support({"w": Indices(torch.arange(1, 768, 5)), "norm": Indices(torch.tensor([0, 39]))}),
    "blocks": Support({}),  # another one each step, see `support_at`
}
RULES = {
    "momentum": {"momentum": 0.8},
    "sign": {},
    "adam": {"beta2": 0.9, "adam_eps": 1e-3},
    "adamw": {"beta2": 0.9, "adam_eps": 1e-3, "weight_decay": 0.3},
    "r-adazo": {"beta2": 0.9, "zeta": 1e-3},
}
STATES = ["float32", "bfloat16", "8bit"]


def support_at(kind: str, step: int) -> Support | None:
    blocks = ("w", "b", "norm")
    return Support({blocks[step % 3]: None, blocks[(step + 1) % 3]: None}) if kind == "blocks" else SUPPORTS[kind]


def estimate(kind: str, step: int, law: Any = "rademacher", terms: int = 3) -> ZOGrad:
    """q = 3, coefficients of changing sign and size; no sum of signs times them is near 0."""
    coefficients = [float32((-1.6) ** step * (0.4 + 0.9 * i * i - 0.3 * step * i)) for i in range(terms)]
    support = support_at(kind, step)
    return ZOGrad(tuple((c, Direction(derive(step, "z", i), law, support)) for i, c in enumerate(coefficients)), 0, 6)


class Reference:
    """The formulas of the rules' docstrings, whole tensors in float64. states: {"m" or "v": {name: numbers}}."""

    def __init__(self, name: str, theta: Point) -> None:
        self.name, self.settings = name, {"beta1": 0.9, **RULES[name]}
        self.theta = {n: t.detach().double() for n, t in theta.items()}
        self.states = {key: {n: torch.zeros_like(t) for n, t in self.theta.items()} for key in "mv"}
        self.steps, self.moved = 0, {n: torch.zeros_like(t) for n, t in self.theta.items()}

    def update(self, theta: Point, g: ZOGrad, lr: float) -> None:
        """theta: where the real one is now, for its bands."""
        self.steps += 1
        where, sums = moved_by(g.terms[0][1].support, theta), dense(theta, g)
        for name, grad in sums.items():
            step = torch.where(where[name], -lr * self._direction(name, grad, where[name]), 0.0)
            self.theta[name] += step
            self.moved[name] += step.abs()

    def _direction(self, name: str, grad: Tensor, where: Tensor) -> Tensor:
        m, v, s = self.states["m"], self.states["v"], self.settings
        if self.name == "sign":
            return grad.sign()
        if self.name == "momentum":
            m[name] = torch.where(where, s["momentum"] * m[name] + grad, m[name])
            return m[name]
        m[name] = torch.where(where, s["beta1"] * m[name] + (1 - s["beta1"]) * grad, m[name])
        square = m[name] ** 2 if self.name == "r-adazo" else grad**2
        v[name] = torch.where(where, s["beta2"] * v[name] + (1 - s["beta2"]) * square, v[name])
        if self.name == "r-adazo":
            return m[name] / (v[name] + s["zeta"]).sqrt()
        mean, square = (x[name] / (1 - s[beta] ** self.steps) for x, beta in ((m, "beta1"), (v, "beta2")))
        return mean / (square.sqrt() + s["adam_eps"]) + s.get("weight_decay", 0.0) * self.theta[name]


def run(
    name: str, kind: str, theta: Point, seed: int = 1, law: Any = "rademacher", **settings: Any
) -> tuple[Any, Reference]:
    module = registry.load("rules", name)
    rule, reference = module.Rule(module.Config(**{**RULES[name], **settings}), seed), Reference(name, theta)
    for step in range(STEPS):
        g, rate = estimate(kind, step, law), RATE / (step + 1)
        reference.update(theta, g, rate)
        before, rests = snapshot(theta), {n: ~w for n, w in moved_by(g.terms[0][1].support, theta).items()}
        assert rule.update_(theta, g, rate, step) is Outcome.APPLIED
        assert all(torch.equal(theta[n][w], before[n][w]) for n, w in rests.items())
    return rule, reference


def numbers(rule: Any, key: str, name: str, support: Support | None, shape: torch.Size) -> Tensor:
    """A rule's state of a tensor, laid out as the tensor; 0 where it keeps none."""
    state, out = rule.states[key], torch.zeros(shape, dtype=torch.float64)
    if name not in state.of:
        return out
    stored = state.of[name]
    values = stored["values"] if "values" in stored else decode(stored["codes"], stored["scales"], state.signed)
    part = None if support is None else support.parts.get(name)
    if isinstance(part, Indices):
        out.view(-1)[part.at.long()] = values.double()
        return out
    return values.double().view(shape)


# ----------------------------------------------------------------------------------------------- against the references


@pytest.mark.parametrize("law", ["rademacher", "gaussian", LowRank("subzero", 2, 7)], ids=str)
@pytest.mark.parametrize("kind", SUPPORTS)
@pytest.mark.parametrize("name", RULES)
def test_fp32_state_over_three_terms_and_masks(name: str, kind: str, law: Any) -> None:
    """Each step has some ten fp32 roundings of its own (2^-24 each) and one of the weight, six times."""
    theta = Point(random_tree(**SHAPES))
    rule, reference = run(name, kind, theta, law=law)
    for key, value in theta.items():
        moved = float(reference.moved[key].max())
        bound = 2e-6 * moved + STEPS * 2.0**-24 * (float(reference.theta[key].abs().max()) + moved)
        assert float((value.double() - reference.theta[key]).abs().max()) <= bound
    assert any(float(moved.max()) > 0.01 for moved in reference.moved.values())
    for part in rule.states:
        for key, expected in reference.states[part].items():
            actual = numbers(rule, part, key, SUPPORTS[kind], expected.shape)
            assert float((actual - expected).abs().max()) <= 2e-6 * float(expected.abs().max())
            assert torch.equal(actual == 0, expected == 0)  # a weight that always rested has none


@pytest.mark.parametrize("kind", ["all", "band", "indices"])
@pytest.mark.parametrize("name", RULES)
def test_split_planes_are_as_exact_in_bf16(name: str, kind: str) -> None:
    theta = Point(random_tree(torch.bfloat16, **SHAPES))
    rule, reference = run(name, kind, theta, rounding="split")
    for key, value in theta.items():
        assert float((value.double() - reference.theta[key]).abs().max()) <= 2.0**-8 * float(
            reference.theta[key].abs().max()
        )
        joined = ((value.detach().view(torch.int16).int() << 16) + rule.low[key].int()).view(torch.float32).double()
        assert float((joined - reference.theta[key]).abs().max()) <= 5e-6 * float(reference.theta[key].abs().max())


@pytest.mark.parametrize(
    "kind", ["all", "random", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("indices", "blocks"))]
)
@pytest.mark.parametrize("state", STATES[1:])
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_bf16_and_8_bit_states_are_near_and_right_on_average(name: str, state: str, kind: str) -> None:
    """Over 32 keys of the rounding: the worst number is off by less than six roundings of one place of 8 or of 4 bits;
    the mean over a tensor, and that of the errors away from 0, by a few standard errors over the keys."""
    errors: dict[tuple[str, str], list[Tensor]] = {}
    size = {"bfloat16": STEPS * 2.0**-7, "8bit": STEPS * 2.0**-3}[state]
    for seed in range(32):
        theta = Point(random_tree(**SHAPES))
        rule, reference = run(name, kind, theta, seed, state=state)
        for part in rule.states:
            for key, expected in reference.states[part].items():
                most = float(expected.abs().max())
                error = numbers(rule, part, key, SUPPORTS[kind], expected.shape) - expected
                assert float(error.abs().max()) <= size * most
                means = torch.stack([error.mean(), (error * expected.sign()).mean()])
                errors.setdefault((part, key), []).append(means / max(most, 1e-30))
        if name == "momentum":  # theta is linear in m
            for key, value in theta.items():
                error = value.double() - reference.theta[key]
                errors.setdefault(("theta", key), []).append(error.mean().view(1))
    assert len(errors) >= 6
    for means in errors.values():
        e = torch.stack(means)
        assert float((e.mean(0).abs() / (e.std(0) / math.sqrt(len(e)) + 1e-7)).max()) < 5


@pytest.mark.parametrize("signed", [True, False])
def test_an_8_bit_number_is_right_on_average_and_stable(signed: bool) -> None:
    """Over all noise: exact to 2^-16 of a level. A number that was stored comes back, but where x p / p is not x."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * BLOCK + 9, generator=generator) * torch.logspace(-4, 0, 2 * BLOCK + 9)
    x = (x if signed else x.square()).index_fill(0, torch.tensor([5, 300]), 0.0)
    total = torch.zeros(len(x), dtype=torch.float64)
    for start in range(0, 65536, 64):
        codes, scales = encode(x, torch.full((len(x),), start, dtype=torch.int32), signed)
        total += decode(codes, scales, signed).double()
        assert codes[5] == codes[300] == 0
    assert len(scales) == 3  # pyright: ignore[reportPossiblyUnboundVariable]
    least = scales.repeat_interleave(BLOCK)[: len(x)] * 1.25 * 2.0 ** (-16 if signed else -32)  # pyright: ignore
    error = (total / 1024 - x).abs()
    assert float((error / (x.abs() / 8 + least)).max()) < 2.0**-9  # 1024 noises of 65536: 2^-10 of a level
    assert decode(*encode(torch.zeros(3), torch.zeros(3, dtype=torch.int32), signed), signed).tolist() == [0, 0, 0]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("part", [Band(0.0, 0.05), Chance(5, 1000)], ids=str)
def test_what_rests_keeps_its_state(part: Any, state: str) -> None:
    """All move at first; then only the support does. In 8 bits a block's numbers are rounded anew as its scale changes,
    so there those of blocks whose scale stays are compared."""
    module = registry.load("rules", "adam")
    theta, rule = Point(random_tree(w=(64, 64))), module.Rule(module.Config(state=state), 1)
    rule.update_(theta, estimate("all", 0, "gaussian"), 1e-3, 0)
    before = {k: {n: t.clone() for n, t in s.of["w"].items()} for k, s in rule.states.items()}
    support = Support({"w": part})
    for step in range(1, 4):
        rests = ~moved_by(support, theta)["w"]
        weights = theta["w"].detach().clone()
        g = ZOGrad(((float32(0.01 * step), Direction(step, "gaussian", support)),), 0, 2)
        rule.update_(theta, g, 1e-3, step)
        assert torch.equal(theta["w"][rests], weights[rests])
        for key, old in before.items():
            now = rule.states[key].of["w"]
            if state == "8bit":
                same_scale = (now["scales"] == old["scales"]).repeat_interleave(BLOCK).view(64, 64) & rests
                assert torch.equal(now["codes"].view(64, 64)[same_scale], old["codes"].view(64, 64)[same_scale])
            else:
                assert torch.equal(now["values"][rests], old["values"][rests])
        before = {k: {n: t.clone() for n, t in s.of["w"].items()} for k, s in rule.states.items()}


@pytest.mark.parametrize("name", ["sgd", "conservative", "adamezo", "seed-momentum", *RULES])
@pytest.mark.parametrize("rounding", ["stochastic", "split"])
def test_bytes_per_weight_are_those_held(name: str, rounding: str) -> None:
    module = registry.load("rules", name)
    has_state = "state" in {f.name for f in dataclasses.fields(module.Config)}
    for state in STATES if has_state else [None]:
        theta = Point(random_tree(torch.bfloat16, w=(16, 64), b=(256,)))
        rule = module.Rule(module.Config(rounding=rounding, **({"state": state} if state else {})), 1)
        rule.update_(theta, estimate("all", 0), 1e-3, 0, lambda: 0.0)
        held, left = 0, [rule.state_dict()]
        while left:
            node = left.pop()
            if isinstance(node, Tensor):
                held += node.numel() * node.element_size()
            elif isinstance(node, dict):
                left += node.values()
        assert held == rule.bytes_per_weight * theta.size


# --------------------------------------------------------------------------------------------------- sign, scalar_sign


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_the_sign_of_the_scalar_is_not_that_of_the_vector(law: str) -> None:
    """sgd.scalar_sign: lr sign(c) z, entries as they are; `sign`: lr in every weight, of the sum of the terms."""
    g = ZOGrad(((-0.3, Direction(4, law)), (2.0, Direction(5, law)), (0.0, Direction(6, law))), 0, 6)
    start, moved = snapshot(random_tree(**SHAPES).state_dict()), {}
    rules = {"scalar": sgd.Rule(sgd.Config(scalar_sign=True), 1), "vector": sign.Rule(sign.Config(), 1)}
    for name, rule in rules.items():
        theta = Point(random_tree(**SHAPES))
        rule.update_(theta, g, 2.0**-6, 0)
        moved[name] = {key: theta[key].double() - start[key].double() for key in theta}
    signs = ZOGrad(tuple((float((c > 0) - (c < 0)), z) for c, z in g.terms), 0, 6)
    theta = Point(random_tree(**SHAPES))
    for key in theta:
        torch.testing.assert_close(moved["scalar"][key], -(2.0**-6) * dense(theta, signs)[key], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(moved["vector"][key], -(2.0**-6) * dense(theta, g)[key].sign(), rtol=1e-6, atol=1e-7)
    assert sgd.Config(scalar_sign=True, clip=1.0).problems()
    assert sgd.Config(scalar_sign=True, normalize=True).problems()

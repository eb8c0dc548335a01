"""Rules whose moments are made again from the last h steps: against float64 sums, and the rules that keep theirs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.float64_directions import dense, moved_by, random_tree, snapshot
from zofo import InputError
from zofo.config import registry
from zofo.config.resolve import resolve
from zofo.train import checkpoint
from zofo.zo import dense_update
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome
from zofo.zo.keys import derive
from zofo.zo.low_rank import LowRank
from zofo.zo.point import Point
from zofo.zo.rules import adam, adamezo, momentum, seed_momentum
from zofo.zo.support import Band, Chance, Indices, Support

SHAPES: dict[str, Any] = {"w": (16, 48), "b": (8, 32), "norm": (40,)}
STEPS, RATE, H = 8, 0.01, 3
KINDS = ("all", "band", "random", "random anew", "indices", "blocks", "blocks far apart")
SUPPORTS = {
    "all": None,
    "band": Support({"w": Band(0.0, 0.08), "b": Band(0.05, 9.0)}),
    "random": Support({"w": Chance(3, 1500), "b": Chance(3, 1500)}, 1.5),
    "indices": Support({"w": Indices(torch.arange(1, 768, 5)), "norm": Indices(torch.tensor([0, 39]))}),
}
BLOCKS = ("w", "b", "norm")


def support_at(kind: str, step: int) -> Support | None:
    if kind == "random anew":
        return Support({name: Chance(derive(step, "mask"), 2000) for name in ("w", "b")})
    if kind == "blocks":
        return Support({BLOCKS[step % 3]: None, BLOCKS[(step + 1) % 3]: None})
    if kind == "blocks far apart":
        return Support({BLOCKS[step % 3]: None})
    return SUPPORTS[kind]


def estimate(kind: str, step: int, law: Any = "rademacher", terms: int = 3) -> ZOGrad:
    coefficients = [float32((-1.2) ** step * (0.4 + 0.9 * i * i - 0.3 * step * i)) for i in range(terms)]
    support = support_at(kind, step)
    return ZOGrad(tuple((c, Direction(derive(step, "z", i), law, support)) for i, c in enumerate(coefficients)), 0, 6)


class Reference:
    """The sums of the docstrings, whole tensors in float64: {name: [(g, where it moved) of each step it moved in]}."""

    def __init__(self, rule: str, theta: Point) -> None:
        self.rule, self.past = rule, {name: [] for name in theta}
        self.theta = {n: t.detach().double() for n, t in theta.items()}
        self.moved = {n: torch.zeros_like(t) for n, t in self.theta.items()}

    def update(self, theta: Point, g: ZOGrad, lr: float) -> None:
        where, sums = moved_by(g.terms[0][1].support, theta), dense(theta, g)
        for name, grad in sums.items():
            if not bool(where[name].any()):
                continue
            self.past[name].append((grad, where[name]))
            step = torch.where(where[name], -lr * self._direction(self.past[name][-H:]), 0.0)
            self.theta[name] += step
            self.moved[name] += step.abs()

    def _direction(self, window: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Of each weight the terms in which it moved, their powers by how many of those came later."""
        total, square = torch.zeros_like(window[0][0]), torch.zeros_like(window[0][0])
        later = torch.zeros_like(window[0][0])
        one, two = (0.8, 0.0) if self.rule == "seed-momentum" else (0.7, 0.9)
        for grad, where in reversed(window):
            total += torch.where(where, one**later * grad, 0.0)
            square += torch.where(where, two**later * grad**2, 0.0)
            later += where.double()
        return total if self.rule == "seed-momentum" else 0.3 * total / (0.1 * square + 1e-3).sqrt()


RULES = {"adamezo": {"adam_eps": 1e-3, "h": H}, "seed-momentum": {"momentum": 0.8, "h": H}}


def make(name: str, seed: int = 1, **settings: Any) -> Any:
    module = registry.load("rules", name)
    return module.Rule(module.Config(**{**RULES[name], **settings}), seed)


@pytest.mark.parametrize("law", ["rademacher", "gaussian", LowRank("subzero", 2, 7)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RULES)
def test_fp32_over_three_terms_and_masks(name: str, kind: str, law: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the slices. What rests keeps its bits."""
    monkeypatch.setattr(dense_update, "SLICE", 100)
    theta = Point(random_tree(**SHAPES))
    rule, reference = make(name), Reference(name, theta)
    for step in range(STEPS):
        g, rate = estimate(kind, step, law), RATE / (step + 1)
        reference.update(theta, g, rate)
        before, rests = snapshot(theta), {n: ~w for n, w in moved_by(g.terms[0][1].support, theta).items()}
        assert rule.update_(theta, g, rate, step) is Outcome.APPLIED
        assert all(torch.equal(theta[n][w], before[n][w]) for n, w in rests.items())
    for key, value in theta.items():
        moved = float(reference.moved[key].max())
        bound = 4e-6 * moved + STEPS * 2.0**-24 * (float(reference.theta[key].abs().max()) + moved)
        assert float((value.double() - reference.theta[key]).abs().max()) <= bound
    assert any(float(moved.max()) > 0.01 for moved in reference.moved.values())


@pytest.mark.parametrize("name", RULES)
def test_bf16_is_right_on_average(name: str) -> None:
    """Over 64 keys of the rounding, and with `split` in each run."""
    errors = []
    for seed in range(64):
        theta = Point(random_tree(torch.bfloat16, **SHAPES))
        rule, reference = make(name, seed), Reference(name, theta)
        for step in range(4):
            reference.update(theta, estimate("all", step), RATE)
            rule.update_(theta, estimate("all", step), RATE, step)
        errors.append(torch.cat([(t.double() - reference.theta[n]).flatten() for n, t in theta.items()]))
    e = torch.stack(errors)
    spread = e.std(0) / 8 + 1e-9
    assert float((e.mean(0).abs() / spread).mean()) < 1.0  # 0.8 of a standard error for a normal number
    theta = Point(random_tree(torch.bfloat16, **SHAPES))
    rule, reference = make(name, rounding="split"), Reference(name, theta)
    for step in range(4):
        reference.update(theta, estimate("all", step), RATE)
        rule.update_(theta, estimate("all", step), RATE, step)
    for key, value in theta.items():
        joined = ((value.detach().view(torch.int16).int() << 16) + rule.low[key].int()).view(torch.float32).double()
        assert float((joined - reference.theta[key]).abs().max()) <= 5e-6 * float(reference.theta[key].abs().max())


class Uncorrected(adam.Rule):
    """`adam`'s numbers, `adamezo`'s step."""

    keeps: ClassVar = {"m": True, "v": False}

    def formula(self, piece: Any, **state: Tensor) -> Tensor:
        super().formula(piece, **state)
        below = (state["v"] + float32(self.config.adam_eps)).double().sqrt().float()
        return (state["m"] * self.lr).div_(below)

    def begin(self, lr: float) -> None:
        super().begin(lr)
        self.lr = float32(-lr)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_of_all_steps_is_the_rule_that_keeps_its_numbers(kind: str, dtype: torch.dtype) -> None:
    pairs = [
        (seed_momentum.Rule(seed_momentum.Config(h=99), 1), momentum.Rule(momentum.Config(), 1)),
        (
            adamezo.Rule(adamezo.Config(h=99, adam_eps=1e-6), 1),
            Uncorrected(adam.Config(beta1=0.7, beta2=0.9, adam_eps=1e-6), 1),
        ),
    ]
    for rebuilt, kept in pairs:
        ends = []
        for rule in (rebuilt, kept):
            theta = Point(random_tree(dtype, **SHAPES))
            for step in range(STEPS):
                rule.update_(theta, estimate(kind, step, "gaussian", 2), RATE, step)
            ends.append(theta.sha256())
        assert ends[0] == ends[1]
        assert ends[0] != Point(random_tree(dtype, **SHAPES)).sha256()


@pytest.mark.parametrize(
    ("kind", "held"), [("all", H), ("random anew", H), ("blocks", 5), ("blocks far apart", 3 * H), ("indices", H)]
)
def test_a_tensor_has_the_last_h_steps_in_which_it_moved(kind: str, held: int) -> None:
    """And no more is kept: of two of three blocks a step, five steps give each block its three."""
    rule, theta = make("adamezo"), Point(random_tree(**SHAPES))
    for step in range(20):
        rule.update_(theta, estimate(kind, step), RATE, step)
    assert len(rule.window) == held
    assert rule.bytes_per_weight == 0


@pytest.mark.parametrize("law", ["gaussian", "sphere", LowRank("lozo", 2, 7)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_window_goes_on(kind: str, law: Any, tmp_path: Path) -> None:
    whole, cut = (Point(random_tree(torch.bfloat16, **SHAPES)) for _ in range(2))
    one, first, second = make("adamezo"), make("adamezo"), make("adamezo")
    for step in range(STEPS):
        one.update_(whole, estimate(kind, step, law), RATE, step)
    for step in range(5):
        first.update_(cut, estimate(kind, step, law), RATE, step)
    checkpoint.save_tree(tmp_path, "state", {"rule": first.state_dict()})
    second.load_state_dict(checkpoint.load_tree(tmp_path, "state")["rule"])
    second.fits(cut, masked=kind != "all")
    for step in range(5, STEPS):
        second.update_(cut, estimate(kind, step, law), RATE, step)
    assert cut.sha256() == whole.sha256()


def test_a_skipped_update_leaves_everything() -> None:
    rule, theta = make("adamezo"), Point(random_tree(**SHAPES))
    rule.update_(theta, estimate("all", 0), RATE, 0)
    window, before = rule.window, theta.sha256()
    assert rule.update_(theta, estimate("all", 1), RATE, 1, outcome=Outcome.SKIPPED) is Outcome.SKIPPED
    assert (rule.window, theta.sha256()) == (window, before)


def test_a_window_of_another_model_is_refused() -> None:
    rule, theta = make("adamezo"), Point(random_tree(**SHAPES))
    for kind, match in (("blocks", "it has"), ("indices", "fewer weights")):
        rule.update_(theta, estimate(kind, 2), RATE, 0)
        shapes: dict[str, Any] = {"b": (8, 32)} if kind == "blocks" else {"w": (2, 3), "b": (2,), "norm": (40,)}
        small = Point(random_tree(**shapes))
        with pytest.raises(ValueError, match=match):
            rule.fits(small, masked=True)
        rule = make("adamezo")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Support({"w": Band(0.0, 0.05)}), Support({"w": Band(0.0, 0.06)})),
        (Support({"w": Band(0.0, 0.05)}), Support({"w": None})),
        (Support({"w": Indices(torch.tensor([1, 3]))}), Support({"w": Indices(torch.tensor([1, 4]))})),
        (Support({"w": None}), Support({"w": Indices(torch.tensor([1, 4]))})),
    ],
)
def test_what_cannot_be_made_again_is_refused(before: Support, after: Support) -> None:
    rule, theta = make("adamezo"), Point(random_tree(**SHAPES))
    rule.update_(theta, ZOGrad(((0.5, Direction(3, "gaussian", before)),), 0, 2), RATE, 0)
    with pytest.raises(ValueError, match="cannot be made again for w"):
        rule.update_(theta, ZOGrad(((0.5, Direction(4, "gaussian", after)),), 0, 2), RATE, 1)


@pytest.mark.parametrize("rule", RULES)
def test_bands_that_are_renewed_are_refused_before_a_run(rule: str) -> None:
    given = {"model": "m", "task": "sst2", "method": "mezo", "train": {"output_dir": "o"}}
    resolve(None, [f"rule={rule}", "mask=magnitude"], source="test", **given)
    resolve(None, [f"rule={rule}", "mask=random", "mask.refresh=1"], source="test", **given)
    with pytest.raises(InputError, match=r"rule\.h: which weights the bands"):
        resolve(None, [f"rule={rule}", "mask=magnitude", "mask.refresh=5"], source="test", **given)


def test_a_weight_that_left_its_band_takes_no_part_in_what_follows() -> None:
    """The claim that makes bands possible: of weights in the band now, all were in it in each step of the window."""
    theta, rule = Point(random_tree(**SHAPES)), make("seed-momentum")
    support = Support({"w": Band(0.0, 0.08)})
    inside = []
    for step in range(12):
        inside.append(moved_by(support, theta)["w"])
        g = ZOGrad(((float32((-1.1) ** step), Direction(derive(step, "z"), "gaussian", support)),), 0, 2)
        rule.update_(theta, g, 0.01, step)
    assert int(inside[0].sum()) > int(inside[-1].sum()) > 0
    assert all(bool((now <= then).all()) for then, now in pairwise(inside))

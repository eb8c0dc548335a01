"""What masks choose: thresholds against a sort, bands, scopes, random shares, sensitive weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.float64_directions import DTYPES, Tree, flat, moved_by, random_tree
from tests.tiny_models import IDS, build
from zofo.errors import InputError
from zofo.zo.kernels import reference
from zofo.zo.keys import tensor_key
from zofo.zo.masks import magnitude, random, sensitivity
from zofo.zo.masks._base import moving_weights
from zofo.zo.masks.magnitude import rank
from zofo.zo.point import Point
from zofo.zo.support import Band, Indices

SHAPES = {"layers__0__q": (30, 40), "layers__0__k": (7, 11), "layers__1__q": (5, 3, 4), "norm": (50,), "head": (9, 9)}
MATRICES = ["layers.0.q", "layers.0.k", "layers.1.q", "head"]


def tied_tree(dtype: torch.dtype) -> Tree:
    """Many weights of equal size, zeros and a subnormal number among them."""
    tree = random_tree(dtype, **SHAPES)
    with torch.no_grad():
        for param in tree.parameters():
            coarse = (param.float() * 32).round() / 32
            param.copy_(torch.where(torch.arange(param.numel()).view(param.shape) % 2 == 0, coarse, param.float()))
            param.view(-1)[3] = 1e-40
    return tree


def by_sort(tensors: Sequence[Tensor], place: int) -> float:
    return float(torch.cat([t.detach().float().abs().view(-1) for t in tensors]).sort().values[place - 1])


def places(share: str, n: int) -> int:
    """ceil(share n) for the decimal number that was written."""
    return math.ceil(Fraction(share) * n)


# ------------------------------------------------------------------------------------------------------------ magnitude


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", ["0.25", "0.3", "0.1", "0.7", "1", "0.001"])
def test_a_threshold_is_an_order_statistic_of_its_tensor(density: str, dtype: torch.dtype) -> None:
    for tree in (random_tree(dtype, **SHAPES), *([tied_tree(dtype)] if density != "0.001" else [])):
        theta = Point(tree)
        for config in (
            magnitude.Config(density=float(density)),
            magnitude.Config(sparsity=float(1 - Fraction(density))),
            magnitude.Config(sparsity=float(1 - Fraction(density)), density=float(density)),
        ):
            assert config.problems() == []
            support = magnitude.Mask(config, 0).make(theta, 0)
            assert sorted(support.parts) == sorted(MATRICES)  # the 1-D tensor rests
            for name, part in support.parts.items():
                n = theta[name].numel()
                h = by_sort([theta[name]], places(density, n))
                assert part == Band(0.0, h)
                moving = moved_by(support, theta)[name]
                assert torch.equal(moving, theta[name].float().abs() <= h)
                assert int(moving.sum()) >= places(density, n)


def test_ranks_are_exact_for_every_size_and_share() -> None:
    """Also where a share of a billion weights is no whole number of them, or its binary number is a little larger."""
    for n in (1, 2, 3, 10, 99, 1000, 10**6, 4 * 10**9, 8_000_000_000, 8_000_000_001):
        for share in ("0.25", "0.5", "0.75", "0.1", "0.3", "0.7", "0.9", "0.01", "0.001", "1"):
            assert rank(float(share), n) == places(share, n), (share, n)
            assert rank(1 - float(1 - Fraction(share)), n) == places(share, n), (share, n)


@pytest.mark.parametrize("scope", ["tensor", "layer", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [tied_tree, lambda dtype: random_tree(dtype, **SHAPES)])
def test_bands_that_share_an_end_share_no_weight_and_miss_none(make: Any, dtype: torch.dtype, scope: Any) -> None:
    theta = Point(make(dtype))
    ends = [0.0, 0.25, 0.5, 0.55, 0.9, 1.0]
    total = torch.zeros(sum(theta[name].numel() for name in MATRICES))
    for low, high in pairwise(ends):
        support = magnitude.Mask(magnitude.Config(between=(low, high), scope=scope), 0).make(theta, 0)
        where = moved_by(support, theta)
        assert moving_weights(theta, support) == sum(int(w.sum()) for w in where.values())
        total += flat({name: where[name] for name in MATRICES}).float()
    assert set(total.tolist()) == {1.0}


@pytest.mark.parametrize(
    ("scope", "groups"),
    [
        ("layer", [["layers.0.q", "layers.0.k"], ["layers.1.q"], ["head"]]),
        ("all", [MATRICES]),
    ],
)
def test_a_threshold_of_a_layer_or_of_all(scope: Any, groups: list[list[str]]) -> None:
    theta = Point(random_tree(torch.bfloat16, **SHAPES))
    with torch.no_grad():
        theta["layers.0.k"].mul_(3)
    parts = magnitude.Mask(magnitude.Config(scope=scope), 0).make(theta, 0).parts
    for names in groups:
        n = sum(theta[name].numel() for name in names)
        expected = Band(0.0, by_sort([theta[name] for name in names], places("0.25", n)))
        assert [parts[name] for name in names] == [expected] * len(names)
    assert len(parts) == len(MATRICES)


def test_refresh_takes_the_thresholds_of_the_theta_of_that_step() -> None:
    theta, told = Point(random_tree(**SHAPES)), []
    mask, once = magnitude.Mask(magnitude.Config(refresh=3), 0), magnitude.Mask(magnitude.Config(), 0)
    mask.listen = lambda step, support: told.append((step, support))
    supports = []
    for step in range(8):
        supports.append((mask.at(theta, step), once.at(theta, step)))
        with torch.no_grad():
            for name in MATRICES:
                theta[name].mul_(1.5)
    assert [step for step, _ in told] == [0, 3, 6]
    assert [s for s, _ in supports] == [told[step // 3][1] for step in range(8)]
    assert len({id(s) for _, s in supports}) == 1
    first, second = (told[i][1].parts["head"].most for i in (0, 1))
    assert second == pytest.approx(first * 1.5**3, rel=1e-6)


def test_sparsity_and_density_are_one_number() -> None:
    both = magnitude.Config(sparsity=0.75, density=0.5).problems()
    assert len(both) == 1
    assert "density" in both[0]
    assert "0.75" in both[0]
    for config in (magnitude.Config(between=(0.5, 0.5)), magnitude.Config(between=(0.0, 0.5), density=0.5)):
        assert len(config.problems()) == 1
    assert magnitude.Config().moving == 0.25
    assert magnitude.Mask(magnitude.Config(rescale=True), 0).make(Point(random_tree(a=(8, 8))), 0).scale == 2.0
    mask = magnitude.Mask(magnitude.Config(sparsity=0.9), 0)
    mask.at(Point(random_tree(a=(100, 100))), 0)
    words = mask.words()
    assert "1,000 of 10,000" in words
    assert "density 0.1" in words
    assert "sparsity 0.9" in words
    assert mask.words() == "", "said once"


# --------------------------------------------------------------------------------------------------------------- random


@pytest.mark.parametrize("density", [0.25, 0.01])
def test_a_random_mask_has_its_density_and_depends_on_nothing_else(density: float) -> None:
    """Nor does it on the signs or entries of a direction, on the size of a weight, or on another tensor's mask."""
    theta, n = Point(random_tree(a=(500, 400), b=(400, 500), c=(90,))), 200_000
    mask = random.Mask(random.Config(density=density), 7)
    support = mask.at(theta, 0)
    assert mask.at(theta, 1000) is support
    assert sorted(support.parts) == ["a", "b"]
    share = round(4096 * density) / 4096
    a, b = (moved_by(support, theta)[name].view(-1).double() for name in "ab")
    sigma = (share * (1 - share) / n) ** 0.5
    assert abs(float(a.mean()) - share) < 5 * sigma
    assert abs(float(b.mean()) - share) < 5 * sigma
    key = tensor_key("a")
    others = {
        "the other mask": (b - share) / (share * (1 - share)) ** 0.5,
        "signs": reference.signs(5, key, 0, n),
        "entries": reference.entries("gaussian", 5, key, 0, n),
        "size": (theta["a"].view(-1).abs() / 0.1 - (2 / math.pi) ** 0.5) / (1 - 2 / math.pi) ** 0.5,
        "neighbour": torch.roll(a - share, 1) / (share * (1 - share)) ** 0.5,
    }
    for what, other in others.items():
        assert abs(float(((a - share) * other).mean())) < 5 * sigma, what


def test_a_random_mask_is_drawn_again_after_each_refresh() -> None:
    theta = Point(random_tree(a=(300, 300)))

    def at(step: int, seed: int = 7) -> Tensor:
        return moved_by(random.Mask(random.Config(refresh=5), seed).at(theta, step), theta)["a"]

    assert torch.equal(at(0), at(4))
    assert torch.equal(at(5), at(9))
    for other in (at(5), at(0, seed=8)):
        both = float((at(0) & other).double().mean())
        assert abs(both - 1 / 16) < 5 * (1 / 16 / 90_000) ** 0.5


def test_a_share_that_a_random_mask_cannot_have_is_refused() -> None:
    """It has multiples of 1/4096: nobody is given 2.4 times what was asked for."""
    for density in (0.5, 0.25, 0.01, 0.001, 1 / 4096):
        assert random.Config(density=density).problems() == []
        assert abs(random.Config(density=density).among / 4096 / density - 1) < 0.1
    for config in (random.Config(density=1e-4), random.Config(sparsity=0.99999), random.Config(density=1.5 / 4096)):
        assert len(config.problems()) == 1
    assert len(random.Config(density=0.25, sparsity=0.5).problems()) == 1


# ---------------------------------------------------------------------------------------------------------- sensitivity


class Backwards:
    """Problem's part that the mask uses: n calls, each of which adds a gradient of the loss on a batch of its own."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def loss(self, i: int) -> Tensor:
        return self.model(input_ids=IDS[i : i + 1], labels=IDS[i : i + 1], use_cache=False).loss

    def gradients(self, n: int) -> Any:
        return (lambda i=i: self.loss(i).backward() for i in range(n))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scope", ["tensor", "all"])
@pytest.mark.parametrize("density", ["0.001", "0.01", "0.1"])
def test_sensitive_weights_are_those_of_the_full_gradient(density: str, scope: Any, dtype: torch.dtype) -> None:
    model = build("llama", dtype)
    theta, problem = Point(model), Backwards(model)
    before = theta.sha256()
    mask = sensitivity.Mask(sensitivity.Config(density=float(density), batches=3, scope=scope), 0, problem.gradients)
    support = mask.at(theta, 0)
    assert theta.sha256() == before
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    scores = {name: torch.zeros(t.shape) for name, t in theta.items()}
    with theta.trainable():
        for i in range(3):
            for name, g in zip(theta, torch.autograd.grad(problem.loss(i), list(theta.values()))):
                scores[name] += g.float().square()
    for names in [list(theta)] if scope == "all" else [[name] for name in theta]:
        size = sum(theta[name].numel() for name in names)
        keep = max(1, places(density, size))
        together = torch.cat([scores[name].view(-1) for name in names])
        parts = {name: support.parts.get(name) for name in names}
        assert all(part is None or isinstance(part, Indices) for part in parts.values())
        where = [p.at.long() if isinstance(p, Indices) else torch.zeros(0, dtype=torch.long) for p in parts.values()]
        assert sum(map(len, where)) == keep
        chosen_scores = torch.cat([scores[name].view(-1)[at] for name, at in zip(names, where)])
        assert torch.equal(chosen_scores.sort().values, together.sort().values[size - keep :])  # ties: the same scores
        assert all(bool((at[1:] > at[:-1]).all()) for at in where)
    assert {part.at.dtype for part in support.parts.values() if isinstance(part, Indices)} == {torch.int32}
    assert mask.state_share == float(density)


def test_of_equal_scores_the_first_weights_are_kept_and_a_nan_is_refused() -> None:
    theta = Point(random_tree(a=(4, 5), b=(3, 2)))
    scores = {"a": torch.ones(4, 5), "b": torch.ones(3, 2)}
    scores["b"][2, 1] = 2
    parts = sensitivity.largest(scores, 0.25, "all", theta)
    assert parts["a"].at.tolist() == [0, 1, 2, 3, 4, 5]
    assert parts["b"].at.tolist() == [5]
    scores["a"][1, 1] = math.nan
    with pytest.raises(InputError, match="not finite"):
        sensitivity.largest(scores, 0.25, "all", theta)

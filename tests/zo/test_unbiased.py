"""The mean of an estimate over all 2^d signs, each taken once: the gradient, exactly; and known second moments.

theta, eps and the objectives' coefficients are small dyadic numbers: every sum below is exact, and `==` is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.float64_directions import Fixed, Tree, dense, flat, moved_by, seeds_of_all_signs, signs_of
from tests.python_ints import field_by_hand
from zofo.zo.estimators import one_sided, spsa, svrg
from zofo.zo.keys import tensor_key
from zofo.zo.masks import blocks
from zofo.zo.point import Point
from zofo.zo.support import Band, Chance, Indices, Support

EPS = 0.25
BOTH = [spsa, one_sided]
Shapes = Mapping[str, tuple[int, ...]]
SIX: Shapes = {"a": (2, 2), "b": (1, 2)}
FOUR: Shapes = {"a": (2, 2)}


class Quadratic:
    """f(x) = b'x + x'Hx / 2 + sum_i t_i x_i^3, x all weights of a module one behind the other."""

    def __init__(self, module: Tree, seed: int, cubic: int = 0) -> None:
        self.module = module
        generator, d = torch.Generator().manual_seed(seed), sum(p.numel() for p in module.parameters())

        def draw(*shape: int, most: int = 3) -> Tensor:
            return torch.randint(-most, most + 1, shape, generator=generator).double()

        root = draw(d, d, most=1)
        self.b, self.H, self.t = draw(d), root + root.T, draw(d, most=max(cubic, 1)) * bool(cubic)
        self.then: list[Quadratic] = []
        self.calls = 0

    def __call__(self) -> float:
        self.calls += 1
        x = flat(self.module.read())
        return float(self.b @ x + x @ self.H @ x / 2 + self.t @ x**3)

    def gradient(self, x: Tensor) -> Tensor:
        return self.b + self.H @ x + 3 * self.t * x**2

    def further(self) -> Quadratic:
        return self.then.pop(0)


def tree(shapes: Shapes) -> Tree:
    """Different multiples of 1/8, of both signs."""
    total, made = 0, {}
    for name, shape in shapes.items():
        n = int(torch.Size(shape).numel())
        values = torch.arange(total + 1, total + n + 1).float() / 8
        made[name], total = (values * (-1) ** torch.arange(n)).view(shape), total + n
    return Tree(made)


def sizes(theta: Mapping[str, Tensor]) -> tuple[tuple[str, int], ...]:
    return tuple((name, t.numel()) for name, t in theta.items())


def mean_and_moment(estimates: list[Tensor]) -> tuple[Tensor, Tensor]:
    """E g and E g g'."""
    stacked = torch.stack(estimates)
    return stacked.mean(0), stacked.T @ stacked / len(stacked)


def over_all_signs(
    module: Any, f: Quadratic, theta: Point, support: Support | None = None, mask: Any = None, step: int = 0, **settings
) -> list[Tensor]:
    estimate = module.Estimator(module.Config(eps=EPS, **settings), 0, mask or Fixed(support))
    seeds = seeds_of_all_signs(sizes(theta), *([(), ("q", 1)] if settings.get("q") == 2 else []))
    return [flat(dense(theta, estimate(f, theta, step, seed))) for seed in seeds]


# --------------------------------------------------------------------------------------------------- all weights move


def test_every_pattern_of_ten_signs_comes_once() -> None:
    seeds = seeds_of_all_signs((("a", 6), ("b", 4)))
    patterns = {signs_of(seed, {"a": 6, "b": 4}) for seed in seeds}
    assert len(seeds) == len(patterns) == 1024
    for seed in seeds[::99]:
        bits = [field_by_hand(seed, tensor_key(name), e, 1) for name, n in (("a", 6), ("b", 4)) for e in range(n)]
        assert signs_of(seed, {"a": 6, "b": 4}) == tuple(2 * bit - 1 for bit in bits)


@pytest.mark.parametrize("module", BOTH)
def test_the_mean_is_the_gradient_and_the_second_moment_is_known(module: Any) -> None:
    """d = 10. E c^2 z z' has |g|^2 on its diagonal and 2 g_i g_j beside it; the curvature term of the one-sided
    estimate, eps/2 z'Hz, has mean 0 along z (three signs) and adds eps^2/4 E[(z'Hz)^2 z z']."""
    model = tree({"a": (2, 3), "b": (4,)})
    theta, f = Point(model), Quadratic(model, 1)
    g = f.gradient(flat(theta))
    mean, moment = mean_and_moment(over_all_signs(module, f, theta))
    assert torch.equal(mean, g)
    expected = 2 * torch.outer(g, g)
    expected.diagonal().fill_(float(g @ g))
    if module is one_sided:
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 10)
        curvature = ((signs @ f.H) * signs).sum(1).square()
        expected += EPS**2 / 4 * (signs * curvature[:, None]).T @ signs / len(signs)
    assert torch.equal(moment, expected)


@pytest.mark.parametrize("module", BOTH)
def test_q_directions_are_averaged(module: Any) -> None:
    """Over all pairs of patterns: E g g' is half of one direction's and half of the gradient's own."""
    model = tree(FOUR)
    theta, f = Point(model), Quadratic(model, 2)
    g = f.gradient(flat(theta))
    one, first = mean_and_moment(over_all_signs(module, f, theta))
    two, second = mean_and_moment(over_all_signs(module, f, theta, q=2))
    assert torch.equal(one, g)
    assert torch.equal(two, g)
    assert torch.equal(second, (first + torch.outer(g, g)) / 2)


@pytest.mark.parametrize("module", BOTH)
def test_a_cubic_term_is_the_bias(module: Any) -> None:
    """sum t_i x_i^3: c gains eps^2 sum t_i z_i^3, and with signs z^3 = z: the bias is eps^2 t for both estimators."""
    model = tree(SIX)
    theta, f = Point(model), Quadratic(model, 3, cubic=2)
    mean, _ = mean_and_moment(over_all_signs(module, f, theta))
    assert bool(f.t.any())
    assert torch.equal(mean, f.gradient(flat(theta)) + EPS**2 * f.t)


def test_q_directions_cost_q_times_the_evaluations_and_no_memory() -> None:
    model = tree(SIX)
    f, forwards = Quadratic(model, 1), {}
    for q in (1, 8):
        theta = Point(model)
        g = spsa.Estimator(spsa.Config(eps=EPS, q=q), 0)(f, theta, 0, 5)
        forwards[q] = (f.calls, g.forwards, len(g.terms), theta.scratch_bytes)
        f.calls = 0
    assert forwards[1] == (2, 2, 1, forwards[8][3])
    assert forwards[8][:3] == (16, 16, 8)


# ---------------------------------------------------------------------------------------------------------------- masks


SUPPORTS: dict[str, dict[str, Any]] = {
    "band": {"a": Band(0.25, 0.375), "b": Band(0.7, 9.0)},
    "indices": {"a": Indices(torch.tensor([0, 3], dtype=torch.int32)), "b": Indices(torch.tensor([1]))},
    "random": {"a": Chance(11, 2048), "b": Chance(11, 2048)},
    "block": {"b": None},
    "mixed": {"a": Indices(torch.tensor([2])), "b": Band(0.0, 0.625)},
}


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("kind", SUPPORTS)
@pytest.mark.parametrize("module", BOTH)
def test_with_a_mask_it_is_the_gradient_of_the_weights_that_move(module: Any, kind: str, scale: float) -> None:
    """Times scale^2. Its length squared is |g|^2 of those weights times their number (two-sided)."""
    model = tree(SIX)
    theta, f = Point(model, mode="copy" if scale == 2 else "layer"), Quadratic(model, 4)
    support = Support(SUPPORTS[kind], scale)
    where = flat(moved_by(support, theta))
    assert 0 < int(where.sum()) < 6
    g = f.gradient(flat(theta)) * where
    mean, moment = mean_and_moment(over_all_signs(module, f, theta, support))
    assert torch.equal(mean, scale**2 * g)
    if module is spsa:
        assert float(moment.trace()) == scale**4 * float(where.sum()) * float(g @ g)


@pytest.mark.parametrize(("rescale", "share"), [(True, 1.0), (False, 0.25)])
def test_a_cycle_of_blocks_sees_the_whole_gradient(rescale: bool, share: float) -> None:
    model = tree({"layers.0.w": (1, 2), "layers.1.w": (1, 1), "layers.1.v": (1, 1), "layers.2.w": (1, 1), "h": (1, 1)})
    theta, f = Point(model), Quadratic(model, 5)
    means, g = [], f.gradient(flat(theta))
    for step in range(4):
        mask = blocks.Mask(blocks.Config(rescale=rescale), 0)
        mean, _ = mean_and_moment(over_all_signs(spsa, f, theta, mask=mask, step=step))
        assert torch.equal(mean != 0, (g != 0) & (flat(moved_by(mask.at(theta, step), theta)) > 0))
        means.append(mean)
    assert torch.equal(torch.stack(means).mean(0), share * g)


@pytest.mark.parametrize(("per_step", "refresh"), [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_blocks_in_turn_all_move_equally_often(per_step: int, refresh: int) -> None:
    """Of four blocks, in four turns; the next ones begin behind the last."""
    theta = Point(tree({f"layers.{i}.w": (1, 2) for i in range(4)}))
    mask = blocks.Mask(blocks.Config(per_step=per_step, refresh=refresh), 7)
    seen = [sorted(int(name[7]) for name in mask.at(theta, step).parts) for step in range(4 * refresh)]
    assert seen == [sorted((t * per_step + i) % 4 for i in range(per_step)) for t in range(4) for _ in range(refresh)]


@pytest.mark.parametrize("per_step", [1, 2])
def test_random_blocks_come_equally_often(per_step: int) -> None:
    """Each with probability per_step / blocks, so that the rescaled estimate has the gradient as its mean."""
    theta = Point(tree({f"layers.{i}.w": (1, 2) for i in range(4)}))
    mask = blocks.Mask(blocks.Config(order="random", per_step=per_step, rescale=True), 7)
    supports = [mask.at(theta, step) for step in range(2000)]
    share = per_step / 4
    assert all(abs(s.scale * share**0.5 - 1) < 1e-15 for s in supports)
    assert {len(s.parts) for s in supports} == {per_step}
    for name in theta:
        frequency = sum(name in s.parts for s in supports) / 2000
        assert abs(frequency - share) < 5 * (share * (1 - share) / 2000) ** 0.5
    again = blocks.Mask(blocks.Config(order="random", per_step=per_step, rescale=True), 7)
    assert [again.at(theta, step).parts for step in (1999, 3, 4)] == [supports[k].parts for k in (1999, 3, 4)]


def test_over_random_masks_the_rescaled_estimate_is_unbiased() -> None:
    """Each of the 16 masks of four weights once, and each pattern of signs; scale^2 = 2 up to its rounding."""
    model = tree(FOUR)
    theta, f, means = Point(model), Quadratic(model, 6), {}
    for seed in range(500):
        if len(means) == 15:
            break
        support = Support({"a": Chance(seed, 2048)}, 2**0.5)
        pattern = tuple(flat(moved_by(support, theta)).tolist())
        if pattern not in means and any(pattern):
            means[pattern], _ = mean_and_moment(over_all_signs(spsa, f, theta, support))
    assert len(means) == 15
    mean = torch.stack(list(means.values())).sum(0) / 16  # the empty mask adds 0
    torch.testing.assert_close(mean, f.gradient(flat(theta)), rtol=1e-6, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------- svrg


@pytest.mark.parametrize("masked", [False, True])
def test_svrg(masked: bool) -> None:
    """Over all pairs of anchor directions, and all directions of a later step: grad f_B(x) - grad f_B(x~) + the mean of
    the anchor's two gradients; around that, given the anchor, only (d - 1) |grad f_B(x) - grad f_B(x~)|^2."""
    shapes: Shapes = {"a": (1, 3)}
    support = Support({"a": Indices(torch.tensor([0, 2]))}) if masked else None
    config, estimates = svrg.Config(eps=EPS, anchor_batches=2, refresh=5), []
    for anchor_seed in seeds_of_all_signs((("a", 3),), ("anchor", 0), ("anchor", 1)):
        model = tree(shapes)
        theta, f, batches = Point(model), Quadratic(model, 7), [Quadratic(model, 8), Quadratic(model, 9)]
        first, start = Quadratic(model, 10), flat(theta)
        first.then = list(batches)
        estimate = svrg.Estimator(config, 0, Fixed(support))
        g = estimate(first, theta, 0, anchor_seed)
        assert g.terms[0][0] == 0  # at the anchor what the batch adds cancels
        model.get_parameter("a").data += torch.tensor([[1.0, -0.5, 2.0]])
        given = [flat(dense(theta, estimate(f, theta, 3, seed))) for seed in seeds_of_all_signs((("a", 3),))]
        where = flat(moved_by(support, theta))
        gain = (f.gradient(flat(theta)) - f.gradient(start)) * where
        spread = torch.stack(given) - torch.stack(given).mean(0)
        assert float(spread.square().sum(1).mean()) == (float(where.sum()) - 1) * float(gain @ gain)
        estimates += given
        expected = gain + sum(batch.gradient(start) for batch in batches) / 2 * where
    assert torch.equal(torch.stack(estimates).mean(0), expected)  # pyright: ignore[reportPossiblyUnboundVariable]

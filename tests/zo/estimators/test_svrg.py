"""The estimator `svrg` on a stochastic linear regression: by hand in float64, its variance, its anchor, ways back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.float64_directions import DTYPES, Fixed, Tree, dense, flat, snapshot, whole
from zofo.errors import NonFiniteError
from zofo.methods import bilevel_ablations
from zofo.train import checkpoint
from zofo.zo.direction import Direction
from zofo.zo.estimators import spsa, svrg
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Journal, Outcome, Record
from zofo.zo.journalled import Journalled
from zofo.zo.keys import derive
from zofo.zo.laws import LAWS
from zofo.zo.masks import blocks, magnitude
from zofo.zo.point import Point
from zofo.zo.replay import replay
from zofo.zo.rules import adam, sgd

D, ROWS, BATCHES, EPS = 24, 4, 12, 2.0**-6
GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(BATCHES, ROWS, D, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(BATCHES, ROWS, generator=GENERATOR, dtype=torch.float64)
START = {"a": 0.1 * torch.randn(4, 5, generator=GENERATOR), "b": 0.1 * torch.randn(4, generator=GENERATOR)}


def value(x: Tensor, batch: int) -> float:
    """|A_B x - y_B|^2 / (2 rows)."""
    return float((A[batch] @ x - Y[batch]).square().mean() / 2)


def gradient(x: Tensor, batch: int) -> Tensor:
    return A[batch].T @ (A[batch] @ x - Y[batch]) / ROWS


class Objective:
    """f on one batch; `further` draws the next of a run's batches."""

    def __init__(self, tree: Tree, batch: int, drawn: list[int]) -> None:
        self.tree, self.batch, self.drawn, self.calls = tree, batch, drawn, 0

    def __call__(self) -> float:
        self.calls += 1
        return value(flat(self.tree.read()), self.batch)

    def further(self) -> Objective:
        self.drawn.append((self.drawn or [0])[-1] + 1)
        return Objective(self.tree, self.drawn[-1] % BATCHES, self.drawn)


def world(dtype: torch.dtype = torch.float32, mode: str = "layer") -> tuple[Tree, Point]:
    tree = Tree({name: t.to(dtype) for name, t in START.items()})
    return tree, Point(tree, mode=mode)


def steps(
    tree: Tree, theta: Point, estimate: Any, rule: Any, first: int, last: int, rate: float = 2e-3, nan_at: int = -1
) -> None:
    """Steps of a run; at `nan_at` the batches of the anchor have no finite loss."""
    for k in range(first, last):
        f = Objective(tree, k % BATCHES, [100 * k])
        if k == nan_at:
            f.further = lambda: lambda: math.nan  # pyright: ignore[reportAttributeAccessIssue]
        g = estimate(f, theta, k, derive(0, "z", k))
        try:
            rule.update_(theta, g, rate, k, f)
        except NonFiniteError:
            assert k == nan_at


# --------------------------------------------------------------------------------------------------------- the estimate


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("q", [1, 2])
def test_the_formula_by_hand(q: int, law: Any) -> None:
    """[c_B(theta; z) - c_B(theta~; z)] z + mean_j c~_j z~_j over two epochs of three steps, every c in float64."""
    tree, theta = world()
    estimate = svrg.Estimator(svrg.Config(eps=EPS, q=q, law=law, refresh=3, anchor_batches=2), 5)

    def sides(x: dict[str, Tensor], z: Direction, batch: int) -> list[float]:
        factor, entries = float32(EPS * theta.stretch(z)), whole(x, Direction(z.seed, z.entries))
        points = [flat({n: t + (s * factor * entries[n]).float() for n, t in x.items()}) for s in (1, -1)]
        return [value(point, batch) for point in points]

    def coefficient(x: dict[str, Tensor], z: Direction, batch: int) -> float:
        plus, minus = sides(x, z, batch)
        return (plus - minus) / (2 * EPS)

    anchor, known = snapshot(theta), torch.zeros(D)
    for k in range(6):
        x, expected, total, batch = snapshot(theta), torch.zeros(D, dtype=torch.float64), 0.0, (5 * k) % BATCHES
        f, seed = Objective(tree, batch, drawn := [k]), derive(0, "z", k)
        if k % 3 == 0:
            anchor, known = x, torch.zeros(D, dtype=torch.float64)
            for j in range(2):
                z = Direction(derive(seed, "anchor", j), law)
                known += coefficient(x, z, (k + 1 + j) % BATCHES) / 2 * flat(whole(x, z))
        for i in range(q):
            z = Direction(seed if i == 0 else derive(seed, "q", i), law)
            expected += (coefficient(x, z, batch) - coefficient(anchor, z, batch)) / q * flat(whole(x, z))
            total += sum(sides(x, z, batch)) / 2 / q
        g = estimate(f, theta, k, seed)
        torch.testing.assert_close(flat(dense(theta, g)), expected + known, rtol=1e-5, atol=1e-5)
        assert [c == 0 for c, _ in g.terms] == [k % 3 == 0] * q + [False] * 2
        assert g.forwards == 4 * q + 4 * (k % 3 == 0)
        assert (f.calls, len(drawn)) == (4 * q, 1 + 2 * (k % 3 == 0))
        assert g.value == pytest.approx(total, rel=1e-6)  # the mean of the sides at theta, not at the anchor
        sgd.Rule(sgd.Config(), 1).update_(theta, g, 0.01, k)


@pytest.mark.parametrize("mode", ["layer", "copy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_the_anchor_the_estimate_is_the_anchors(dtype: torch.dtype, mode: str) -> None:
    """Exactly, rounded shifts and all: the same batch at the same point along the same z."""
    tree, theta = world(dtype, mode)
    before = theta.sha256()
    estimate = svrg.Estimator(svrg.Config(eps=EPS, refresh=9, q=2, anchor_batches=3), 5)
    for k in range(4):
        g = estimate(Objective(tree, k, [50]), theta, k, derive(0, "z", k))
        assert [c for c, _ in g.terms[:2]] == [0.0, 0.0]
        assert tuple((z.seed, c) for c, z in g.terms[2:]) == estimate.anchor_terms
        assert len(estimate.anchor_terms) == 3
    assert theta.sha256() == before
    assert all(torch.equal(estimate.anchor[name], t) for name, t in theta.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_away_from_the_anchor_modes_give_equal_bits(dtype: torch.dtype) -> None:
    """Of the four evaluations two are at the anchor: in mode copy, too."""
    ends = []
    for mode in ("layer", "copy"):
        tree, theta = world(dtype, mode)
        config = svrg.Config(eps=1e-2, refresh=50, anchor_batches=2, shift=mode)  # pyright: ignore[reportArgumentType]
        estimate = svrg.Estimator(config, 1)
        steps(tree, theta, estimate, sgd.Rule(sgd.Config(), 1), 0, 4)
        f = Objective(tree, 4 % BATCHES, [400])
        ends.append((theta.sha256(), [c for c, _ in estimate(f, theta, 4, derive(0, "z", 4)).terms]))
    assert ends[0] == ends[1]
    assert ends[0][1][0] != 0


def test_near_the_anchor_it_varies_less_than_spsa() -> None:
    """Over batches and directions; given an anchor with many directions it is nearer to the gradient, too."""
    tree, theta = world()
    estimate = svrg.Estimator(svrg.Config(eps=EPS, refresh=10_000, anchor_batches=150), 5)
    known = flat(dense(theta, estimate(Objective(tree, 0, [0]), theta, 0, 1)))
    with torch.no_grad():
        theta["a"].add_(0.02)
    exact = sum(gradient(flat(theta), b) for b in range(BATCHES)) / BATCHES
    estimates: dict[str, Tensor] = {}
    for name, one in {"svrg": estimate, "spsa": spsa.Estimator(spsa.Config(eps=EPS), 5)}.items():
        gs = [one(Objective(tree, k % BATCHES, [0]), theta, k + 1, derive(1, "z", k)) for k in range(240)]
        estimates[name] = torch.stack([flat(dense(theta, ZOGrad(g.terms[:1], 0, 0))) for g in gs])
        estimates[name] += known if name == "svrg" else 0
    variance = {name: float(x.var(0).sum()) for name, x in estimates.items()}
    error = {name: float((x - exact).square().sum(1).mean()) for name, x in estimates.items()}
    assert variance["svrg"] < 0.05 * variance["spsa"]
    assert error["svrg"] < 0.3 * error["spsa"]


# ------------------------------------------------------------------------------------------- the anchor, and ways back


CONFIGS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "plain": ({}, None, sgd),
    "gaussian-q": ({"law": "gaussian", "q": 2}, None, adam),
    "sphere-band": ({"law": "sphere"}, magnitude.Config(density=0.6), sgd),
}


def parts(name: str, **more: Any) -> tuple[Any, Any]:
    """(estimator, rule) as at the start of a run."""
    settings, mask, rule = CONFIGS[name]
    made = None if mask is None else magnitude.Mask(mask, 3)
    config = svrg.Config(**{"eps": EPS, "refresh": 4, "anchor_batches": 2, **settings, **more})
    return svrg.Estimator(config, 3, made), rule.Rule(rule.Config(), 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_memory_and_disk_a_replay_and_a_saved_state_give_equal_bits(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Seven steps, an anchor at 0 and 4, cut after the sixth: in the middle of an epoch."""
    ends, folders = [], []
    for anchor in ("memory", "disk"):
        tree, theta = world(dtype)
        estimate, rule = parts(name, anchor=anchor)
        journal = Journal.create(tmp_path / f"{anchor}.bin", {})
        if estimate.mask is not None:
            estimate.mask.listen = lambda step, support, journal=journal: journal.append(
                Record(step, (), 0.0, Outcome.SUPPORT, support.pack())
            )
        steps(tree, theta, estimate, Journalled(rule, journal), 0, 6)
        saved = {"estimator": estimate.state_dict(), "rule": rule.state_dict()}
        checkpoint.save_tree(tmp_path, anchor, saved)
        middle, now = snapshot(theta), None if estimate.mask is None else estimate.mask.now
        steps(tree, theta, estimate, Journalled(rule, journal), 6, 7)
        ends.append((theta.sha256(), {n: t.clone() for n, t in estimate.anchor.items()}, journal.path.read_bytes()))
        folders.append(estimate._folder and estimate._folder.name)

        _, again = world(dtype)
        other, fresh = parts(name, anchor=anchor)
        replay(again, other, fresh, list(journal.records())[:-1])
        assert all(torch.equal(other.anchor[n], t) for n, t in ends[0][1].items())
        assert (other.since, other.anchor_terms) == (estimate.since, estimate.anchor_terms)
        replay(again, other, fresh, list(journal.records())[-1:])
        assert again.sha256() == theta.sha256()

        tree, third = world(dtype)
        with torch.no_grad():
            for n, t in middle.items():
                third[n].copy_(t)
        loaded, last = parts(name, anchor=anchor)
        state = checkpoint.load_tree(tmp_path, anchor)
        loaded.load_state_dict(state["estimator"])
        last.load_state_dict(state["rule"])
        if now is not None:
            loaded.mask.restore(0, now)
        steps(tree, third, loaded, last, 6, 7)
        assert third.sha256() == theta.sha256()
    assert ends[0][0] == ends[1][0]
    assert ends[0][2] == ends[1][2]
    assert all(torch.equal(t, ends[1][1][n]) for n, t in ends[0][1].items())
    assert ends[0][1]["a"].dtype == dtype
    assert folders[0] is None
    del estimate, loaded, other  # pyright: ignore[reportPossiblyUnboundVariable]
    assert not Path(str(folders[1])).exists()


def test_a_long_epoch_replays_with_more_seeds_than_are_remembered(tmp_path: Path, monkeypatch: Any) -> None:
    """On the sphere with a band, a direction's stretch is that of the weights that move now."""
    from zofo.zo import sphere

    monkeypatch.setattr(sphere, "REMEMBERED", 3)
    tree, theta = world()
    estimate, rule = parts("sphere-band", refresh=50)
    journal = Journal.create(tmp_path / "journal.bin", {})
    estimate.mask.listen = lambda step, support: journal.append(Record(step, (), 0.0, Outcome(3), support.pack()))
    steps(tree, theta, estimate, Journalled(rule, journal), 0, 8, rate=0.02)
    _, again = world()
    replay(again, *parts("sphere-band", refresh=50), list(journal.records()))
    assert again.sha256() == theta.sha256()


@pytest.mark.parametrize("at", [0, 4])
def test_an_anchor_without_a_finite_estimate_is_taken_again(at: int, tmp_path: Path) -> None:
    """That step is skipped, the next one has an anchor of its own; and a replay sees the same."""
    tree, theta = world()
    estimate, rule = parts("plain")
    journal = Journal.create(tmp_path / "journal.bin", {})
    steps(tree, theta, estimate, Journalled(rule, journal), 0, 7, nan_at=at)
    outcomes = [record.outcome for record in journal.records()]
    assert outcomes == [Outcome.SKIPPED if k == at else Outcome.APPLIED for k in range(7)]
    assert all(math.isfinite(c) for r in list(journal.records())[at + 1 :] for _, c in r.terms)
    _, again = world()
    other = parts("plain")
    replay(again, *other, journal.records())
    assert again.sha256() == theta.sha256()
    assert other[0].anchor_terms == estimate.anchor_terms


# ------------------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_is_refused_with_the_reason() -> None:
    assert "inplace" in svrg.Config(shift="inplace").problems()[0]
    config = svrg.Config()
    assert config.faults({"mask": magnitude.Config()}) == []
    assert config.faults({}) == []
    for mask in (magnitude.Config(refresh=5), blocks.Config()):
        assert "without refresh" in config.faults({"mask": mask})[0]
    ablation = bilevel_ablations.Config(independent_z=True)
    assert "independent_z" in bilevel_ablations.Method.faults({"method": ablation, "estimator": config})[0]
    assert bilevel_ablations.Method.faults({"method": ablation, "estimator": spsa.Config()}) == []
    theta = world(mode="inplace")[1]
    with pytest.raises(RuntimeError, match="inplace"):
        with theta.anchored(snapshot(theta)):
            pass
    theta = world()[1]
    with pytest.raises(TypeError, match=r"further\(\)"):
        svrg.Estimator(config, 1, Fixed(None))(lambda: 0.0, theta, 0, 1)

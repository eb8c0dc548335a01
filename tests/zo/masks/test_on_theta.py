"""The weights that really move, read off shifted weights and updates: one set at +eps, at -eps and in the update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.float64_directions import DTYPES, Fixed, Tree, moved_by, random_tree, read, snapshot
from tests.tiny_models import build
from zofo.config import registry
from zofo.zo import dense_update, move, shift
from zofo.zo.direction import Direction
from zofo.zo.estimators import lozo, one_sided, spsa, subzero, svrg
from zofo.zo.grad import ZOGrad
from zofo.zo.journal import Journal, Record
from zofo.zo.journalled import Journalled
from zofo.zo.keys import derive
from zofo.zo.masks import magnitude, random
from zofo.zo.point import Point
from zofo.zo.replay import replay
from zofo.zo.rules import adam, momentum, sgd
from zofo.zo.support import Band, Chance, Indices, Support

EPS = 0.04  # many units in the last place of every weight below, in every dtype: what moves shows
SHAPES: dict[str, Any] = {"q": (30, 40), "k": (7, 11), "conv": (5, 3, 4), "norm": (50,)}
SUPPORTS: dict[str, dict[str, Any]] = {
    "small": {"q": Band(0.0, 0.05), "conv": Band(0.0, 0.02)},
    "large": {"q": Band(0.08, 9.0), "k": Band(0.1, 0.2)},
    "random": {"q": Chance(3, 1024), "k": Chance(3, 100), "conv": Chance(3, 3000)},
    "indices": {"q": Indices(torch.arange(3, 1200, 7)), "norm": Indices(torch.tensor([0, 49], dtype=torch.int32))},
    "blocks": {"k": None, "norm": None},
    "mixed": {"q": Band(0.03, 0.06), "k": Chance(9, 2000), "conv": None, "norm": Indices(torch.tensor([7]))},
}


def changed(one: Any, two: Any) -> dict[str, Tensor]:
    return {name: one[name].double() != two[name].double() for name in one}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


class Watch:
    """An objective that keeps what it read at each evaluation."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.seen = tree, list[dict[str, Tensor]]()

    def __call__(self) -> float:
        self.seen.append(self.tree.read())
        return sum(float((x - 0.3).square().sum()) for x in self.seen[-1].values())

    def further(self) -> Watch:
        return self


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["layer", "copy"])
@pytest.mark.parametrize("kind", SUPPORTS)
@pytest.mark.parametrize("slices", [1 << 20, 64])
def test_one_set_at_plus_eps_at_minus_eps_and_in_the_update(
    slices: int, kind: str, mode: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With signs every weight of the set moves by eps; the others keep their bits. Also by a rule's own step."""
    monkeypatch.setattr(move, "SLICE", slices)
    monkeypatch.setattr(dense_update, "SLICE", slices)
    for rule in (sgd.Rule(sgd.Config(rounding="nearest"), 1), momentum.Rule(momentum.Config(), 1)):
        tree = random_tree(dtype, **SHAPES)
        theta, f, support = Point(tree, mode=mode), Watch(tree), Support(SUPPORTS[kind], 1.5)
        start, expected = snapshot(theta), moved_by(support, theta)
        assert 0 < sum(int(w.sum()) for w in expected.values()) < theta.size
        g = spsa.Estimator(spsa.Config(eps=EPS, q=2), 0, Fixed(support))(f, theta, 0, 5)
        assert len(f.seen) == 4
        for seen in f.seen:
            assert same(changed(seen, start), expected)
        one = ZOGrad(g.terms[:1], 0, 2)
        rule.update_(theta, one, 0.02 / abs(one.terms[0][0]), 0)
        assert same(changed(snapshot(theta), start), expected)


@pytest.mark.parametrize("kind", ["small", "random", "indices", "mixed"])
@pytest.mark.parametrize("module", [lozo, subzero])
def test_products_move_the_same_set(module: Any, kind: str) -> None:
    """Their entries are numbers of every size: in fp32 at eps = 1/4 all of them show."""
    tree = random_tree(**SHAPES)
    theta, f, support = Point(tree), Watch(tree), Support(SUPPORTS[kind])
    start, expected = snapshot(theta), moved_by(support, theta)
    g = module.Estimator(module.Config(eps=0.25, rank=2), 0, Fixed(support))(f, theta, 0, 5)
    assert all(same(changed(seen, start), expected) for seen in f.seen)
    theta.add_(ZOGrad(((1.0, g.terms[0][1]),), 0, 2), 0.25, None)
    assert same(changed(snapshot(theta), start), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["layer", "copy"])
@pytest.mark.parametrize("kind", ["band", "random", "indices"])
@pytest.mark.parametrize("slabs", [False, True])
def test_looked_up_rows_and_a_tied_head_move_the_same_set(
    kind: str, mode: str, dtype: torch.dtype, slabs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Llama whose head is its embedding: rows that are looked up, the head's product, and the weight read whole."""
    if slabs:
        monkeypatch.setattr(shift, "SLAB", {"cpu": 100, "cuda": 100})
    model, name = build("llama", dtype), "model.embed_tokens.weight"
    theta, ids = Point(model, mode=mode), torch.tensor([[5, 3, 5, 99, 0]])
    table = theta[name].detach().clone()
    count = int(table.numel())
    part = {"band": Band(0.0, 0.02), "random": Chance(4, 900), "indices": Indices(torch.arange(0, count, 3))}[kind]
    support = Support({name: part})
    expected = moved_by(support, theta)[name]
    for scale in (EPS, -EPS):
        with theta.shifted(Direction(6, support=support), scale):
            whole, rows = read(model, name), model.get_input_embeddings()(ids)
            head = model.get_output_embeddings()(torch.eye(32, dtype=dtype))
        assert torch.equal(whole != table, expected)
        assert torch.equal(rows, whole[ids])
        assert torch.equal(head.T, whole)
    assert torch.equal(theta[name], table)


def test_at_an_anchor_the_band_is_that_of_theta() -> None:
    """ZO-SVRG shifts the anchor's values on the weights that move at theta, or both estimates would differ in z."""
    tree = random_tree(**SHAPES)
    theta, f = Point(tree), Watch(tree)
    mask = Fixed(Support({"q": Band(0.0, 0.05), "k": Chance(3, 2000)}))
    estimate = svrg.Estimator(svrg.Config(eps=EPS, anchor_batches=1), 0, mask)
    estimate(f, theta, 0, 5)
    anchor = snapshot(theta)
    with torch.no_grad():
        theta["q"].mul_(-0.5)
    f.seen.clear()
    estimate(f, theta, 1, 6)
    expected = moved_by(mask.support, theta)
    assert not same(expected, moved_by(mask.support, anchor))
    start = snapshot(theta)
    for seen, base in zip(f.seen, (start, start, anchor, anchor)):
        assert same(changed(seen, base), expected)


# ------------------------------------------------------------------------------------------------------ it only shrinks


RULES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "sign": {},
    "adam": {"state": "8bit"},
    "momentum": {"state": "bfloat16"},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_with_fixed_thresholds_the_active_set_only_shrinks(name: str, dtype: torch.dtype) -> None:
    """And a weight that has left keeps its bits for good, as one that never moved does."""
    for rounding in ("stochastic", "split") if dtype == torch.bfloat16 else ("stochastic",):
        module, tree = registry.load("rules", name), random_tree(dtype, **SHAPES)
        theta, mask = Point(tree), magnitude.Mask(magnitude.Config(density=0.4), 0)
        rule = module.Rule(module.Config(rounding=rounding, **RULES[name]), 1)
        estimate = one_sided.Estimator(one_sided.Config(eps=EPS, q=2, law="gaussian"), 0, mask)
        active = moved_by(mask.at(theta, 0), theta)
        counts = [sum(int(w.sum()) for w in active.values())]
        for step in range(6):
            before = snapshot(theta)
            g = estimate(Watch(tree), theta, step, derive(0, "z", step))
            size = sum(c * c for c, _ in g.terms) ** 0.5
            rule.update_(theta, g, 0.01 if name in ("sign", "adam") else 0.01 / size, step)
            now = moved_by(mask.at(theta, step + 1), theta)
            for key, moved in changed(snapshot(theta), before).items():
                assert not bool((moved & ~active[key]).any())
                assert not bool((now[key] & ~active[key]).any())
            active, counts = now, [*counts, sum(int(w.sum()) for w in now.values())]
        assert counts == sorted(counts, reverse=True)
        assert 0 < counts[-1] < counts[0] - 5


# --------------------------------------------------------------------------------------------------------------- replay


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("refresh", [None, 2])
@pytest.mark.parametrize("rule_name", ["sgd", "adam"])
def test_a_journal_of_bands_replays_though_they_depend_on_theta(
    rule_name: str, refresh: int | None, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thresholds come from the file; no replay computes one. With others, or without a refresh, theta is another."""
    module = {"sgd": sgd, "adam": adam}[rule_name]
    tree = random_tree(dtype, **SHAPES)
    theta, mask = Point(tree), magnitude.Mask(magnitude.Config(refresh=refresh, scope="all"), 0)
    journal = Journal.create(tmp_path / "journal.bin", {})
    mask.listen = lambda step, support: journal.append(Record(step, (), 0.0, 3, support.pack()))  # pyright: ignore
    estimate = spsa.Estimator(spsa.Config(eps=EPS, q=2), 0, mask)
    rule = Journalled(module.Rule(module.Config(), 1), journal)
    for step in range(5):
        g = estimate(Watch(tree), theta, step, derive(0, "z", step))
        rule.update_(theta, g, 0.01 / abs(g.terms[0][0]) if rule_name == "sgd" else 0.01, step)
    outcomes = [int(record.outcome) for record in Journal.open(tmp_path / "journal.bin").records()]
    assert outcomes == ([3, 1, 1, 1, 1, 1] if refresh is None else [3, 1, 1, 3, 1, 1, 3, 1])

    def again(skip: int = -1) -> dict[str, str]:
        fresh = Point(random_tree(dtype, **SHAPES))
        other = magnitude.Mask(magnitude.Config(refresh=refresh, scope="all"), 0)
        records = [r for i, r in enumerate(journal.records()) if i != skip]
        replay(fresh, spsa.Estimator(spsa.Config(eps=EPS, q=2), 0, other), module.Rule(module.Config(), 1), records)
        return fresh.sha256()

    with monkeypatch.context() as patch:
        patch.setattr(magnitude.Mask, "make", None)
        assert again() == theta.sha256()
    monkeypatch.setattr(magnitude.Mask, "make", lambda *_: Support({"q": Band(0.0, 0.01)}))
    assert again(skip=0) != theta.sha256()


def test_a_random_mask_is_made_again_in_a_replay_from_the_runs_seed() -> None:
    equal = []
    for seed in (4, 4, 5):
        tree = random_tree(**SHAPES)
        theta, records = Point(tree), []
        estimate = spsa.Estimator(spsa.Config(eps=EPS), 0, random.Mask(random.Config(refresh=2), 4))
        for step in range(4):
            g = estimate(Watch(tree), theta, step, derive(0, "z", step))
            sgd.Rule(sgd.Config(), 1).update_(theta, g, 1e-4, step)
            records.append(Record(step, tuple((z.seed, c) for c, z in g.terms), 1e-4))
        other = spsa.Estimator(spsa.Config(eps=EPS), 0, random.Mask(random.Config(refresh=2), seed))
        replay(fresh := Point(random_tree(**SHAPES)), other, sgd.Rule(sgd.Config(), 1), records)
        equal.append(fresh.sha256() == theta.sha256())
    assert equal == [True, True, False]

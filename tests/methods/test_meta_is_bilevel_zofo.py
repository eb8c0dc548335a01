"""Meta-training with one task, or with one shared pair, is Bilevel ZOFO bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.six_tasks import meta_session, session_of, watch_batches
from tests.tensors_by_name import same, values
from zofo.data.batch import collate

PLAIN = {"inner_steps": 2, "lr_s": 1e-2, "lr_theta": 1e-5}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "lam0": {"method": {"lam": 0.0}},
    "tied": {"method": {"lr_p": "lr_theta"}},
    "adam": {"rule": {"name": "adam"}},
    "lozo": {"estimator": {"name": "lozo"}},
    "svrg": {"estimator": {"name": "svrg", "refresh": 2, "anchor_batches": 2}},
    "mask": {"mask": {"name": "random"}},
    "sensitivity": {"mask": {"name": "sensitivity"}},
    "blocks": {"mask": {"name": "blocks"}},
    "checkpointing": {"train": {"gradient_checkpointing": True, "micro_batch_size": 2}},
    "options": {"task": {"objective": "options"}, "train": {"micro_batch_size": 3}},
}


USUAL = ("plain", "adam", "svrg", "sensitivity", "options")  # the others with `make test-slow`


@pytest.mark.parametrize("case", [c if c in USUAL else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_one_task_is_bilevel_zofo(case: str, tiny_model_dir: Path, one_task: Path) -> None:
    """With one training task a pair for each task is one pair: theta, p and s are Bilevel ZOFO's bit for bit."""
    ends = []
    for method in ({"name": "meta-bilevel-zofo", "tasks_per_step": 5}, {"name": "bilevel-zofo"}):
        more = dict(CASES[case])
        settings = {**PLAIN, **more.pop("method", {}), **method}
        more["train"] = {"batch_size": 4, **more.get("train", {})}
        s = session_of(tiny_model_dir, one_task, settings, **more)
        metrics = [s.method.step(k) for k in range(4)]
        adapters = s.problem.adapters
        assert adapters is not None
        mine = {f"{n} {key.rpartition(': ')[2]}": t for n in "ps" for key, t in adapters.parameters(n).items()}
        ends.append((metrics, values(s.problem.theta), values(mine), s.problem.loss.meter.state_dict()))
    (m, theta, pair, meter), (other, theta_b, pair_b, meter_b) = ends
    assert [x["c"] for x in m] == [x["c"] for x in other]
    assert same(theta, theta_b)
    assert same(pair, pair_b)
    assert m == other
    assert meter == meter_b


def test_redraw_gives_each_task_its_own_s(tiny_model_dir: Path, six_tasks: Path) -> None:
    s = meta_session(tiny_model_dir, six_tasks)
    adapters = s.problem.adapters
    assert adapters is not None
    adapters.redraw("s", s.problem.key("adapter/s", 0))
    p, s_ = values(adapters.parameters("p")), values(adapters.parameters("s"))
    drawn = [k for k in p if "lora_A" in k]
    assert all(not torch.equal(p[k], s_[k]) for k in drawn)
    firsts = [s_[next(k for k in drawn if k.startswith(f"{t}: "))] for t in s.problem.tasks]
    assert all(not torch.equal(firsts[0], other) for other in firsts[1:])
    s.method.step(0)


@pytest.mark.parametrize("case", ["plain", "adam", "svrg", "tied"])
def test_one_shared_pair_is_bilevel_zofo_on_the_same_batches(case: str, tiny_model_dir: Path, six_tasks: Path) -> None:
    more = dict(CASES[case])
    settings = {**PLAIN, **more.pop("method", {})}
    ours = meta_session(tiny_model_dir, six_tasks, {**settings, "adapters": "shared"}, **more)
    seen = watch_batches(ours)
    metrics = [ours.method.step(k) for k in range(4)]
    theirs = session_of(tiny_model_dir, six_tasks, {"name": "bilevel-zofo", **settings}, **more)
    for name, target in (("f", "data_f"), ("p", "data_p")):
        setattr(theirs.method, target, iter([collate(batch, ours.loaded.pad_id) for batch in seen[name]]))
    assert [theirs.method.step(k) for k in range(4)] == metrics
    assert same(values(ours.problem.theta), values(theirs.problem.theta))
    a, b = ours.problem.adapters, theirs.problem.adapters
    assert a is not None
    assert b is not None
    assert all(same(values(a.parameters(n)), values(b.parameters(n))) for n in "ps")
    groups = [{e.example.group for e in batch} for batch in seen["p"]]
    assert any(len(g) > 1 for g in groups)

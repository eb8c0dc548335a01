"""The levels of meta-training: how each task is split, and which tasks a step samples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.six_tasks import (
    HELD_OUT,
    LABELS,
    META,
    SIZES,
    TARGETS,
    TRAINED,
    make_tasks,
    meta_session,
    sampled,
    session_of,
    watch_batches,
)
from tests.tensors_by_name import values
from zofo.errors import InputError


def test_each_task_is_split_by_itself(tiny_model_dir: Path, six_tasks: Path) -> None:
    """1/3 of each task's rows are the upper level's; held-out tasks are dev, targets test."""
    s = meta_session(tiny_model_dir, six_tasks)
    f, p = (Counter(e.example.group for e in s.encoded[name]) for name in ("f", "p"))
    for task in TRAINED:
        assert f[task] == round(SIZES[task] / 3)
        assert f[task] + p[task] == SIZES[task]
    assert set(f) == set(p) == set(TRAINED) == set(s.problem.tasks)
    ids = [e.example.id for name in ("f", "p") for e in s.encoded[name]]
    assert len(set(ids)) == len(ids) == sum(SIZES[t] for t in TRAINED)
    assert {e.example.group for e in s.encoded["dev"]} == {HELD_OUT}
    assert Counter(e.example.group for e in s.encoded["test"]) == dict.fromkeys(TARGETS, 5)


def test_a_stratified_split_of_each_task(tiny_model_dir: Path, six_tasks: Path) -> None:
    s = session_of(tiny_model_dir, six_tasks, {"name": "bilevel-ablations", "inner_steps": 2, "stratified": True})
    for task in TRAINED:
        f, p = (
            Counter(e.example.answers[e.example.gold[0]] for e in s.encoded[n] if e.example.group == task)
            for n in ("f", "p")
        )
        for label in LABELS[task]:
            share = f["\n" + label] / (f["\n" + label] + p["\n" + label])
            assert share == pytest.approx(1 / 3, abs=0.17)
        assert sum(f.values()) == round(SIZES[task] / 3)


def test_the_split_of_768(tiny_model_dir: Path, tmp_path: Path) -> None:
    """256 upper and 512 lower of a task with more rows than that."""
    path = make_tasks(tmp_path, ("yes_no",), sizes={"yes_no": 800})
    s = meta_session(tiny_model_dir, path)
    assert (len(s.encoded["f"]), len(s.encoded["p"])) == (256, 512)


def test_sampled_tasks(tiny_model_dir: Path, six_tasks: Path) -> None:
    """Distinct, keyed by the seed and k, and all come up; T + 1 batches of D_p and one of D_f hold no others."""
    s = meta_session(tiny_model_dir, six_tasks, {"tasks_per_step": 3})
    again = meta_session(tiny_model_dir, six_tasks, {"tasks_per_step": 3})
    seen, counts = watch_batches(s), Counter[str]()
    for k in range(12):
        chosen = sampled(s, k)
        assert len(set(chosen)) == len(chosen) == 3
        assert set(chosen) <= set(s.problem.tasks)
        assert sampled(again, k) == chosen
        counts.update(chosen)
        for batches in seen.values():
            batches.clear()
        s.method.step(k)
        assert (len(seen["f"]), len(seen["p"])) == (1, 3)
        groups = Counter(e.example.group for batch in seen["p"] for e in batch)
        assert set(groups) == set(chosen)  # 12 turns of 3 tasks
        assert set(groups.values()) == {4}
        assert {e.example.group for e in seen["f"][0]} == set(chosen)
        levels = {name: {e.example.id for e in s.encoded[name]} for name in ("f", "p")}
        assert all(e.example.id in levels[n] for n in ("f", "p") for batch in seen[n] for e in batch)
    assert set(counts) == set(s.problem.tasks)
    many = Counter(t for k in range(400) for t in sampled(s, k))
    assert max(many.values()) < 1.25 * min(many.values())
    other = meta_session(tiny_model_dir, six_tasks, {"tasks_per_step": 3}, train={"seed": 1})
    assert any(sampled(other, k) != sampled(s, k) for k in range(5))


def test_five_by_default_and_all_where_there_are_fewer(tiny_model_dir: Path, six_tasks: Path, one_task: Path) -> None:
    method = {k: v for k, v in META.items() if k != "tasks_per_step"}
    s = session_of(tiny_model_dir, six_tasks, method)
    assert s.config.method.tasks_per_step == 5
    assert sorted(sampled(s, 0)) == sorted(s.problem.tasks)
    assert s.config.train.batch_size == 4
    assert s.config.task.train_examples == 768
    few = meta_session(tiny_model_dir, one_task, {"tasks_per_step": 9})
    assert sampled(few, 3) == ["v1.0-mail"]
    few.method.step(0)


def test_members_of_tasks_that_were_not_sampled_rest(tiny_model_dir: Path, six_tasks: Path) -> None:
    s = meta_session(tiny_model_dir, six_tasks, {"tasks_per_step": 2, "lr_s": 1e-2})
    adapters = s.problem.adapters
    assert adapters is not None
    times: Counter[str] = Counter()
    for k in range(5):
        before = {n: values(adapters.parameters(n)) for n in "ps"}
        chosen = set(sampled(s, k))
        s.method.step(k)
        times.update(chosen)
        for n in "ps":
            for key, value in adapters.parameters(n).items():
                task = key.partition(": ")[0]
                if task not in chosen:
                    assert torch.equal(value, before[n][key])
    steps = {key.partition(": ")[0]: int(v["step"]) for key, v in s.method.state_dict()["s"].items()}
    assert set(steps) == set(times)
    assert all(steps[t] == 2 * times[t] for t in times)  # T = 2 lower steps, all with both tasks in the batch


def test_a_task_too_small_to_split_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = make_tasks(tmp_path, ("trec", "yes_no"), sizes={"yes_no": 1})
    with pytest.raises(InputError) as caught:
        meta_session(tiny_model_dir, path)
    assert "yes_no" in str(caught.value)


def test_two_tasks_whose_names_differ_in_a_dot(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = make_tasks(tmp_path, ("notes.a", "yes_no"))
    meta_session(tiny_model_dir, path).method.step(0)

"""The presets meta and metaicl: what they set, and that they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.setting_files import as_task
from zofo import finetune
from zofo.api.configure import resolve


def resolved(preset: str, model: Path, setting: Path, *changes: str) -> Any:
    task = {"name": str(setting), "data": as_task(setting)["data"]}
    return resolve(None, changes, preset, model=str(model), train={"output_dir": "unused"}, task=task)


def test_preset_meta(tiny_model_dir: Path, six_tasks: Path) -> None:
    c = resolved("meta", tiny_model_dir, six_tasks)
    m = c.method
    assert (c.names["method"], m.tasks_per_step, m.inner_steps, m.adapters) == ("meta-bilevel-zofo", 5, 10, "per-task")
    assert (m.lr_s, m.lr_theta, m.lr_p, m.optimizer) == (1e-6, 1e-6, "lr_theta", "adamw")
    assert m.upper_share == pytest.approx(1 / 3)
    assert (c.names["adapter"], c.names["estimator"], c.names["rule"]) == ("lora", "spsa", "adam")
    assert (c.estimator.eps, c.estimator.law) == (1e-3, "gaussian")
    assert (c.train.max_steps, c.train.batch_size, c.task.train_examples) == (50000, 4, 768)
    shared = resolved("meta", tiny_model_dir, six_tasks, "method.adapters=shared")
    assert shared.method.adapters == "shared"


def test_preset_metaicl(tiny_model_dir: Path, six_tasks: Path) -> None:
    c = resolved("metaicl", tiny_model_dir, six_tasks)
    assert (c.names["method"], c.method.lr, c.task.num_fewshot) == ("metaicl", 1e-5, 4)
    assert (c.train.max_steps, c.train.batch_size, c.task.train_examples) == (30000, 8, 768)


def test_presets_run(tiny_model_dir: Path, six_tasks: Path, tmp_path: Path) -> None:
    """One iteration of `meta`, two steps of `metaicl`, at the presets' own rates."""
    model: Any = (str(tiny_model_dir), str(six_tasks), None)
    task = [f"task.data={six_tasks.parent / 'data'}", "task.test_examples=4"]
    run: Any = finetune(*model, preset="meta", output_dir=tmp_path / "a", max_steps=11, overrides=task)
    assert run.info["steps"] == {"lower": 10, "upper": 1}
    task.append("task.num_fewshot=2")
    run = finetune(*model, preset="metaicl", output_dir=tmp_path / "b", max_steps=2, overrides=task)
    assert run.info["steps"] == {"lower": 0, "upper": 2}

"""Plans of comparisons: short forms, equal forwards, and the estimate of a full plan's cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from experiments.compare import Plan, cost

from tests.conftest import ROOT
from zofo.config.resolve import from_dict

EXPERIMENTS = ROOT / "experiments"
PLAN = {
    "seeds": [0, 1, 2],
    "shared": {"train.max_steps": 1000, "train.batch_size": 16, "train.eval_steps": 100, "train.save_steps": 100},
    "smoke": {"seeds": [0], "trials": [1], "shared": {"train.max_steps": 40, "train.batch_size": 8}},
    "rows": {
        "mezo": {"method.name": "mezo", "trials": [{"method.lr": 1e-6}, {"method.lr": 1e-5}]},
        "q = 4": {"method.name": "mezo", "estimator.q": 4, "forwards": 8, "trials": [{"method.lr": 1.0}, {}]},
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    return tmp_path / "plan.yaml"


def test_a_row_with_more_forwards_a_step_has_fewer_steps(path: Path) -> None:
    cells = {cell.name: cell.settings for cell in Plan(path).trials()}
    assert list(cells) == ["mezo-0-seed0", "mezo-1-seed0", "q = 4-0-seed0", "q = 4-1-seed0"]
    assert cells["mezo-0-seed0"]["train.max_steps"] == 1000
    assert cells["q = 4-0-seed0"]["train.max_steps"] == 250
    assert cells["q = 4-0-seed0"]["train.eval_steps"] == 25
    assert "forwards" not in cells["q = 4-0-seed0"]


def test_the_short_form_is_kept_apart(path: Path) -> None:
    plan = Plan(path, smoke=True)
    cells = {cell.name: cell.settings for cell in plan.trials()}
    assert list(cells) == ["mezo-0-seed0", "q = 4-0-seed0"]
    assert cells["mezo-0-seed0"]["method.lr"] == 1e-5
    assert (cells["mezo-0-seed0"]["train.max_steps"], cells["q = 4-0-seed0"]["train.max_steps"]) == (40, 10)
    assert plan.results.name == "plan_smoke"
    assert Plan(path).results.name == "plan"


@pytest.mark.parametrize(("losses", "chosen"), [((None, 0.7), 1), ((0.7, None), 0), ((0.7, 0.6), 1), ((None, None), 0)])
def test_a_trial_whose_dev_loss_is_not_finite_is_not_chosen(
    losses: tuple[float | None, ...], chosen: int, path: Path, tmp_path: Path
) -> None:
    """A file has null for it."""
    plan = Plan(path)
    plan.results = tmp_path
    for loss, cell in zip(losses, plan.trials(["mezo"])):
        plan.file(cell).write_text(json.dumps({"dev": {"theta": {"loss": loss}}, "deployed": "theta"}))
    assert plan.chosen("mezo") == chosen


def test_the_cost_of_the_full_plan(path: Path, tmp_path: Path) -> None:
    plan = Plan(path, smoke=True)
    plan.results = tmp_path
    for cell in plan.trials():
        plan.file(cell).write_text(json.dumps({"seconds": 36.0}))
    # 25 x the steps of 2 x the examples; two trials and two further seeds of each row: 36 s x 50 x 4 / 3600
    assert cost(plan) == "in all 4 hours"


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", ["sparse_bands", "sparse_sparsity", "zo_family"])
def test_every_run_of_the_plans_is_a_configuration(name: str, smoke: bool, tmp_path: Path) -> None:
    for cell in Plan(EXPERIMENTS / f"{name}.yaml", smoke).trials():
        nested: dict = {"model": {"name": "model"}}
        for key, value in cell.settings.items():
            section, _, field = key.partition(".")
            nested.setdefault(section, {})[field] = value
        nested["train"]["output_dir"] = str(tmp_path)
        assert from_dict(nested).names["method"] in ("mezo", "sparse-mezo", "fo-ft")

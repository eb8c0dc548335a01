"""The table of kept results: which trial of a row is chosen by their dev losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from experiments.compare import Kept, table

PLAN = {
    "seeds": [0, 1, 2],
    "task": "sst2",
    "reduced": {"seeds": [0], "trials": [1]},
    "rows": {"mezo": {"method.name": "mezo", "trials": [{"method.lr": 1e-6}, {"method.lr": 1e-5}]}},
}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    found = Kept(tmp_path / "plan.yaml")
    found.results = tmp_path
    return found


@pytest.mark.parametrize(("losses", "chosen"), [((None, 0.7), 1), ((0.7, None), 0), ((0.7, 0.6), 1), ((None, None), 0)])
def test_a_trial_whose_dev_loss_is_not_finite_is_not_chosen(
    losses: tuple[float | None, ...], chosen: int, kept: Kept
) -> None:
    """A file has null for it."""
    for number, loss in enumerate(losses):
        content = {"dev": {"theta": {"loss": loss}}, "deployed": "theta"}
        (kept.results / f"mezo-{number}-seed0.json").write_text(json.dumps(content))
    assert kept.chosen(kept.plan.row("mezo")) == chosen
    assert "| mezo | not finished |" in table(kept), "two seeds are missing"


def test_the_short_forms_results_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    assert Kept(tmp_path / "plan.yaml").results.name == "plan"
    assert Kept(tmp_path / "plan.yaml", reduced=True).results.name == "plan_smoke"

"""Rates are chosen on tasks that the run did not train on, whatever came or went since."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import zofo
from tests.small_setting import best_s, make_setting, train
from zofo.errors import InputError

TWO_RATES: dict[str, Any] = {"ways": ["tuned"], "seeds": (100,), "rates": (1e-3, 1e-2), "steps": 1, "test_examples": 4}
RunThatDrew = tuple[Path, Path, set[str]]  # run, setting, the tasks that were trained on


@pytest.fixture(scope="module")
def run_that_drew(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> RunThatDrew:
    """A bank run on a setting whose held-out task is drawn."""
    setting = make_setting(tmp_path_factory.mktemp("drawn"), held_out=None)
    run = train(tiny_model_dir, setting, setting.parent / "run", "bank", "--seed", "3")
    return run, setting, {path.name for path in best_s(run).iterdir()}


def test_the_held_out_tasks_are_those_that_the_run_did_not_train_on(run_that_drew: RunThatDrew) -> None:
    run, _, trained = run_that_drew
    result = zofo.meta_test(run, **TWO_RATES)
    assert len(result["held_out"]) == 1
    assert not set(result["held_out"]) & trained
    assert trained | set(result["held_out"]) == {"mood", "sort", "saga", "pick"}
    assert result["seed"] == 3


def test_more_held_out_tasks_than_the_run_had_are_refused(run_that_drew: RunThatDrew) -> None:
    run, _, trained = run_that_drew
    try:
        result = zofo.meta_test(run, **TWO_RATES, overrides=["task.held_out=2"])
    except InputError:
        return
    assert not set(result["held_out"]) & trained


def test_tasks_that_came_later_do_not_change_what_was_held_out(run_that_drew: RunThatDrew, tmp_path: Path) -> None:
    """The data directory has lost a training task since (here: each in turn, all but the held-out one)."""
    run, setting, trained = run_that_drew
    for lost in sorted(trained):
        data = tmp_path / lost
        shutil.copytree(setting.parent / "data", data, ignore=shutil.ignore_patterns(lost))
        try:
            result = zofo.meta_test(run, data=str(data), **TWO_RATES)
        except InputError:
            continue
        assert not set(result["held_out"]) & trained, lost


def test_a_run_in_another_setting_keeps_what_it_held_out(run_of: Any, small_setting: Path, tmp_path: Path) -> None:
    """Rates are chosen on the run's held-out tasks, not on the other setting's, which it may not have seen."""
    other, data = tmp_path / "other.yaml", str(small_setting.parent / "data")
    other.write_text(yaml.safe_dump({"train": ["film", "kind"], "target": ["quiz"]}))
    result = zofo.meta_test(run_of("bank"), task=str(other), data=data, output=tmp_path / "out", **TWO_RATES)
    assert list(result["ways"]["tuned"]["tasks"]) == ["quiz"]
    trained = {"mood", "saga", "pick"}
    assert not set(result["held_out"]) & trained
    parts = tmp_path / "out" / "parts"
    chosen_on = {path.parent.parent.name for path in parts.glob("tuned/rates/*/*/*.json")}
    chosen_on |= {path.parent.name for path in parts.glob("tuned/rates/*/*-100.json")}
    assert not chosen_on & (trained | {"quiz"})


def test_a_target_that_the_run_was_trained_on_is_refused(run_of: Any, small_setting: Path, tmp_path: Path) -> None:
    """Overlap between training and target tasks is an error."""
    other, data = tmp_path / "other.yaml", str(small_setting.parent / "data")
    other.write_text(yaml.safe_dump({"train": ["film"], "target": ["mood", "quiz"]}))
    with pytest.raises(InputError, match="mood"):
        zofo.meta_test(run_of("bank"), task=str(other), data=data, ways=["zero-shot"], test_examples=4)

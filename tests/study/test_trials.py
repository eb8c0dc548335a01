"""optuna's record of a study: a line that was torn, a lock that was left, a file that is no journal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import read_rows
from zofo.errors import InputError
from zofo.study import trials
from zofo.study.plan import Plan, Row, Space
from zofo.study.trials import Trials

GRID = Row("mezo", {}, 2, ({"method.lr": 0.1}, {"method.lr": 0.2}), {"method.lr": Space((0.1, 0.2))})
LISTS = Row("bands", {}, 2, ({"mask.between": [0, 0.5]}, {"mask.between": [0.5, 1]}))
TPE = Row("tpe", {}, 6, (), {"method.lr": Space((), 1e-6, 1e-2, True), "train.batch_size": Space((), 1, 8)})
PLAN = Plan("plan", (GRID, LISTS, TPE), {}, Path(), "")


def opened(folder: Path) -> Trials:
    found = Trials(folder, PLAN)
    for row in PLAN.rows:
        found.prepare(row)
    return found


def test_all_trials_are_there_once_however_often_it_is_opened(tmp_path: Path) -> None:
    for _ in range(2):
        found = opened(tmp_path)
        assert [len(found.states(row)) for row in PLAN.rows] == [2, 2, 6]
    assert [found.begin(GRID, n)[1] for n in (1, 0)] == [{"method.lr": 0.2}, {"method.lr": 0.1}]
    assert found.begin(LISTS, 1)[1] == {"mask.between": [0.5, 1]}, "values that optuna has no type for"
    assert found.states(GRID) == ["running", "running"]


def test_a_trial_that_was_begun_has_what_it_had(tmp_path: Path) -> None:
    point = opened(tmp_path).begin(TPE, 3)[1]
    assert 1e-6 <= point["method.lr"] <= 1e-2
    assert point["train.batch_size"] in range(1, 9)
    again = opened(tmp_path)
    assert (again.begin(TPE, 3)[1], again.point(TPE, 3)) == (point, point)
    again.tell(TPE, 3, "complete", 0.5)
    again.tell(TPE, 3, "fail")
    assert again.states(TPE)[3] == "complete", "what is told stays"
    assert again.begin(TPE, 3) == (None, point)
    with pytest.raises(InputError, match="does not know"):
        again.point(TPE, 2)


def test_a_value_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    found = opened(tmp_path)
    found.tell(GRID, 0, "complete", float("nan"))
    found.tell(GRID, 1, "pruned")
    assert found.states(GRID) == ["fail", "pruned"]


@pytest.mark.filterwarnings("ignore:The value of `grace_period`")  # shorter than optuna advises
def test_a_torn_line_goes_and_a_dead_workers_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).tell(GRID, 0, "complete", 0.5)
    path = tmp_path / trials.NAME
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":6,"worker')
    os.symlink(str(path), f"{path}.lock")  # as optuna makes it
    monkeypatch.setattr(trials, "GRACE", 1)
    assert opened(tmp_path).states(GRID) == ["complete", "waiting"]
    assert path.read_bytes().startswith(whole)
    assert len(read_rows(path)) >= whole.count(b"\n")


def test_a_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / trials.NAME).write_text("no journal\n{}\n")
    with pytest.raises(InputError, match=r"trials.log: damaged .*; move it away"):
        opened(tmp_path)

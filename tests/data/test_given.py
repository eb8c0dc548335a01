"""How many rows were given, how many are used, and which setting takes no more: said by train and eval."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import sentiment_rows, write_rows
from tests.loading import task
from tests.small_setting import make_setting
from zofo.cli import main as cli
from zofo.data import load_task
from zofo.data.preview import sizes


def lines(path: Path, **changes: object) -> list[str]:
    cfg = task(path, **changes)
    return list(sizes(load_task(cfg, 0), cfg))


def test_5000_rows_of_which_2500_are_used(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", sentiment_rows(5000))
    assert lines(path) == [
        "examples: train 1000, dev 500, test 1000",
        "rows of train: 5000 given, 2500 used for train, dev, test; task.train_examples=1000, task.dev_examples=500, "
        "task.test_examples=1000 takes no more",
    ]
    assert lines(path, train_examples=3500) == ["examples: train 3500, dev 500, test 1000"]


def test_files_of_their_own(tmp_path: Path) -> None:
    for name, n in (("train", 30), ("validation", 12), ("test", 40)):
        write_rows(tmp_path / f"{name}.jsonl", sentiment_rows(n))
    assert lines(tmp_path, dev_examples=12, test_examples=25) == [
        "examples: train 30 of 1000 asked for, dev 12, test 25",
        "rows of test: 40 given, 25 used; task.test_examples=25 takes no more",
    ]
    assert lines(tmp_path)[1:] == []


def test_a_setting(tmp_path: Path) -> None:
    setting = make_setting(tmp_path)
    data = str(setting.parent / "data")
    said = lines(setting, data=data, train_examples=20, dev_examples=6, test_examples=1000)
    assert "rows of train: 110 given, 60 used; task.train_examples=20 takes no more of each task" in said
    assert "rows of dev: 48 given, 6 used; task.dev_examples=6 takes no more of each task" in said
    assert len(said) == 3


def test_train_and_eval_say_it(tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(tmp_path / "rows.jsonl", sentiment_rows(60))
    common = ["--task", str(path), "task.test_examples=20"]
    assert cli.run(["eval", str(tiny_model_dir), *common]) == 0
    assert "rows of test: 60 given, 20 used; task.test_examples=20 takes no more" in capsys.readouterr().err
    args = ["train", "--model", str(tiny_model_dir), *common, "--method", "zero-shot", "--output-dir", str(tmp_path)]
    assert cli.run([*args, "task.train_examples=10", "task.dev_examples=5"]) == 0
    assert "rows of train: 60 given, 35 used for train, dev, test; " in capsys.readouterr().err

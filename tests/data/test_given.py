"""How many rows were given, how many are used, and which setting takes no more: said by train and eval."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import sentiment_rows, write_rows
from tests.loading import task
from tests.small_setting import make_setting
from zofo.cli import main as cli
from zofo.data import load_task
from zofo.data.preview import few, sizes


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
    assert lines(tmp_path, dev_examples=12, test_examples=35)[:-1] == [
        "examples: train 30 of 1000 asked for, dev 12, test 35",
        "rows of test: 40 given, 35 used; task.test_examples=35 takes no more",
    ]
    assert all(line.startswith("warning: dev: ") for line in lines(tmp_path)[1:])


SELECTED = "the checkpoint is selected by 6 examples, and another few would select another one"


def test_few_examples_to_measure_on(tmp_path: Path) -> None:
    """A line for what is cut, and one for each other split, with what to do where it is: a setting, more rows, a file.
    30 are enough."""
    path = write_rows(tmp_path / "rows.jsonl", sentiment_rows(60))
    assert lines(path)[1:] == [
        f"warning: dev: {SELECTED}; test: a number from 6 examples moves by 0.17 when one answer changes; give "
        "more rows, validation and test files of their own, or a smaller task.train_examples",
    ]
    moves = "a number from 9 examples moves by 0.11 when one answer changes"
    enough = {"train_examples": 10, "dev_examples": 30}
    assert lines(path, **enough, test_examples=9)[2:] == [f"warning: test: {moves}; task.test_examples=9: raise it"]
    for name, n in (("train", 60), ("validation", 30), ("test", 1)):
        write_rows(tmp_path / "own" / f"{name}.jsonl", sentiment_rows(n))
    one = "a number from 1 example moves by 1 when one answer changes; give more rows in the test file"
    for asked in (1, 1000):  # all are taken, so that no setting gives more
        assert lines(tmp_path / "own", test_examples=asked)[1:] == [f"warning: test: {one}"]
    write_rows(tmp_path / "own" / "test.jsonl", sentiment_rows(30))
    assert lines(tmp_path / "own")[1:] == []
    texts = [{"prompt": f"{i} and one", "completion": f" {i + 1}"} for i in range(60)]
    (_, said) = lines(write_rows(tmp_path / "texts.jsonl", texts))
    more = "more rows, validation and test files of their own, or a smaller task.train_examples"
    assert said == f"warning: dev: {SELECTED}; test: a mean over 6 examples is rough; give {more}"


def test_few_of_what_is_not_selected(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", sentiment_rows(60))
    cfg = task(path, test_examples=30, train_examples=20, dev_examples=5)
    data = load_task(cfg, 0)
    assert [line for line in sizes(data, cfg, selects=False) if "warning" in line] == []
    (line,) = few(data, cfg, ("dev",))
    assert line.startswith("warning: dev: a number from ")
    (line,) = few(load_task(task(path), 0), task(path), ("test",))
    assert line.endswith("; give more rows, a test file of its own, or a smaller task.train_examples")
    (line,) = few(load_task(task(path), 0), task(path), ("test",), trains=False)
    assert line.endswith(" when one answer changes; score more rows with --task FILE"), "of a run that is measured"


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
    err = capsys.readouterr().err
    assert "rows of test: 60 given, 20 used; task.test_examples=20 takes no more" in err
    few_rows = "warning: test: a number from 20 examples moves by 0.05 when one answer changes; task.test_examples=20"
    assert err.count(few_rows) == 1
    assert cli.run(["eval", str(tiny_model_dir), *common, "--limit", "4"]) == 0
    assert "warning" not in capsys.readouterr().err, "so few are asked for"
    args = ["train", "--model", str(tiny_model_dir), *common, "--method", "zero-shot", "--output-dir", str(tmp_path)]
    assert cli.run([*args, "task.train_examples=10", "task.dev_examples=5"]) == 0
    err = capsys.readouterr().err
    assert "rows of train: 60 given, 35 used for train, dev, test; " in err
    assert (err.count(few_rows), err.count("warning: dev")) == (1, 0), "zero-shot selects nothing"
    args[args.index("zero-shot")], args[-1] = "mezo", str(tmp_path / "dry")
    assert cli.run([*args, "task.train_examples=10", "task.dev_examples=5", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert [text.count("warning: dev: the checkpoint is selected by 5") for text in printed] == [1, 0]


ODD = [{"text": f"film {i} was ", "label": "ab"[i % 2] * 3} for i in range(60)]
ODD[7]["label"], ODD[9]["text"] = "aab", ""


def test_no_verb_says_a_thing_twice(tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows with a slip of a label, blanks, one that cannot be used, and few of them, however often they are read."""
    model, path, out = str(tiny_model_dir), str(write_rows(tmp_path / "rows.jsonl", ODD)), str(tmp_path / "out")
    rows = ["--model", model, "--task", path, "task.on_bad_row=skip"]
    steps = ["train.batch_size=4", "--output-dir", out]
    commands = {
        "memory": ["memory", *rows, "--method", "mezo", "--method", "fo-ft"],  # each method reads the rows
        "validate": ["validate", *rows, "--method", "mezo", *steps],
        "a dry run": ["train", *rows, "--method", "mezo", *steps, "--max-steps", "4", "--dry-run"],
        "train": ["train", *rows, "--method", "mezo", *steps, "--max-steps", "4"],
        "a resume": ["train", "--resume", "latest", "--output-dir", out, "--max-steps", "6"],
        "eval": ["eval", out],
        "other prompts": ["eval", out, "--num-fewshot", "1"],
        "the rows by name": ["eval", out, "--data", path],
        "as other rows": ["eval", out, "--task", path, "task.on_bad_row=skip"],
        "a check": ["validate", out],
        "a plain model": ["eval", model, *rows[2:]],
    }
    words = ("left out", "is a class of its own", "end in a blank", "when one answer changes", "another few")
    for what, args in commands.items():
        capsys.readouterr()
        assert cli.run(args) == 0, what
        said = [line for line in "".join(capsys.readouterr()).splitlines() if any(word in line for word in words)]
        assert len(said) == len(set(said)), (what, said)
        few_rows = [line for line in said if "when one answer changes" in line or "another few" in line]
        assert len(few_rows) == (what not in ("memory", "validate", "a check", "a plain model")), what

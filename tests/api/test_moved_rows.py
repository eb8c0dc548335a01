"""A run's rows at another place: taken as the run's own, by their contents; and rows that were trained on are said."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows, sentiment_rows, write_rows
from tests.small_runs import SMALL
from zofo import InputError, evaluate, export, finetune
from zofo.cli.main import run as command_line

SIZES = ["task.train_examples=20", "task.dev_examples=8", "task.test_examples=8"]
KNOWN = [{"sentence": f"film {i} is {('dull', 'warm')[i % 2]}, {i // 2} times", "label": i % 2} for i in range(60)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """Two runs of eight steps: rows/ on rows.jsonl, known/ on sst2 in sst2/train.jsonl."""
    root = tmp_path_factory.mktemp("moved")
    shutil.copytree(tiny_model_dir, root / "model")
    write_rows(root / "rows.jsonl", sentiment_rows(40))
    write_rows(root / "sst2" / "train.jsonl", KNOWN)
    more = {"rows": [], "known": [f"task.data={root / 'sst2'}"]}
    for out, task in {"rows": str(root / "rows.jsonl"), "known": "sst2"}.items():
        finetune(str(root / "model"), task, "mezo", output_dir=root / out, overrides=[*SIZES, *more[out]], **SMALL)
    export(root / "rows", root / "export")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Iterator[Path]:
    """The rows are at another place: new.jsonl for rows.jsonl, elsewhere/ for sst2/."""
    shutil.copytree(made, tmp_path / "unspoilt")
    (made / "rows.jsonl").rename(made / "new.jsonl")
    (made / "sst2").rename(made / "elsewhere")
    yield made
    shutil.rmtree(made)
    shutil.copytree(tmp_path / "unspoilt", made)


def predictions(run: Path) -> list[dict[str, Any]]:
    """All but their ids, which have the file's name."""
    return [{**row, "id": ""} for row in read_rows(run / "eval" / "predictions-theta.jsonl")]


def numbers_of(run: Path) -> dict[str, float]:
    return json.loads((run / "run.json").read_text())["test"]["theta"]


@pytest.mark.parametrize("how", ["--data", "task.data", "relative", "an export"])
def test_the_runs_own_rows(root: Path, how: str, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """The same test rows, and so the same numbers, without a word."""
    monkeypatch.chdir(root)
    target = root / ("export" if how == "an export" else "rows")
    new = "new.jsonl" if how == "relative" else str(root / "new.jsonl")
    caplog.clear()
    if how == "task.data":
        result = evaluate(target, overrides=[f"task.data={new}"])
    else:
        result = evaluate(target, data=new)
    assert result == pytest.approx(numbers_of(root / "rows"), rel=1e-6)
    assert evaluate(target, data=new, num_fewshot=1)["n"] == 8, "other prompts, the same rows"
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING and "trained on" in r.getMessage()]


def test_the_place_of_a_known_tasks_rows(root: Path, caplog: Any) -> None:
    """They too are the run's own where they are as they were; others are scored whole, which is said."""
    assert evaluate(root / "known", data=str(root / "elsewhere")) == pytest.approx(numbers_of(root / "known"), rel=1e-6)
    write_rows(root / "other" / "test.jsonl", KNOWN[:30])
    caplog.clear()
    assert evaluate(root / "known", data=str(root / "other"))["n"] == 8
    assert "other rows than the run's: 8 test rows of its own are scored" in caplog.text


def test_others_in_their_place_are_refused(root: Path) -> None:
    rows = read_rows(root / "new.jsonl")
    write_rows(root / "new.jsonl", [*rows, *sentiment_rows(50)[40:]])
    where = root / "new.jsonl"
    fix = f"--data takes the run's own file, where it is now; --task {where} scores all of its rows"
    for target in (root / "rows", root / "export"):
        with pytest.raises(InputError, match=rf"^{where}: other test examples .*8\); {fix}$"):
            evaluate(target, data=str(where))
    with pytest.raises(InputError, match=rf"^task.name: no such file: {root / 'rows.jsonl'}; give where"):
        evaluate(root / "rows")
    with pytest.raises(InputError, match="no such file"):
        evaluate(root / "rows", data=str(root / "nowhere.jsonl"))


@pytest.mark.parametrize("target", ["rows", "export"])
def test_rows_that_were_trained_on_are_counted(root: Path, target: str, caplog: Any) -> None:
    """All of a moved file are other rows to --task: 20 of the 40 were trained on, and the way to the 8 is named."""
    new = str(root / "new.jsonl")
    assert evaluate(root / target, task=new)["n"] == 40
    assert f"the run was trained on 20 of these 40 rows; --data {new}, without --task, scores" in caplog.text
    caplog.clear()
    assert evaluate(root / target, task=new, template="plain")["n"] == 40
    assert "trained on 20 of these 40 rows" in caplog.text, "in other words"


def test_some_of_them_in_another_file(made: Path, tmp_path: Path, caplog: Any) -> None:
    """The run's rows are where they were, and a new file has some: no other place is offered."""
    mixed = write_rows(tmp_path / "mixed.jsonl", [*sentiment_rows(40), *sentiment_rows(60)[40:]])
    evaluate(made / "rows", task=str(mixed))
    assert "trained on 20 of these 60 rows" in caplog.text
    assert "without --task" not in caplog.text
    caplog.clear()
    evaluate(made / "rows", task=str(write_rows(tmp_path / "new.jsonl", sentiment_rows(60)[40:])))
    assert "trained on" not in caplog.text


def test_what_cannot_be_known_is_said(root: Path, tmp_path: Path, caplog: Any) -> None:
    (root / "new.jsonl").unlink()
    evaluate(root / "rows", task=str(write_rows(tmp_path / "some.jsonl", sentiment_rows(12))))
    said = [r for r in caplog.records if "trained on some of these rows is not known" in r.getMessage()]
    assert [r.levelno for r in said] == [logging.WARNING]


def test_a_file_that_has_grown_since(made: Path, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """By its own name, typed from beside it: other rows are drawn for test, and some may have been trained on."""
    write_rows(root / "rows.jsonl", sentiment_rows(60))
    monkeypatch.chdir(root)
    evaluate(root / "rows", task="rows.jsonl")
    assert "than the run was made with (as many, 8); rows that the run was trained on may be" in caplog.text


def test_a_resume(root: Path) -> None:
    """Of a run whose model and rows have moved: to the bytes of one whose have not."""
    final = {path.name: path.read_bytes() for path in (root / "rows" / "checkpoint-8").glob("*.safetensors")}
    predicted = predictions(root / "rows")
    (root / "model").rename(root / "base")
    shutil.rmtree(root / "rows" / "checkpoint-8")
    again = ["train", "--output-dir", str(root / "rows"), "--resume", "latest"]
    assert command_line(again) == 2
    assert command_line([*again, "--data", str(root / "elsewhere" / "train.jsonl"), "--model", str(root / "base")]) == 2
    for place in ("--data", "--task"):
        assert command_line([*again, place, str(root / "new.jsonl"), "--model", str(root / "base")]) == 0
    assert final == {path.name: path.read_bytes() for path in (root / "rows" / "checkpoint-8").glob("*.safetensors")}
    assert predicted == predictions(root / "rows")
    assert evaluate(root / "rows") == pytest.approx(numbers_of(root / "rows"), rel=1e-6), (
        "config.yaml has the new places"
    )


def test_what_a_resume_says_is_missing(root: Path, capsys: Any) -> None:
    (root / "model").rename(root / "base")
    assert command_line(["train", "--output-dir", str(root / "rows"), "--resume", "latest"]) == 2
    said = capsys.readouterr().err
    assert f"model.name: no such model directory: {root / 'model'}; --model says where it is now" in said
    assert f"task.name: no such file: {root / 'rows.jsonl'}; --data says where its rows are now" in said


def test_a_check(root: Path, capsys: Any) -> None:
    what = "examples: those that the run was made with"
    assert command_line(["validate", str(root / "rows")]) == 0
    assert f"{what}: not checked, {root / 'rows.jsonl'} is not a place here; --data says" in capsys.readouterr().out
    for run, place in {"rows": "new.jsonl", "known": "elsewhere"}.items():
        assert command_line(["validate", str(root / run), "--data", str(root / place)]) == 0
        assert f"{what}: yes" in capsys.readouterr().out
    write_rows(root / "new.jsonl", sentiment_rows(41))
    assert command_line(["validate", str(root / "rows"), "--data", str(root / "new.jsonl")]) == 2
    assert "new.jsonl: other" in capsys.readouterr().err
    assert command_line(["validate", str(root / "rows"), "--data", str(root / "nowhere")]) == 2

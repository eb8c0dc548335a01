"""task.on_bad_row: rows that cannot be used are an error, or left out, counted and said; in every kind of data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows, sentiment_rows, write_rows
from tests.loading import error, task
from tests.small_setting import make_setting, train_args
from zofo import InputError, evaluate, finetune
from zofo.cli import main as cli
from zofo.data import load_task

TASK_FILE = """
version: 1
description: films
source: made up
columns: [film, verdict]
kind: options
gold: verdict
objective: options
metric: accuracy
templates: {default: {prompt: "{{ film }}{{ 1 // (film | length) }}", answers: [" bad", " good"]}}
"""
OWN: dict[str, tuple[dict[str, Any], str]] = {  # what is spoilt: (changes to a row, the reason that is counted)
    "an empty text": ({"text": " "}, '"text" is empty'),
    "no label": ({"label": None}, 'no "label"'),
    "an unknown label": ({"label": "so-so"}, "unknown label"),
    "a label of a list": ({"label": [1]}, '"label" must be a word, a number or true/false'),
    "half a character": ({"text": "a \ud800"}, '"text" holds a lone surrogate, half a character'),
    "a text of a number": ({"text": 3}, '"text" must be text, not int'),
}


def counted(path: Path, **changes: Any) -> tuple[int, dict[str, int]]:
    """(examples in all, why rows were left out) of a task."""
    data = load_task(task(path, on_bad_row="skip", **changes), 0)
    return len(data.train) + len(data.dev) + len(data.test), dict(data.bad_rows)


@pytest.mark.parametrize("what", OWN)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_own_rows(what: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes, reason = OWN[what]
    rows: list[dict[str, Any]] = [*sentiment_rows(20)]
    rows[4:4] = [{**rows[0], **changes}] * 2
    path = write_rows(tmp_path / "rows.jsonl", rows)
    if kind == "parquet":
        if what not in ("an empty text", "no label", "an unknown label"):
            pytest.skip("a column of Parquet has one type, and its texts are whole")
        import pyarrow
        import pyarrow.parquet

        path = tmp_path / "rows.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    choices = {"choices": ["terrible", "great"]}
    assert f"rows.{kind}:5" in error(task(path, **choices), 0) or f"rows.{kind}:6" in error(task(path, **choices), 0)
    assert counted(path, **choices) == (20, {reason: 2})
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert said.startswith(f"rows.{kind}: 2 rows left out: {reason} (the first: rows.{kind}:")


@pytest.mark.parametrize("line", ["{", "[1]", '{"text": "a", "text": "b"}', '{"a": ' + "[" * 9000 + "}"])
def test_lines_that_are_no_rows(line: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", sentiment_rows(20))
    path.write_text(path.read_text() + line + "\n")
    assert error(task(path), 0).startswith("rows.jsonl:21: ")
    n, bad_rows = counted(path)
    assert (n, list(bad_rows.values())) == (20, [1])


def test_csv_rows_of_other_lengths(tmp_path: Path) -> None:
    lines = ["text,label", *(f"film {i},{'ab'[i % 2]}" for i in range(20)), "film", "film,a,b", "text,label"]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    assert counted(tmp_path / "rows.csv") == (
        *(20,),
        {"fewer fields than the header's": 1, "more fields than the header's": 1, "repeats the header": 1},
    )


def test_a_task_files_rows(tmp_path: Path) -> None:
    (tmp_path / "films.yaml").write_text(TASK_FILE)
    rows: list[dict[str, Any]] = [{"film": f"film {i}", "verdict": i % 2} for i in range(20)]
    rows += [{"film": "", "verdict": 1}, {"film": "a", "verdict": 7}, {"film": "a"}, {"verdict": 1}]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError, match=r"rows.jsonl:\d+"):
        load_task(task(tmp_path / "films.yaml", data=str(data)), 0)
    n, bad_rows = counted(tmp_path / "films.yaml", data=str(data))
    assert (n, sum(bad_rows.values())) == (20, 4)
    assert {"unknown label": 1, 'no "verdict" in this row'[:12]: 1}.items() <= bad_rows.items()


def test_more_than_half_is_another_file(tmp_path: Path) -> None:
    rows = sentiment_rows(20)
    path = write_rows(tmp_path / "rows.jsonl", [*rows[:10], *({**row, "text": ""} for row in rows[:11])])
    text = error(task(path, on_bad_row="skip"), 0)
    assert "task.on_bad_row=skip would leave out 11 of 21 rows, more than half" in text
    assert "the first: rows.jsonl:" in text
    path.write_text("{\n" * 9)
    assert "9 of 9 rows" in error(task(path, on_bad_row="skip"), 0)


def test_rows_of_a_setting(tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = make_setting(tmp_path / "small")
    for name in ("sort/train", "quiz/test"):
        file = setting.parent / "data" / f"{name}.jsonl"
        good = read_rows(file)
        spoilt = [{**good[0], "output": ""}, {**good[0], "output": "none of them"}, {"input": "a"}]
        write_rows(file, [*spoilt, *good])
    places = ["--task", str(setting), "--data", str(setting.parent / "data")]
    args = train_args(tiny_model_dir, places, tmp_path / "out", "zero-shot")
    assert cli.run(args) == 2
    assert "train.jsonl:1: " in capsys.readouterr().err
    assert cli.run([*args, "task.on_bad_row=skip"]) == 0
    bad_rows = json.loads((tmp_path / "out" / "run.json").read_text())["bad_rows"]
    assert bad_rows == {'"output" is empty': 2, "the output": 2, 'no "output"': 2}


@pytest.mark.parametrize("method", ["zero-shot", "mezo", "bilevel-zofo"])
def test_rows_that_are_too_long(
    method: str, tmp_path: Path, tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Train and eval leave out the same, and count it; a training row is replaced by no other."""
    rows = [{"prompt": f"say {i}", "completion": " yes" * (60 if i % 6 == 3 else 1)} for i in range(60)]
    path, limit = write_rows(tmp_path / "rows.jsonl", rows), ["model.max_length=40"]
    steps: dict[str, Any] = {"max_steps": 0 if method == "zero-shot" else 11, "batch_size": 4}
    with pytest.raises(InputError, match=r"does not fit into 40"):
        finetune(str(tiny_model_dir), str(path), method, output_dir=tmp_path / "no", overrides=limit, **steps)
    assert not (tmp_path / "no").exists()
    skip = [*limit, "task.on_bad_row=skip"]
    run = finetune(str(tiny_model_dir), str(path), method, output_dir=tmp_path / "run", overrides=skip, **steps)
    assert run.info["bad_rows"]["too long"] >= 1
    assert "too long (the first: rows.jsonl:" in caplog.text
    numbers = evaluate(tmp_path / "run", output=tmp_path / "eval")
    assert numbers["n"] == run.test["n"]
    values = evaluate(str(tiny_model_dir), task=str(path), on_bad_row="skip", output=tmp_path / "plain")
    assert values["n"] == 50
    assert json.loads((tmp_path / "plain" / "results.json").read_text())["bad_rows"] == {"too long": 10}


def test_skipping_changes_no_good_rows(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", sentiment_rows(40))
    make: Callable[..., Any] = lambda **changes: load_task(task(path, **changes), 3)  # noqa: E731
    plain, skipping = make(), make(on_bad_row="skip")
    assert (plain.train, plain.dev, plain.test) == (skipping.train, skipping.dev, skipping.test)
    assert plain.bad_rows == skipping.bad_rows == {}

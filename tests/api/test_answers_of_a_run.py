"""An evaluation of a run on another file keeps the run's answers: none is lost, none is added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows, write_rows
from tests.small_runs import SMALL
from zofo import InputError, Run, evaluate, finetune

ROWS = [{"text": f"film {i} one two", "label": "abcd"[i % 4]} for i in range(80)]


def trained(model: Path, folder: Path, rows: list[dict[str, Any]], method: str = "zero-shot", **task: Any) -> Run:
    path = write_rows(folder / "four.jsonl", rows)
    changes = [f"task.{key}={json.dumps(value)}" for key, value in task.items()]
    steps = {**SMALL, "max_steps": 0} if method == "zero-shot" else SMALL
    return finetune(str(model), str(path), method, output_dir=folder / "run", overrides=changes, **steps)


def options(folder: Path) -> set[tuple[str, ...]]:
    return {tuple(row["answers"]) for row in read_rows(folder / "predictions.jsonl")}


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "from the training data"])
@pytest.mark.parametrize("method", ["zero-shot", "mezo"])
def test_a_file_with_two_of_four_labels(recorded: bool, method: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    run = trained(tiny_model_dir, tmp_path, ROWS, method)
    info = json.loads((run.path / "run.json").read_text())
    assert info["labels"] == ["a", "b", "c", "d"]
    if not recorded:  # as runs of before have it
        del info["labels"]
        (run.path / "run.json").write_text(json.dumps(info))
        manifest = json.loads((run.path / "manifest.json").read_text())
        (run.path / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "info"}))
    two = write_rows(tmp_path / "two.jsonl", [row for row in ROWS if row["label"] in "bd"])
    every = evaluate(run.path, task=str(write_rows(tmp_path / "all.jsonl", ROWS)), output=tmp_path / "all")
    some = evaluate(run.path, task=str(two), output=tmp_path / "some")
    assert options(tmp_path / "some") == options(tmp_path / "all") == {(" a", " b", " c", " d")}
    whole = {row["prompt"]: row["predicted"] for row in read_rows(tmp_path / "all" / "predictions.jsonl")}
    part = {row["prompt"]: row["predicted"] for row in read_rows(tmp_path / "some" / "predictions.jsonl")}
    assert part.items() <= whole.items(), "the same predictions as in the whole file"
    assert (every["n"], some["n"]) == (80, 40)


def test_a_label_that_the_run_does_not_know(tiny_model_dir: Path, tmp_path: Path) -> None:
    run = trained(tiny_model_dir, tmp_path, ROWS)
    other = str(write_rows(tmp_path / "other.jsonl", [*ROWS[:6], {"text": "x", "label": "e"}]))
    with pytest.raises(InputError, match=r"^other.jsonl:7: unknown label \"e\"; the run's: a, b, c, d"):
        evaluate(run.path, task=other)
    assert evaluate(run.path, task=other, on_bad_row="skip")["n"] == 6
    named = evaluate(run.path, task=other, choices=["a", "b", "c", "d", "e"])
    assert named["n"] == 7, "what is asked for goes before"


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [True, False], ["a", "d"]])
def test_choices_count_as_in_training(labels: list[Any], tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [{**row, "label": i % 4} for i, row in enumerate(ROWS)]
    run = trained(tiny_model_dir, tmp_path, rows, choices=["a", "b", "c", "d"])
    other = write_rows(tmp_path / "o.jsonl", [{**r, "label": labels[i % len(labels)]} for i, r in enumerate(ROWS)])
    assert evaluate(run.path, task=str(other), output=tmp_path / "out")["n"] == 80
    assert options(tmp_path / "out") == {(" a", " b", " c", " d")}


def test_numbers_do_not_count_where_they_did_not(tiny_model_dir: Path, tmp_path: Path) -> None:
    run = trained(tiny_model_dir, tmp_path, ROWS)
    other = write_rows(tmp_path / "o.jsonl", [{**row, "label": i % 2} for i, row in enumerate(ROWS)])
    with pytest.raises(InputError, match=r"unknown label \"[01]\"; the run's: a, b, c, d"):
        evaluate(run.path, task=str(other))


def test_other_layouts_have_their_own(tiny_model_dir: Path, tmp_path: Path) -> None:
    run = trained(tiny_model_dir, tmp_path, ROWS)
    other = write_rows(tmp_path / "o.jsonl", [{"prompt": f"say {i}", "completion": " yes"} for i in range(9)])
    assert "perplexity" in evaluate(run.path, task=str(other))

"""Rows without answers, and what an evaluation of the same rows with their answers says of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import read_rows, sentiment_rows, write_rows
from tests.small_runs import SMALL
from zofo import evaluate, finetune, predict_file
from zofo.data.formats import EmptyRow, rows_of

ROWS = [
    {"id": i, "text": f"film {i} is {('dull', 'warm', 'a story')[i % 3]}", "note": "é\n" * (i % 2)} for i in range(11)
]
ANSWERS = ("label", "completion", "answers", "answer")


def overrides_of(task: dict[str, Any]) -> list[str]:
    return [f"task.{key}={json.dumps(value)}" for key, value in task.items()]


def short_run(model: Path, folder: Path, rows: Sequence[Any], method: Any = "zero-shot", **more: Any) -> Path:
    """The directory of a run on rows of one's own, `folder`/run. more: adapter, changes of the task section."""
    steps = {**SMALL, **({"max_steps": 0} if method == "zero-shot" else {})}
    if adapter := more.pop("adapter", None):
        steps["adapter"] = adapter
    file = write_rows(folder / "train.jsonl", rows)
    run = finetune(str(model), str(file), method, output_dir=folder / "run", overrides=overrides_of(more), **steps)
    return run.path


def sentiment_run(model: Path, folder: Path, method: Any = "zero-shot", **more: Any) -> Path:
    return short_run(model, folder, sentiment_rows(60), method, **more)


def without_answers(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in ANSWERS} for row in rows]


def check_as_evaluated(
    target: Path, rows: list[dict[str, Any]], folder: Path, changes: dict[str, Any] | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """What is predicted for the rows without answers is what `zofo eval` says of them with their answers.

    changes: of the task section, in both. settings: of the prediction. Returns what was written.
    """
    labelled, bare = write_rows(folder / "a" / "rows.jsonl", rows), without_answers(rows)
    evaluate(target, task=str(labelled), output=folder / "evaluated.jsonl", **(changes or {}))
    file = write_rows(folder / "b" / "rows.jsonl", bare)
    predict_file(target, file, folder / "out.jsonl", overrides=overrides_of(changes or {}), overwrite=True, **settings)
    written, evaluated = read_rows(folder / "out.jsonl"), read_rows(folder / "evaluated.jsonl")
    assert [{k: row[k] for k in given} for row, given in zip(written, bare, strict=True)] == bare
    assert len(evaluated) == len(rows)
    by_place = {int(row["id"].rpartition(":")[2]) - 1: row for row in evaluated}
    for number, row in enumerate(written):
        theirs = by_place[number]
        assert row["prediction"] == theirs["answers"][theirs["predicted"]].strip() == theirs["prediction"].strip()
        shares = torch.tensor(theirs["scores"], dtype=torch.float64).softmax(0).tolist()
        assert chances(row) == pytest.approx(shares, abs=1e-6)
    return written


def chances(row: dict[str, Any]) -> list[float]:
    """In the options' order."""
    if "probabilities" in row:
        return row["probabilities"]
    return [value for key, value in row.items() if key.startswith("probability_")]


def small_parts(patch: pytest.MonkeyPatch) -> None:
    """Four rows of a file are answered together."""
    for module in ("zofo.api.answered_parts", "zofo.api.predict_file"):
        patch.setattr(f"{module}.ROWS", 4)


def predicted(run: Path, folder: Path) -> bytes:
    """What a prediction of ROWS writes that nobody stops."""
    with pytest.MonkeyPatch.context() as patch:
        small_parts(patch)
        predict_file(run, write_rows(folder / "rows.jsonl", ROWS), folder / "out.jsonl")
    return (folder / "out.jsonl").read_bytes()


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Of a file of any kind; a faulty row is a failure, an empty one a row."""
    rows = []
    for _, row in rows_of(path):
        row = row.row if isinstance(row, EmptyRow) else row
        assert isinstance(row, dict), row
        rows.append(row)
    return rows


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())

"""Another draw of the rows that a run began with was trained on: said, with counts and what keeps them apart."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import zofo
from tests.conftest import sentiment_rows, write_rows
from tests.small_runs import SMALL
from zofo.api import configure

SIZES = {"train_examples": 30, "dev_examples": 10, "test_examples": 20}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", sentiment_rows(60))


def train(rows: Path, out: Path, model: Path, seed: int = 0, **settings: Any) -> Any:
    task = {"name": str(rows), **SIZES, **settings.pop("sizes", {})}
    sections = {"model": str(model), "task": task, "method": settings.pop("method", "fo-peft"), **settings}
    train = {"output_dir": str(out), **SMALL, "seed": seed}
    return zofo.train(configure.resolve(None, train=train, **sections))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, rows: Path, tiny_model_dir: Path) -> dict[str, Path]:
    """A run, its checkpoint and its two exports. Read only."""
    root = tmp_path_factory.mktemp("places")
    run = train(rows, root / "run", tiny_model_dir)
    run.export(root / "adapter", merge=False)
    run.export(root / "merged", merge=True)
    checkpoint = sorted((root / "run").glob("checkpoint-*"))[-1]
    return {name: root / name for name in ("run", "adapter", "merged")} | {"checkpoint": checkpoint}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "the numbers here are too good" in message]


@pytest.mark.parametrize("name", ["run", "adapter", "merged", "checkpoint"])
@pytest.mark.parametrize("drawn", ["as before", "another seed", "other sizes"])
def test_another_draw_of_the_rows(
    name: str,
    drawn: str,
    rows: Path,
    places: dict[str, Path],
    tiny_model_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "zofo")
    begins = {} if name == "merged" else {"adapter": {"start": str(places[name])}}
    model = places[name] if name == "merged" else tiny_model_dir
    sizes = {"train_examples": 20, "test_examples": 30} if drawn == "other sizes" else {}
    run = train(rows, tmp_path / "run", model, int(drawn == "another seed"), sizes=sizes, **begins)
    lines = said(caplog)
    if drawn == "as before":
        assert lines == []
        return
    (line,) = lines
    assert line.startswith(f"{'model.name' if name == 'merged' else 'adapter.start'}: the run behind ")
    assert line.endswith(
        "give its own splits (train.seed=0 task.train_examples=30 task.dev_examples=10 task.test_examples=20), or a "
        "test file with other rows"
    )
    assert run.info["examples"]["test"] == 20 + 10 * (drawn == "other sizes")


def test_counts_are_those_of_the_predictions(
    rows: Path, places: dict[str, Path], tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows' names in the predictions of both runs and of an evaluation of the first one's training rows."""
    zofo.evaluate(places["run"], split="train", output=tmp_path / "trained")
    run = train(rows, tmp_path / "run", tiny_model_dir, 1, adapter={"start": str(places["run"])})
    names = [
        {row["id"] for row in rows_of(path)}
        for path in (tmp_path / "trained" / "predictions.jsonl", Path(run.path) / "eval" / "predictions-p.jsonl")
    ]
    (line,) = said(caplog)
    assert f" {len(names[0] & names[1])} test rows were trained on" in line


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_other_rows_are_silent(
    places: dict[str, Path], tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_rows(tmp_path / "other.jsonl", sentiment_rows(60))
    train(other, tmp_path / "run", tiny_model_dir, 1, adapter={"start": str(places["run"])})
    assert said(caplog) == []

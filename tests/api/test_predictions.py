"""`zofo eval --output`: the predictions as a file of any kind, each with its label's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SST2, read_rows, write_rows
from tests.unanswered import names, rows_in, sentiment_run, short_run
from zofo import InputError, evaluate

CHOICES = [{"text": f"film {i}", "choices": [f"a {i}", "b", "c"][: 2 + i % 2], "label": i % 2} for i in range(8)]


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentiment_run(tiny_model_dir, tmp_path_factory.mktemp("predictions"))


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.tsv", "x.parquet", "x.CSV", "x.csv.gz", "a/x.json"])
def test_a_file_alone(name: str, run: Path, tmp_path: Path) -> None:
    evaluate(run, output=tmp_path / "all")
    expected = read_rows(tmp_path / "all" / "predictions.jsonl")
    out = tmp_path / "file" / name
    for _ in range(2):  # its own is overwritten
        evaluate(run, output=out)
        assert names(out.parent) == [out.name]
    read = rows_in(out)
    for row, wanted in zip(read, expected, strict=True):
        assert list(row) == list(wanted)
        assert row["prediction"] == wanted["prediction"]
        scores = row["scores"] if isinstance(row["scores"], list) else json.loads(row["scores"])
        assert scores == wanted["scores"]


def test_somebody_else_s_stays(run: Path, tmp_path: Path) -> None:
    for name in ("mine.csv", "mine.json", "mine.parquet", "mine.tsv"):
        (tmp_path / name).write_text('[{"a": 1}]')
        with pytest.raises(InputError, match=f"{name}: is there already, and no evaluation of zofo wrote it"):
            evaluate(run, output=tmp_path / name)
        assert (tmp_path / name).read_text() == '[{"a": 1}]'


def test_labels_by_their_names(run: Path, tmp_path: Path) -> None:
    """In the run's own predictions too; the keys of before are there still."""
    for row in read_rows(run / "eval" / "predictions-theta.jsonl"):
        assert row["prediction"] == ("great", "terrible")[row["predicted"]]
        assert list(row) == ["id", "prompt", "answers", "gold", "predicted", "prediction", "correct", "scores", "loss"]


def test_of_a_task_whose_labels_are_no_option_texts(tiny_model_dir: Path, sst2_dir: Path, tmp_path: Path) -> None:
    evaluate(tiny_model_dir, task="sst2", data=str(sst2_dir / "sst2"), output=tmp_path / "x.jsonl")
    for row in read_rows(tmp_path / "x.jsonl"):
        assert [answer.strip() for answer in row["answers"]] == ["terrible", "great"]
        assert row["prediction"] == ("negative", "positive")[row["predicted"]]
    assert len(SST2[:4]) == len(read_rows(tmp_path / "x.jsonl"))


def test_options_of_each_row(tiny_model_dir: Path, tmp_path: Path) -> None:
    run = short_run(tiny_model_dir, tmp_path, CHOICES * 3)
    rows = write_rows(tmp_path / "rows.jsonl", CHOICES)
    evaluate(run, task=str(rows), output=tmp_path / "x.json")
    found: list[Any] = json.loads((tmp_path / "x.json").read_text())
    assert len(found) == 8
    for row in found:
        assert row["prediction"] == row["answers"][row["predicted"]].strip()

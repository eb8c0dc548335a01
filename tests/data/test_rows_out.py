"""Rows written as any kind of file are read again as they were."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tests.unanswered import rows_in
from zofo.data.rows_out import as_file

ROWS: list[dict[str, Any]] = [
    {"id": "a:1", "prompt": 'é, "x"\n\r\t', "scores": [-1.5, -2.0], "gold": [0], "predicted": 1, "loss": 0.5},
    {"id": "a:2", "prompt": "", "scores": [], "gold": [0, 1], "predicted": None, "loss": math.nan, "x": {"a": 1}},
]  # fmt: skip


@pytest.mark.parametrize("name", ["x.jsonl", "x.JSON", "x.csv", "x.tsv", "x.parquet", "x.jsonl.gz", "x.csv.GZ"])
def test_read_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(as_file(path, ROWS))
    assert path.read_bytes() == as_file(path, ROWS), "the same bytes each time"
    read = rows_in(path)
    assert [row["id"] for row in read] == ["a:1", "a:2"]
    for row, wanted in zip(read, ROWS, strict=True):
        for key, value in wanted.items():
            value = None if isinstance(value, float) and math.isnan(value) else value
            if ".csv" in name.lower() or ".tsv" in name:
                text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
                assert row[key] == text
            else:
                assert row[key] == value


@pytest.mark.parametrize("values", [["a", 1, None], [[1], "a"], [{"a": 1}, [2]], [2**70, 1]])
def test_a_column_of_several_types(values: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(as_file(path, [{"reference": value} for value in values]))
    column = pyarrow.parquet.read_table(path).column("reference").to_pylist()
    assert [None if text is None else json.loads(text) for text in column] == values

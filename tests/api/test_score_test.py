"""train.score_test=false leaves the test set alone; measured later it is, to the bit, what it would have been."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentiment_rows, write_rows
from zofo import finetune
from zofo.api.finetune import score_test
from zofo.cli import main as cli
from zofo.study.results import read

METHODS: dict[str, dict[str, Any]] = {
    "bilevel-zofo": {"method": {"name": "bilevel-zofo", "inner_steps": 1}, "adapter": "lora"},
    "mezo": {"method": {"name": "mezo", "lr": 1e-3}},
    "fo-ft": {"method": {"name": "fo-ft", "lr": 1e-3}},
    "zero-shot": {"method": "zero-shot"},
}
TIMES = {"seconds", "seconds_per_step", "peak_bytes", "phases"}


@pytest.mark.parametrize("method", METHODS)
def test_measured_later_it_is_what_it_would_have_been(
    method: str, tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", sentiment_rows(40))
    few = ["task.test_examples=5", "task.dev_examples=5"]
    options: dict[str, Any] = {"max_steps": 6, "eval_steps": 4, "save_steps": 6, "batch_size": 2, "overrides": few}
    at_once = finetune(str(tiny_model_dir), str(rows), output_dir=tmp_path / "a", **METHODS[method], **options)
    left = finetune(
        str(tiny_model_dir), str(rows), output_dir=tmp_path / "b", score_test=False, **METHODS[method], **options
    )
    assert left.test == {}
    assert set(left.info["test"]) == set(at_once.info["test"])
    assert not (left.path / "eval").exists()
    assert "| test" not in (left.path / "README.md").read_text()
    assert read(left.path).test == {}
    assert cli.run(["validate", str(left.path)]) == 0
    later = score_test(left.path)
    for key in at_once.info.keys() - TIMES:
        assert later.info[key] == at_once.info[key], key
    assert later.info["phases"] == {**left.info["phases"], "test": later.info["phases"]["test"]}
    assert set(later.info["phases"]) == set(at_once.info["phases"])
    for name in ("run.json", "config.yaml", *(f"eval/{path.name}" for path in (at_once.path / "eval").iterdir())):
        one, other = ((run.path / name).read_text() for run in (at_once, later))
        assert (one == other) if name != "run.json" else (json.loads(one).keys() == json.loads(other).keys())
    assert cli.run(["validate", str(left.path)]) == 0
    capsys.readouterr()
    assert score_test(left.path).info == later.info, "once"
    assert capsys.readouterr().err == "", "nothing was computed again"

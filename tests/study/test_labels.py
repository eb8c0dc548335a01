"""A study of several tasks is one table: rows over tasks, whatever their directories are called."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.conftest import sentiment_rows, write_rows
from zofo.cli import main as cli
from zofo.study.compare import compare


def test_rows_of_a_study_span_its_tasks(tiny_model_dir: Path, tmp_path: Path) -> None:
    tasks = {}
    for name in ("one", "two"):
        rows = write_rows(tmp_path / f"{name}.jsonl", sentiment_rows(40))
        tasks[name] = {"task.name": str(rows), "task.test_examples": 6, "task.dev_examples": 6}
    plan = {"model": str(tiny_model_dir), "tasks": tasks, "methods": ["mezo", "zero-shot"], "seeds": [0]}
    plan["train"] = {"max_steps": 1, "batch_size": 2}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert cli.run(["sweep", str(tmp_path / "plan.yaml"), "--output-dir", str(tmp_path / "s"), "--no-estimate"]) == 0
    found = compare([tmp_path / "s"])
    assert set(found.rows) == {"mezo", "zero-shot"}
    assert sorted(found.tasks) == ["one", "two"]
    assert all(set(cells) == set(found.tasks) for cells in found.rows.values())

"""The map of signal: its parts beside what runs and `zofo signal` say, the budget, going on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiments.signal_map import Cell, Map, read_map, run, table

from experiments import signal_map
from tests.conftest import ROOT, read_rows
from zofo.config import registry
from zofo.study.signal import signal

PLAN: dict[str, Any] = {
    "shared": {
        "method.name": "fo-peft",
        "train.max_steps": 4,
        "train.batch_size": 2,
        "train.eval_steps": 1,
        "train.save_steps": 1,
        "train.save_total_limit": 6,
        "task.train_examples": 12,
        "task.dev_examples": 10,
        "task.test_examples": 4,
    },
    "directions": 2,
    "tasks": {"sst2": {"rows": 8}},
    "adapters": {"small": {"adapter.name": "prompt", "adapter.tokens": 1, "method.lr": 0.03}},
    "order": ["small"],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows of SST-2's form in a folder for the task."""
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    words = ("dull", "warm")
    for split, n in {"train": 30, "validation": 20}.items():
        rows = [{"sentence": f"a {words[i % 2]} film {i} {split}", "label": i % 2} for i in range(n)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


@pytest.fixture
def of(tmp_path: Path) -> Map:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    return read_map(tmp_path / "plan.yaml", tmp_path / "results")


def test_parts_are_what_the_run_and_the_signal_say(
    of: Map, data: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, out = Cell("sst2", "small"), tmp_path / "out"
    monkeypatch.setattr(signal_map.shutil, "rmtree", lambda path, **how: None)  # to look at the run
    said: list[str] = []
    run(of, str(tiny_model_dir), data, out, say=said.append)
    parts = {part: json.loads(of.file(cell, part).read_text()) for part in of.parts(cell)}
    info = json.loads((out / cell.name / "run.json").read_text())
    assert parts["run"]["best_step"] == info["best_step"]
    lines = [line for line in read_rows(out / cell.name / "metrics.jsonl") if line["event"] == "dev"]
    assert parts["run"]["dev_curve"] == [{"step": line["step"], "loss": line["loss"]} for line in lines]
    best = out / cell.name / f"checkpoint-{info['best_step']}"
    expected = signal(best, split="train", limit=8, directions=2, batch_size=16, adapter="p").to_dict()
    assert parts["plateau-train"]["gradient_squared"] == expected["gradient_squared"]
    assert parts["plateau-dev"]["gradient_squared"] != parts["start-dev"]["gradient_squared"]
    assert [part["rows"] for name, part in parts.items() if "rows" in part] == [8] * (len(parts) - 1)
    assert len(said) == len(parts)
    text = table(of)
    assert "| sst2 | small | 32 | plateau | train |" in text
    assert len(text.splitlines()) == 2 + sum("left_out" not in part for part in parts.values()) - 1
    before = {path: path.read_bytes() for path in of.results.iterdir()}
    run(of, str(tiny_model_dir), data, out, say=said.append)
    assert {path: path.read_bytes() for path in of.results.iterdir()} == before, "nothing is done twice"


def test_the_budget_counts_what_was_spent_before(of: Map, data: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    of.results.mkdir(parents=True)
    (of.results / "other.json").write_text(json.dumps({"cpu_seconds": 3601}))
    said: list[str] = []
    run(of, str(tiny_model_dir), data, tmp_path / "out", hours=1, say=said.append)
    assert said == ["stopped before sst2-small run: 1 CPU hours are spent"]
    assert len(list(of.results.iterdir())) == 1


def test_the_plan_is_of_tasks_and_adapters_that_are_there() -> None:
    of = read_map(ROOT / "experiments" / "signal_map_smollm2.yaml")
    assert set(of.plan["order"]) == set(of.plan["adapters"])
    assert set(of.plan["tasks"]) <= set(registry.names("tasks"))
    assert len(list(of.cells())) == 30

"""Which checkpoints a run keeps: the newest ones, and the adapters of the best evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.family_runs import save_rows
from zofo import finetune


@pytest.mark.parametrize(("limit", "kept"), [(1, [8]), (2, [6, 8]), (None, [2, 4, 6, 8])])
def test_the_newest_checkpoints_and_the_best_stay(
    limit: int | None, kept: list[int], tiny_model_dir: Path, tmp_path: Path
) -> None:
    """A run goes on from the newest of them to the same end."""

    def train(**more: Any) -> Path:
        return finetune(
            str(tiny_model_dir),
            str(save_rows(tmp_path)),
            {"name": "fo-peft", "lr": 1e-2},
            output_dir=tmp_path / "run",
            batch_size=4,
            save_steps=2,
            eval_steps=2,
            save_total_limit=limit,
            overrides=["task.dev_examples=4", "task.test_examples=4"],
            **more,
        ).path

    run = train(max_steps=8)
    assert sorted(int(path.name.partition("-")[2]) for path in run.glob("checkpoint-*")) == kept
    best = json.loads((run / "run.json").read_text())["best_step"]
    assert (run / f"best-{best}").is_dir()
    train(max_steps=10, resume="latest")
    newest = max(int(path.name.partition("-")[2]) for path in run.glob("checkpoint-*"))
    assert newest == 10

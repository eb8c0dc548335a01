"""A run that hardly trained has failed: it is saved, says so, and its exit code is 1. Skips are in test_halve.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.small_runs import METHODS, SMALL
from zofo import RunError, finetune
from zofo.cli.main import run as command_line


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ({"name": "mezo", "lr": 1e30}, []),
        ({"name": "mezo"}, ["estimator.eps=1e-30"]),
        ({"name": "mezo"}, ["estimator.eps=1e-30", "adapter.name=lora"]),
        (METHODS["bilevel-zofo"], ["estimator.eps=1e-30"]),
    ],
    ids=["a rate too large", "a shift that is lost", "of an adapter", "bilevel-zofo"],
)
def test_coefficients_of_exactly_0(
    method: dict[str, Any], more: list[str], tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, capsys: Any
) -> None:
    """Finite weights that are far from any model, or shifts below their precision: the run is saved and has failed."""
    options: dict[str, Any] = {**SMALL, "max_steps": 16, "save_steps": 8}
    with pytest.raises(RunError, match=r"^\d+ of \d+ updates of theta had a coefficient c of exactly 0.*lower rate"):
        finetune(str(tiny_model_dir), str(sentiment_file), method, output_dir=tmp_path, overrides=more, **options)
    assert "c was exactly 0 three times in a row" in capsys.readouterr().err, "while it trains, too"
    assert json.loads((tmp_path / "run.json").read_text())["deployed"]
    assert command_line(["train", "--output-dir", str(tmp_path), "--resume", "latest"]) == 1, "nor has it when resumed"


def test_a_metric_that_does_not_move_is_no_failure(tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path) -> None:
    """Minus the accuracy of a small batch is often the same on both sides."""
    finetune(
        *(str(tiny_model_dir), str(sentiment_file), "mezo"),
        output_dir=tmp_path,
        overrides=["task.objective=metric", "estimator.eps=1e-30"],
        **SMALL,
    )

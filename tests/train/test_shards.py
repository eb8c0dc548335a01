"""A model that several processes hold together: theta after a run is that of its journal on a whole model, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.in_shards import replayed, sharded

Start = Callable[..., list[str]]
FSDP = ["parallel.fsdp=2", "estimator.shift=copy"]


@pytest.fixture
def start(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> Start:
    """The command of a run in tmp_path/run, by its settings."""

    def arguments(*more: str, model: Path = tiny_model_dir) -> list[str]:
        fixed = ["train", "--model", str(model), "--task", str(sentiment_file), "train.threads=1", "--method", "mezo"]
        cadence = ["--max-steps", "4", "train.eval_steps=2", "train.save_steps=2", "train.batch_size=4"]
        few = ["task.train_examples=16", "task.dev_examples=4", "task.test_examples=4", "method.lr=1e-4"]
        return [*fixed, *cadence, *few, "--output-dir", str(tmp_path / "run"), *more]

    return arguments


USUAL = {
    "tensor": (2, ["parallel.tensor=2"]),
    "tensor x data, bf16, sphere, adam": (
        4,
        ["parallel.tensor=2", "model.dtype=bfloat16", "estimator.law=sphere", "rule=adam", "mask=magnitude"],
    ),
    "fsdp": (2, FSDP),
}


@pytest.mark.parametrize("kind", USUAL)
def test_theta_is_that_of_the_journal(kind: str, start: Start, tmp_path: Path) -> None:
    size, settings = USUAL[kind]
    assert sharded(size, *start(*settings)) == {replayed(tmp_path / "run")}

"""A checkpoint, and the best so far of a run that did not finish, can be evaluated, asked and exported like a run."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.conftest import sentiment_rows, write_rows
from tests.small_runs import SMALL
from zofo import InputError, evaluate, export, finetune, generate, load
from zofo.cli.main import run as command_line
from zofo.models._transformers import unwrapped

METHODS: dict[str, dict[str, Any]] = {
    "bilevel-zofo": {"name": "bilevel-zofo", "inner_steps": 1, "lr_theta": 1e-3, "lr_s": 1e-2},
    "mezo": {"name": "mezo", "lr": 1e-3},
    "fo-ft": {"name": "fo-ft", "lr": 1e-3},
}


class Seen(TrainerCallback):
    """theta as it was when a checkpoint was saved."""

    def __init__(self) -> None:
        self.theta: dict[int, dict[str, torch.Tensor]] = {}

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        weights = {name.replace(".base_layer", ""): p.detach().clone() for name, p in model.named_parameters()}
        self.theta[state.global_step] = {name.rpartition("base_model.model.")[2]: w for name, w in weights.items()}


@pytest.fixture(scope="module", params=sorted(METHODS))
def made(request: Any, tmp_path_factory: Any, tiny_model_dir: Path) -> tuple[Path, Seen, dict[str, float]]:
    """(a finished run of eight steps, what its checkpoints were, the numbers of its best)."""
    root, seen = tmp_path_factory.mktemp(request.param), Seen()
    rows = write_rows(root / "rows.jsonl", sentiment_rows(40))
    method = METHODS[request.param]
    run = finetune(
        str(tiny_model_dir),
        str(rows),
        method,
        output_dir=root / "run",
        callbacks=[seen],
        save_total_limit=None,
        **SMALL,
    )
    return run.path, seen, run.test


@pytest.fixture
def run(made: tuple[Path, Seen, dict[str, float]], tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(made[0], tmp_path / "unspoilt")
    yield made[0]
    shutil.rmtree(made[0])
    shutil.copytree(tmp_path / "unspoilt", made[0])


def test_the_best_so_far(run: Path, made: tuple[Path, Seen, dict[str, float]], tmp_path: Path, caplog: Any) -> None:
    """Of a run that was cut after its last checkpoint it is what the run deploys when it is finished."""
    whole = generate(run, ["a warm"], max_new_tokens=4)
    export(run, tmp_path / "whole")
    best = json.loads((run / "run.json").read_text())["best_step"]
    (run / "run.json").unlink()
    caplog.clear()
    assert evaluate(run) == pytest.approx(made[2], rel=1e-6)
    words = f"{run}: the run is not finished; this is the best of its evaluations so far, step {best}"
    assert [r.levelno for r in caplog.records if r.getMessage() == words] == [logging.WARNING]
    assert generate(run, ["a warm"], max_new_tokens=4) == whole
    export(run, tmp_path / "so far")
    for path in (tmp_path / "whole").rglob("*.safetensors"):
        again = tmp_path / "so far" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == again.read_bytes()
    assert "Test: not measured" in (tmp_path / "so far" / "README.md").read_text()


def test_a_checkpoint(run: Path, made: tuple[Path, Seen, dict[str, float]], tmp_path: Path) -> None:
    """theta bit for bit as it was when it was saved, its adapters; finished or not."""
    _, seen, _ = made
    for finished in (True, False):
        for step in (4, 8):
            model, _ = load(run / f"checkpoint-{step}", "theta")
            for name, weights in unwrapped(model).named_parameters():
                assert torch.equal(weights, seen.theta[step][name]), (step, name)
        if finished:
            (run / "run.json").unlink()
    numbers = evaluate(run / "checkpoint-4", split="dev")
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    dev = {row["candidate"]: row for row in logged if row["event"] == "dev" and row["step"] == 4}
    assert any(numbers["loss"] == pytest.approx(row["loss"], rel=1e-6) for row in dev.values())
    assert command_line(["eval", str(run / "checkpoint-4"), "--limit", "3"]) == 0
    assert command_line(["generate", str(run / "checkpoint-4"), "--prompt", "a warm", "--max-new-tokens", "2"]) == 0
    assert command_line(["export", str(run / "checkpoint-4"), str(tmp_path / "out")]) == 0
    load(tmp_path / "out")


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"best-.*: no checkpoint of the run in .*run, which has checkpoint-4, check"):
        evaluate(next(run.glob("best-*")))
    with pytest.raises(InputError, match="no checkpoint of the run"):
        evaluate(shutil.copytree(run / "checkpoint-4", run / "checkpoint-5"))
    shutil.rmtree(run / "checkpoint-5")
    state = run / "checkpoint-8" / "state.json"
    state.write_bytes(state.read_bytes()[:-20])
    with pytest.raises(InputError, match="checkpoint-8"):
        evaluate(run / "checkpoint-8")
    (run / "run.json").unlink()
    assert evaluate(run)["n"], "the one before it is whole"
    shutil.rmtree(run / "checkpoint-4")
    with pytest.raises(InputError, match="checkpoint-8"):
        evaluate(run)
    shutil.rmtree(run / "checkpoint-8")
    with pytest.raises(InputError, match="stopped before the first checkpoint"):
        evaluate(run)

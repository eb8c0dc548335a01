"""What is logged, evaluated, saved, selected or called back, and how often, never changes what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.conftest import read_rows
from tests.family_runs import METHODS, Watch
from tests.setting_files import task_args
from tests.small_setting import train_args
from zofo import finetune
from zofo.cli import main as cli
from zofo.train import callbacks

STEPS = 12  # counted; two-stage with T = 2 has 8 of them in stage 1
METHOD_MASKS = [
    ("two-stage", "sensitivity", {}),
    ("two-stage", "magnitude", {"refresh": 2}),
    ("bilevel-zofo", "sensitivity", {}),
    ("mezo", "blocks", {}),
    ("fo-ft", "none", {}),
]
EVERY_MASK = [
    ("none", {}),
    ("sensitivity", {}),
    ("magnitude", {"refresh": 2}),
    ("random", {"refresh": 2}),
    ("blocks", {"refresh": 2}),
]
ZEROTH_ORDER = ("mezo", "two-stage", "bilevel-zofo", "bilevel-ablations")
ESTIMATORS = ("spsa", "subzero", "lozo", "svrg")


class AsksForAll(TrainerCallback):
    """Wishes an evaluation and a save at every step, before the first one too."""

    def wish(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_evaluate = control.should_save = control.should_log = True

    on_train_begin = on_step_end = wish


def trained(
    model: Path, rows: Path, out: Path, busy: bool, method: str, overrides: list[str], mask: str, settings: Any
) -> dict[str, Any]:
    """The bytes of a run's last state: journal, adapters, the digests of all tensors of the model in memory."""
    often = 1 if busy else STEPS
    watch = Watch()
    masks = [] if mask == "none" else [f"mask={mask}", *(f"mask.{key}={value}" for key, value in settings.items())]
    metric = ["train.select_by=metric"] if busy else []
    finetune(
        str(model),
        str(rows),
        {"name": method, **METHODS.get(method, METHODS["bilevel-zofo"])},
        output_dir=out,
        max_steps=STEPS,
        batch_size=4,
        eval_steps=often,
        save_steps=often,
        logging_steps=often,
        callbacks=[watch, *([AsksForAll] if busy else [])],
        overrides=["model.device=cpu", "model.dtype=bfloat16", *metric, *masks, *overrides],
    )
    evaluations = [line for line in read_rows(out / "metrics.jsonl") if line["event"] == "dev"]
    assert len({line["step"] for line in evaluations}) >= (4 if busy else 1)
    last = out / f"checkpoint-{STEPS}"
    files = {str(p.relative_to(last)): p.read_bytes() for p in sorted(last.rglob("adapter_model.safetensors"))}
    journal = out / "journal.bin"
    return {"journal": journal.read_bytes() if journal.is_file() else b"", "files": files, "tensors": watch.final}


def compare(model: Path, rows: Path, tmp_path: Path, method: str, mask: str, settings: Any, *overrides: str) -> None:
    rare, busy = (
        trained(model, rows, tmp_path / str(busy), busy, method, list(overrides), mask, settings)
        for busy in (False, True)
    )
    assert busy["journal"] == rare["journal"]
    assert busy["files"] == rare["files"]
    assert busy["tensors"] == rare["tensors"]


@pytest.mark.parametrize(("method", "mask", "settings"), METHOD_MASKS)
def test_how_often_a_run_is_looked_at_leaves_its_bytes_alone(
    method: str, mask: str, settings: dict[str, Any], tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    compare(tiny_model_dir, sentiment_file, tmp_path, method, mask, settings)


def state_of(out: Path, step: int) -> dict[str, bytes]:
    """Journal, adapters, theta and optimizer state of a run's checkpoint."""
    last = out / f"checkpoint-{step}"
    kept = {str(p.relative_to(last)): p.read_bytes() for p in sorted(last.rglob("*.safetensors"))}
    journal = out / "journal.bin"
    return kept | ({"journal": journal.read_bytes()} if journal.is_file() else {})


@pytest.mark.parametrize("name", ["bank", "metaicl", "multi-task-ft"])
def test_methods_of_settings(
    name: str, tmp_path: Path, tiny_model_dir: Path, small_setting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """meta-bilevel-zofo, metaicl and multi-task-ft: looked at after every round, or at the end alone; after a dry run,
    and with a reporter."""
    rare = ["train.eval_steps=6", "train.save_steps=6", "train.logging_steps=6"]
    busy = ["train.eval_steps=1", "train.save_steps=1", "train.logging_steps=1", "train.select_by=metric"]
    monkeypatch.setattr(callbacks, "_reporters", lambda names: [AsksForAll] if names else [])  # none is installed
    states = []
    for number, cadence in enumerate((rare, [*busy, "train.report_to=[tensorboard]"])):
        out = tmp_path / str(number)
        args = train_args(tiny_model_dir, task_args(small_setting), out, name, *cadence)
        if number:
            assert cli.run([*args, "--dry-run"]) == 0
            assert not out.exists()
        assert cli.run(args) == 0
        states.append(state_of(out, 6))
    assert states[0]
    assert states[0] == states[1]


@pytest.mark.slow
@pytest.mark.parametrize(("mask", "settings"), EVERY_MASK)
@pytest.mark.parametrize("method", ZEROTH_ORDER)
def test_every_method_with_every_mask(
    method: str, mask: str, settings: dict[str, Any], tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    compare(tiny_model_dir, sentiment_file, tmp_path, method, mask, settings, "estimator.q=2")


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["momentum", "adam", "conservative"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("method", ["mezo", "two-stage"])
def test_every_estimator_that_keeps_something(
    method: str, estimator: str, rule: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    more = ["estimator.refresh=2"] if estimator != "spsa" else []
    more += ["estimator.rank=2"] if estimator in ("subzero", "lozo") else []
    compare(
        tiny_model_dir, sentiment_file, tmp_path, method, "none", {}, f"estimator={estimator}", f"rule={rule}", *more
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("method", ["fo-ft", "fo-peft", "bilevel-fo", "two-stage"])
def test_every_dtype_and_first_order_method(
    method: str, dtype: str, tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    mask = "sensitivity" if method in ("fo-ft", "two-stage") else "none"
    compare(tiny_model_dir, sentiment_file, tmp_path, method, mask, {}, f"model.dtype={dtype}")

"""The verb memory on a setting: an adapter pair for each training task, from rows or from none."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.setting_files import task_args
from tests.small_setting import METHODS, TRAIN, best_s
from zofo.cli import main as cli


def prediction(*args: str) -> dict[str, Any]:
    """What `zofo memory ARGS` predicts."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert cli.run(["memory", "--json", *args]) == 0
    return json.loads(text.getvalue())["predicted"][0]


def adapter_bytes(predicted: dict[str, Any]) -> int:
    (size,) = {phase["adapters"] for phase in predicted["phases"].values()}
    return size


@pytest.fixture(scope="module")
def with_a_directory(small_setting: Path, tiny_model_dir: Path) -> dict[str, Any]:
    """The prediction for a bank, with the data's directory as train, validate and eval take it."""
    return prediction("--model", str(tiny_model_dir), *task_args(small_setting), *METHODS["bank"], *TRAIN)


def test_memory_counts_an_adapter_for_each_task(
    small_setting: Path, tiny_model_dir: Path, run_of: Any, with_a_directory: dict[str, Any]
) -> None:
    """Three training tasks are left beside the held-out one: three pairs in the bank, one where it is shared."""
    task = ["--task", str(small_setting), f"task.data={small_setting.parent / 'data'}"]
    shared = prediction("--model", str(tiny_model_dir), *task, *METHODS["shared"], *TRAIN)
    file = best_s(run_of("shared")) / "adapter_model.safetensors"
    one = sum(tensor.numel() * tensor.element_size() for tensor in load_file(file).values())
    assert adapter_bytes(shared) == 2 * one, shared
    assert adapter_bytes(with_a_directory) == 3 * 2 * one, with_a_directory


def test_memory_takes_a_directory_of_data(with_a_directory: dict[str, Any]) -> None:
    """As train, validate and eval do."""
    assert with_a_directory["method"] == "meta-bilevel-zofo"


@pytest.mark.slow
def test_memory_of_made_up_rows_of_a_setting(tiny_model_dir: Path) -> None:
    """No data is read: an adapter pair for each of the 43 training tasks, but the one held out."""
    method = ["--method", "meta-bilevel-zofo", "--adapter", "lora", "adapter.r=2"]
    predicted = prediction("--model", str(tiny_model_dir), "--task", "class-to-class", "--length", "32", *method)
    assert predicted["phases"]["zeroth-order forward"]["adapters"] in (42 * 2 * 1792, 43 * 2 * 1792)

"""Output that goes away: a run goes on and is saved, what prints its result stops with an exit code that says so."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zofo.cli.streams import Guarded

ZOFO = [sys.executable, "-m", "zofo"]


def train(model: Path, rows: Path, out: Path) -> str:
    command = [*ZOFO, "train", "--model", str(model), "--task", str(rows), "--method", "mezo", "--output-dir", str(out)]
    return " ".join([*command, "--max-steps", "6", "train.batch_size=4", "train.logging_steps=1", "train.eval_steps=2"])


def bash(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONUNBUFFERED": ""}
    )


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("2>&1 | head -1; exit ${PIPESTATUS[0]}", id="head"),
        pytest.param(">/dev/full 2>/dev/full", id="full"),
        pytest.param(">&- 2>&-", id="closed"),
    ],
)
def test_a_run_goes_on_without_a_reader(where: str, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    """`| head -1` would otherwise stop it unsaved, and with success."""
    done = bash(f"{train(tiny_model_dir, sentiment_file, tmp_path / 'out')} {where}")
    assert done.returncode == 0, done.stderr
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    assert info["steps"]["upper"] == 6
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("where", "code"),
    [("| true; exit ${PIPESTATUS[0]}", 141), (">/dev/full", 1), (">&-", 1)],
    ids=["pipe", "full", "closed"],
)
def test_a_result_that_nobody_gets_is_no_success(
    where: str, code: int, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    command = " ".join([*ZOFO, "eval", str(tiny_model_dir), "--task", str(sentiment_file), "--limit", "4"])
    done = bash(f"{command} {where}")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert any(line.startswith("error: ") for line in done.stderr.splitlines())


def test_what_is_written_after_the_loss_is_dropped() -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    inner = Full()
    stream = Guarded(inner)
    stream.write("a")
    stream.flush()
    assert stream.write("b") == 1
    assert inner.getvalue() == "a"
    assert stream.lost is not None
    assert stream.lost.errno == 28
    closed = io.StringIO()
    closed.close()
    told: list[OSError] = []
    Guarded(closed, told.append).write("a")
    assert len(told) == 1

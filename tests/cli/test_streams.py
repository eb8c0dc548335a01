"""Output that goes away: a run goes on and is saved, what prints its result stops with an exit code that says so."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests import forked
from zofo.cli.streams import Guarded

FULL = Path("/dev/full")


def train(model: Path, rows: Path, out: Path) -> list[str]:
    places = ["--model", str(model), "--task", str(rows), "--method", "mezo", "--output-dir", str(out)]
    return ["train", *places, "--max-steps", "6", "train.batch_size=4", "train.logging_steps=1", "train.eval_steps=2"]


def score(model: Path, rows: Path) -> list[str]:
    return ["eval", str(model), "--task", str(rows), "--limit", "4"]


def bash(args: list[str], where: str) -> subprocess.CompletedProcess[str]:
    """The command line as a shell starts it."""
    command = f"{shlex.join([sys.executable, '-m', 'zofo', *args])} {where}"
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600, env=env)


def without_a_reader() -> Connection:
    """The end of a pipe whose other end nobody reads any more."""
    reader, writer = forked.SERVER.Pipe(duplex=False)
    reader.close()
    return writer


def saved(out: Path) -> bool:
    return json.loads((out / "run.json").read_text())["steps"]["upper"] == 6


@pytest.mark.parametrize("where", ["pipe", "full", "closed"])
def test_a_run_goes_on_without_a_reader(where: str, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    """Without a reader it would otherwise stop unsaved, and with success."""
    ends = {"pipe": (without_a_reader(), without_a_reader()), "full": (FULL, FULL), "closed": (None, None)}
    args = train(tiny_model_dir, sentiment_file, tmp_path / "out")
    assert forked.run(forked.zofo_main, *args, streams=ends[where]).returncode == 0
    assert saved(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["2>&1 | head -1; exit ${PIPESTATUS[0]}", ">/dev/full 2>/dev/full", ">&- 2>&-"])
def test_a_run_goes_on_in_a_shell(where: str, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    done = bash(train(tiny_model_dir, sentiment_file, tmp_path / "out"), where)
    assert done.returncode == 0, done.stderr
    assert saved(tmp_path / "out")
    assert "Traceback" not in done.stdout + done.stderr


def has_its_words(code: int, shown: str) -> bool:
    said = code == 141 or any(line.startswith("error: ") for line in shown.splitlines())
    return said and "Traceback" not in shown


@pytest.mark.parametrize(("where", "code"), [("pipe", 141), ("full", 1), ("closed", 1)])
def test_a_result_that_nobody_gets_is_no_success(
    where: str, code: int, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path
) -> None:
    ends = {"pipe": without_a_reader(), "full": FULL, "closed": None}
    args = score(tiny_model_dir, sentiment_file)
    done = forked.run(forked.zofo_main, *args, streams=(ends[where], tmp_path / "err"))
    shown = (tmp_path / "err").read_text()
    assert done.returncode == code, shown
    assert has_its_words(code, shown)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "code"),
    [("| true; exit ${PIPESTATUS[0]}", 141), (">/dev/full", 1), (">&-", 1)],
    ids=["pipe", "full", "closed"],
)
def test_a_result_that_nobody_gets_in_a_shell(
    where: str, code: int, tiny_model_dir: Path, sentiment_file: Path
) -> None:
    done = bash(score(tiny_model_dir, sentiment_file), where)
    assert done.returncode == code, done.stderr
    assert has_its_words(code, done.stderr)


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

"""No verb says a line twice, nor in a second line what the first one said: of a run that ends well or fails, of odd
rows and of damaged files."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentiment_rows, write_rows
from zofo.cli.main import run as command_line
from zofo.objectives._loss import Loss

SMALL = ["train.max_steps=8", "train.batch_size=4", "train.eval_steps=4", "train.save_steps=4", "train.logging_steps=2"]
LONG = 40  # characters of a clause that says something
Say = Callable[..., list[str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Say:
    """say(code, *args) -> all lines that a user sees of `zofo ARGS`, warnings too; none is there twice."""

    def call(code: int, *args: object) -> list[str]:
        capsys.readouterr()
        caplog.clear()
        assert command_line([str(arg) for arg in args]) == code
        shown = capsys.readouterr()
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        lines = [*told, *shown.err.splitlines(), *shown.out.splitlines()]
        assert repeated(lines) == []
        return lines

    return call


def repeated(lines: list[str]) -> list[str]:
    """Lines, and what they say before they say what to do, that another line has as well, in its words of before or
    after: a warning in the end that the error says again. Words of the progress are of their steps."""
    said = [
        re.sub(r"^(warning: |error: )?(step \d+: )?", "", line) for line in lines if not line.startswith("    ")
    ]  # answers of examples
    heads = [line.partition(";")[0].removesuffix(")").rpartition(" (")[0] or line.partition(";")[0] for line in said]
    return [
        head
        for number, head in enumerate(heads)
        if len(head) >= LONG and any(head in line for other, line in enumerate(said) if other != number)
    ]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", sentiment_rows(40))


@pytest.fixture
def start(tiny_model_dir: Path, rows: Path, tmp_path: Path) -> list[object]:
    return ["train", "--model", tiny_model_dir, "--task", rows, "--output-dir", tmp_path / "run", *SMALL]


def opened(say: Say, run: Path, tmp_path: Path, code: int = 0) -> None:
    say(code, "validate", run)
    for number, extra in enumerate(([], ["--adapter", "theta"])):
        say(0, "eval", run, *extra)
        say(0, "generate", run, "--prompt", "a", "--max-new-tokens", 1, *extra)
        out = tmp_path / f"export-{number}"
        say(0, "export", run, out, *extra)
        say(0, "eval", out)
        say(0, "generate", out, "--prompt", "a", "--max-new-tokens", 1)
        say(2, "export", run, out)
        say(0, "export", run, out, "--overwrite", *extra)


def test_of_a_run_that_ends_well(say: Say, start: list[object], tmp_path: Path) -> None:
    say(0, *start, "--method", "bilevel-zofo", "method.inner_steps=1", "--dry-run")
    say(0, *start, "--method", "bilevel-zofo", "method.inner_steps=1")
    opened(say, tmp_path / "run", tmp_path)
    say(2, *start, "--method", "bilevel-zofo", "method.inner_steps=1")
    say(0, "train", "--resume", "latest", "--output-dir", tmp_path / "run", "train.max_steps=12", "train.batch_size=4")
    for path in (tmp_path / "run").glob("checkpoint-*"):
        (path / "state.json").write_text("{")
    say(2, "validate", tmp_path / "run")
    say(2, "train", "--resume", "latest", "--output-dir", tmp_path / "run")


@pytest.mark.parametrize(
    "more",
    [
        ["--method", "mezo", "method.lr=1e30"],
        pytest.param(["--method", "mezo", "estimator.eps=1e-30"], marks=pytest.mark.slow),
        ["--method", "mezo", "method.lr=1e30", "--adapter", "lora", "train.on_nonfinite=skip"],
        pytest.param(["--method", "fo-peft", "train.on_nonfinite=skip"], marks=pytest.mark.slow),
        ["--method", "bilevel-zofo", "method.inner_steps=1", "train.on_nonfinite=halve"],
    ],
    ids=["ruined", "lost", "broken", "skipped", "halved"],
)
def test_of_a_run_that_fails(
    more: list[str],
    say: Say,
    start: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        if ("train.on_nonfinite=skip" in more and "--adapter" not in more) or "train.on_nonfinite=halve" in more:
            backward, calls = Loss.backward, [0]

            def spoilt(self: Any, batch: Any, scale: float = 1.0) -> float:
                calls[0] += 1
                if calls[0] > 3:
                    from zofo.errors import NonFiniteError

                    raise NonFiniteError("the loss is nan")
                return backward(self, batch, scale)

            patch.setattr(Loss, "backward", spoilt)
        say(1, *start, *more)
    run = tmp_path / "run"
    if (run / "run.json").exists():
        opened(say, run, tmp_path, 1)
        say(1, "train", "--resume", "latest", "--output-dir", run)
    say(2, *start, *more)


def test_of_odd_rows(say: Say, start: list[object], rows: Path, tmp_path: Path) -> None:
    """Slips of labels, repeated rows, rows that are left out, ends in blanks."""
    made = [*sentiment_rows(40), {"text": "so so", "label": "greta"}, {"text": "so so", "label": "greta"}]
    made += [
        {"text": "", "label": "great"},
        {"text": "long " * 400, "label": "great"},
        {"text": "end", "label": "great "},
    ]
    write_rows(rows, made)
    odd = ["--method", "fo-peft", "task.on_bad_row=skip"]
    say(0, *start, *odd, "--dry-run")
    say(0, *start, *odd)
    for split in ("train", "dev", "test"):
        say(0, "eval", tmp_path / "run", "--split", split)
    say(0, "eval", tmp_path / "run", "--task", rows, "task.on_bad_row=skip")
    say(0, "eval", tmp_path / "run", "--data", shutil.copy(rows, tmp_path / "moved.jsonl"))
    (tmp_path / "other.jsonl").write_text("".join(rows.read_text().splitlines(keepends=True)[:30]))
    say(0, "eval", tmp_path / "run", "--task", tmp_path / "other.jsonl")
    say(0, "validate", tmp_path / "run")


def test_of_a_run_whose_files_are_not_its_own(say: Say, start: list[object], tmp_path: Path) -> None:
    say(0, *start, "--method", "fo-peft")
    run = tmp_path / "run"
    (run / "metrics.jsonl").unlink()
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "seed": 5}))
    for best in run.glob("best-*"):
        (best / "manifest.json").unlink()
    say(2, "validate", run)
    for verb in (["eval", run], ["export", run, tmp_path / "out"], ["generate", run, "--prompt", "a"]):
        say(2, *verb)

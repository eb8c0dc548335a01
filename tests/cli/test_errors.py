"""Faults on the command line: one clear line each, and the exit code."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import TRAIN, fake_module, zofo
from zofo.cli import main as cli
from zofo.cli.errors import failure
from zofo.errors import InputError, RunError


def failing(error: BaseException) -> Callable[..., Any]:
    def train(*_: Any) -> None:
        raise error

    return train


def test_wrong_input_exits_2_with_every_fault_and_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: m\ntask: sst2\nmethod: {name: bilevel-zofo, lamda: 3, lr_s: -1}\ntrain: {batch_size: many}\n"
    )
    done = zofo("validate", str(file))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        'error: method.lamda: unknown field; did you mean "method.lam"?',
        "error: method.lr_s: must be >= 0, got -1",
        "error: train.output_dir: required; give --output-dir or train.output_dir=...",
        'error: train.batch_size: expected an integer, got "many"',
    ]


def test_debug_shows_the_traceback_anywhere_on_the_line() -> None:
    for args, env in (
        (["--debug", "show", "x"], {}),
        (["show", "x", "--debug"], {}),
        (["show", "x"], {"ZOFO_DEBUG": "1"}),
    ):
        done = zofo(*args, **env)
        assert done.returncode == 2
        assert "Traceback" in done.stderr
        assert "error: nothing is called" in done.stderr


# ---- in this process

FREE = "free some and give the same command again, to a training with a checkpoint with --resume latest"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "--modle", "x"], "No such option: --modle"),
        (["train", "--seed", "x"], "Invalid value for '--seed'"),
        (["train", "none.yaml"], "config file none.yaml: no such file"),
        (["train"], "no configuration: give a CONFIG.yaml, --preset NAME, or --model, --task and --method"),
        (["train", "--resume", "latest"], "--resume latest: give --output-dir"),
        (["train", "--resume", "latest", "--output-dir", "nowhere"], "--resume: nowhere holds no config.yaml"),
        (["ls", "metods"], 'unknown kind "metods"; did you mean "methods"? known: methods, '),
        (["show", "bilevel-zof"], 'nothing is called "bilevel-zof"; did you mean "bilevel-zofo"?'),
        (
            [*TRAIN[:5], "--method", "mezoo", "--output-dir", "o"],
            'method.name: unknown method "mezoo"; did you mean "mezo"?',
        ),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(args: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {line}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a: wrong\nb: wrong"), 2, "error: a: wrong\nerror: b: wrong"),
        (RunError("loss is NaN at step 3"), 1, "error: loss is NaN at step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/x"),
            1,
            f"error: no space left on device: out/x; {FREE}",
        ),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            1,
            f"error: no space left on device: the output directory's disk is full; {FREE}",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: /x: permission denied"),
        (ValueError("odd"), 1, "error: ValueError: odd (this is a bug or a missing check: --debug shows where)"),
    ],
)
def test_failures_of_a_verb(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_module("zofo.api.finetune", monkeypatch, train=failing(error))
    assert cli.run(TRAIN) == code
    assert capsys.readouterr().err.strip() == line


def test_no_space_is_recognised_inside_another_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "out/checkpoint-5")
        except OSError as cause:
            raise RuntimeError("could not save") from cause

    fake_module("zofo.api.finetune", monkeypatch, train=train)
    assert cli.run(TRAIN) == 1
    assert "error: no space left on device: out/checkpoint-5; free some" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a \x1b[2J b", r"a \x1b[2J b"),
        ("a \u202e b \u2066", r"a \u202e b \u2066"),
        ("a \ud800 b \x9b", r"a \ud800 b \x9b"),
        ("a \r b \x00", r"a \r b \x00"),
        ("caf\u00e9 \u2713 \u6620\u753b \U0001f600", "caf\u00e9 \u2713 \u6620\u753b \U0001f600"),
    ],
)
@pytest.mark.parametrize("kind", [InputError, RunError, OSError, KeyError])
def test_no_line_steers_the_terminal(kind: type[Exception], text: str, shown: str) -> None:
    (line,), _ = failure(OSError(2, "none", text) if kind is OSError else kind(text))
    assert shown in line.replace("\\\\", "\\")
    assert line.isprintable()


def test_no_line_fills_the_screen() -> None:
    (line,), code = failure(InputError("x" * 10**6))
    assert (len(line) < 1000, code) == (True, 2)
    assert failure(InputError("one\ntwo"))[0] == ["one", "two"]


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.ENOENT, errno.EACCES])
def test_paths_that_cannot_be_are_the_users(number: int) -> None:
    assert failure(OSError(number, os.strerror(number), "a/b"))[1] == 2
    assert failure(OSError(errno.EIO, "input/output error", "a/b"))[1] == 1

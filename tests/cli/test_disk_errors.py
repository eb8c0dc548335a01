"""What the operating system says of a disk reaches a person in one line that names the file, whoever met it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo.cli import main as cli
from zofo.cli.errors import failure
from zofo.models.tensors import save_tensors
from zofo.train.files import delete_tree, naming, write_json

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ENOENT)


def said(act: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        act()
    lines, code = failure(caught.value)
    assert code in (1, 2)
    (line,) = lines
    assert "bug" not in line
    return line


@pytest.mark.parametrize("code", CODES)
def test_whoever_meets_it(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"

    def fail(error: Exception) -> None:
        with naming(path):
            raise error

    for error in (
        OSError(code, os.strerror(code)),
        Exception(f"Failed to save: {os.strerror(code)} (os error {code})"),  # of tokenizers
        ValueError(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})"),  # of safetensors
    ):
        assert str(path) in said(lambda error=error: fail(error))
    other = OSError(code, os.strerror(code), "/some/other")
    assert "/some/other" in said(lambda: fail(other))
    assert "does not name" in said(lambda: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(ZeroDivisionError), naming(path):
        raise ZeroDivisionError

    def fsync(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    assert str(path) in said(lambda: write_json(path, {}))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_the_standard_librarys_removal_names_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)

    def rmdir(path: Any, **kwargs: Any) -> None:
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(os, "rmdir", rmdir)
    assert str(tmp_path / "a") in said(lambda: delete_tree(tmp_path / "a"))


def test_tensors_in_a_directory_that_went(tmp_path: Path) -> None:
    assert str(tmp_path / "gone") in said(lambda: save_tensors({}, tmp_path / "gone" / "a.safetensors"))


@pytest.mark.parametrize(
    ("name", "number"), [("fsync", 3), ("fsync", 12), ("replace", 2), ("replace", 9), ("rename", 1)]
)
def test_a_run_that_meets_it(
    name: str,
    number: int,
    tiny_model_dir: Path,
    sentiment_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, real = [0], getattr(os, name)

    def broken(*args: Any, **kwargs: Any) -> Any:
        made[0] += 1
        if made[0] >= number:
            raise OSError(errno.EIO, os.strerror(errno.EIO), *([args[0]] if name != "fsync" else []))
        return real(*args, **kwargs)

    out = tmp_path / "out"
    args = ["train", "--model", str(tiny_model_dir), "--task", str(sentiment_file), "--method", "mezo"]
    args += ["--output-dir", str(out), "--max-steps", "4", "train.batch_size=4", "train.eval_steps=2"]
    args += ["train.save_steps=2", "task.test_examples=4", "task.dev_examples=4"]
    monkeypatch.setattr(os, name, broken)
    assert cli.run(args) == 1
    monkeypatch.undo()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(out) in line
    assert "input/output error" in line
    assert cli.run([*args, *(["--resume", "latest"] if any(out.glob("checkpoint-*")) else ["--overwrite"])]) == 0
    assert not list(out.rglob(".*"))

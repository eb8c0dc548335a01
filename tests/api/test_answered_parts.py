"""A prediction that is killed, changed or overtaken: each row is answered once, and nothing of others is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows, write_rows
from tests.unanswered import ROWS, names, predicted, sentiment_run, small_parts
from zofo import InputError, RunError, predict_file
from zofo.api import answered_parts
from zofo.train import lease

predict_file_module: Any = import_module("zofo.api.predict_file")


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return sentiment_run(tiny_model_dir, tmp_path_factory.mktemp("predicted"))


@pytest.fixture(autouse=True)
def four_rows_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def uncut(run: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return predicted(run, tmp_path_factory.mktemp("uncut"))


class KilledError(BaseException):
    pass


class Killer:
    """Ends the process right before the nth change of a file's name, as SIGKILL would: nothing is tidied up."""

    def __init__(self, at: int, patch: pytest.MonkeyPatch) -> None:
        self.left, self.dead = at, False
        for name in ("replace", "rename", "link", "unlink", "mkdir", "rmdir"):
            patch.setattr(os, name, self._watched(getattr(os, name)))

    def _watched(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **settings: Any) -> Any:
            self.left -= 1
            if self.dead or self.left < 0:
                self.dead = True
                raise KilledError
            return act(*args, **settings)

        return watched


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """lives() -> what this process has done before is another's, which is gone."""
    life = 0

    def another() -> None:
        nonlocal life
        life += 1

    monkeypatch.setattr(lease, "_born", lambda pid: life)
    return another


@pytest.fixture
def open_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is read once for all commands of a test that are the same."""
    kept: dict[str, Any] = {}
    original = predict_file_module.open_predictor

    def opened(target: Path, asked: Any, *rest: Any) -> Any:
        key = repr((target, asked))
        if key not in kept:
            kept[key] = original(target, asked, *rest)
        return kept[key]

    monkeypatch.setattr(predict_file_module, "open_predictor", opened)


@pytest.mark.parametrize("there", [False, True], ids=["new", "in the place of another"])
@pytest.mark.usefixtures("open_once")
def test_killed_anywhere(
    there: bool, run: Path, rows: Path, uncut: bytes, tmp_path: Path, lives: Callable[[], None]
) -> None:
    """At the first change of a file's name, the second, ...: the same command ends with the bytes of one that nobody
    killed, and leaves nothing else."""
    before, dead, at = b"what was there before\n", True, 0
    while dead:
        out = tmp_path / str(at) / "out.jsonl"
        out.parent.mkdir()
        if there:
            out.write_bytes(before)
        lives()
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(at, patch)
            with suppress(KilledError):
                predict_file(run, rows, out, overwrite=there)
        lives()
        dead = killer.dead
        if out.exists():  # never half of it
            assert out.read_bytes() in ((uncut, before) if there else (uncut,))
        begun = (out.parent / ".out.jsonl.parts" / "plan.json").is_file()
        if out.exists() and not begun and not there:  # all was done, but for an empty directory
            assert not dead or out.read_bytes() == uncut
            with pytest.raises(InputError, match="is there already"):
                predict_file(run, rows, out)
        else:
            summary = predict_file(run, rows, out, overwrite=there)
            assert (summary["rows"], sum(summary["predictions"].values())) == (11, 11)
        assert out.read_bytes() == uncut
        assert names(out.parent) == ["out.jsonl"]
        at += 1
    assert at > 15


@pytest.mark.usefixtures("open_once")
def test_killed_again_and_again(run: Path, rows: Path, uncut: bytes, tmp_path: Path, lives: Any) -> None:
    out = tmp_path / "folder" / "out.jsonl"
    for at in range(6, 400, 3):
        lives()
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(at, patch)
            with suppress(KilledError):
                predict_file(run, rows, out)
        if not killer.dead:
            break
    assert out.read_bytes() == uncut
    assert names(out.parent) == ["out.jsonl"]


def stopped(run: Path, rows: Path, out: Path, another: Callable[[], None], parts: int = 1) -> None:
    """Kill a prediction when so many of its parts are there."""
    original = answered_parts.Parts._answer

    def answer(self: Any, index: int, *rest: Any) -> None:
        if index == parts:
            raise KilledError
        original(self, index, *rest)

    another()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answered_parts.Parts, "_answer", answer)
        with pytest.raises(KilledError):
            predict_file(run, rows, out)
    another()


def test_a_part_is_answered_once(run: Path, rows: Path, uncut: bytes, tmp_path: Path, lives: Any) -> None:
    out = tmp_path / "out.jsonl"
    stopped(run, rows, out, lives, parts=2)
    parts = tmp_path / ".out.jsonl.parts"
    assert len(list(parts.glob("*.jsonl"))) == 2
    (parts / "000000.jsonl").write_bytes((parts / "000000.jsonl").read_bytes().replace(b"film 0", b"film O"))
    predict_file(run, rows, out)
    assert out.read_bytes() == uncut.replace(b"film 0", b"film O", 1), "it was not made again"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rows": ROWS[:10]}, "rows"),
        ({"rows": [*ROWS[:10], {**ROWS[10], "note": "other"}]}, "rows"),
        ({"overrides": ["task.scoring=sum"]}, "settings"),
        ({"prefix": "zofo_"}, "settings"),
        ({"seed": 7}, "settings"),
        ({"target": True}, "target"),
    ],
    ids=str,
)
def test_what_was_changed_meanwhile_is_named(
    change: dict[str, Any], named: str, run: Path, rows: Path, tmp_path: Path, lives: Any
) -> None:
    out, change = tmp_path / "out.jsonl", dict(change)
    target = shutil.copytree(run, tmp_path / "copied")
    stopped(target, rows, out, lives)
    if "rows" in change:
        write_rows(rows, change.pop("rows"))
    if change.pop("target", False):
        os.utime(target / "run.json", ns=(0, 0))
    with pytest.raises(
        InputError, match=rf"out.jsonl: a prediction was begun with another {named}; --overwrite begins"
    ):
        predict_file(target, rows, out, **change)
    lives()
    summary = predict_file(target, rows, out, overwrite=True, **change)
    assert summary["rows"] == len(read_rows(out)) == len(read_rows(rows))
    assert ".out.jsonl.parts" not in names(tmp_path)


def test_the_labels_changed_meanwhile(tiny_model_dir: Path, rows: Path, tmp_path: Path, lives: Any) -> None:
    """Of the file that names them, whose name stays."""
    out, labelled = tmp_path / "out.jsonl", tmp_path / "labelled.jsonl"
    write_rows(labelled, [{"text": "x", "label": label} for label in ("good", "bad")])
    original = answered_parts.Parts._answer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            answered_parts.Parts, "_answer", lambda self, index, *a: 1 / 0 if index else original(self, index, *a)
        )
        with pytest.raises(ZeroDivisionError):
            predict_file(tiny_model_dir, rows, out, task=str(labelled))
    write_rows(labelled, [{"text": "x", "label": label} for label in ("good", "worse")])
    with pytest.raises(InputError, match="begun with another prompts"):
        predict_file(tiny_model_dir, rows, out, task=str(labelled))


def test_a_smaller_batch_goes_on(run: Path, rows: Path, tmp_path: Path, lives: Any) -> None:
    """As the line advises where memory ran out."""
    out = tmp_path / "out.jsonl"
    stopped(run, rows, out, lives)
    assert predict_file(run, rows, out, batch_size=2)["rows"] == 11


def test_an_output_that_came_there_meanwhile(run: Path, rows: Path, uncut: bytes, tmp_path: Path, lives: Any) -> None:
    out = tmp_path / "out.jsonl"
    stopped(run, rows, out, lives)
    out.write_text("mine\n")
    with pytest.raises(InputError, match=r"out.jsonl: came there after this prediction was begun; --overwrite"):
        predict_file(run, rows, out)
    assert out.read_text() == "mine\n"
    predict_file(run, rows, out, overwrite=True)
    assert out.read_bytes() == uncut


def test_an_output_in_the_run_s_folder(run: Path, rows: Path, uncut: bytes, tmp_path: Path, lives: Any) -> None:
    """What is written there makes no other target of it."""
    target = shutil.copytree(run, tmp_path / "copied")
    stopped(target, rows, target / "out.jsonl", lives)
    (target / "other.json").write_text("[]")
    predict_file(target, rows, target / "out.jsonl")
    assert (target / "out.jsonl").read_bytes() == uncut


def test_a_folder_that_is_not_ours(run: Path, rows: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.jsonl.parts").mkdir()
    (tmp_path / ".out.jsonl.parts" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=r"\.parts: is no directory of zofo's"):
        predict_file(run, rows, tmp_path / "out.jsonl")
    assert names(tmp_path / ".out.jsonl.parts") == ["mine.txt"]


def test_two_at_once(run: Path, rows: Path, tmp_path: Path) -> None:
    with lease.Lease(tmp_path / ".out.jsonl.parts"):
        with pytest.raises(InputError, match=rf"\.out\.jsonl\.parts: in use by process {os.getpid()} on "):
            predict_file(run, rows, tmp_path / "out.jsonl")
        assert not (tmp_path / "out.jsonl").exists()


def test_another_process_has_taken_over(run: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that slept for long writes no part into what is another's by now."""
    monkeypatch.setattr(lease.Lease, "held", property(lambda self: False))
    with pytest.raises(RunError, match="has taken over"):
        predict_file(run, rows, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_that_come_while_it_runs(run: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = answered_parts.Parts.begin

    def begin(self: Any, *args: Any) -> bool:
        write_rows(rows, [*ROWS, {"text": "one more"}])
        return original(self, *args)

    monkeypatch.setattr(answered_parts.Parts, "begin", begin)
    with pytest.raises(RunError, match="12 rows are answered and there were 11; nothing is written"):
        predict_file(run, rows, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("nth", [0, 2, 3])
def test_a_full_disk(nth: int, run: Path, rows: Path, uncut: bytes, tmp_path: Path, lives: Any) -> None:
    """Names the file, and the same command goes on."""
    out, left = tmp_path / "out.jsonl", nth
    original = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **settings: Any) -> Any:
        nonlocal left
        if ("w" in mode and self.name.startswith(".0") and not self.name.endswith(".tmp")) or ".joined" in self.name:
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, mode, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left") as caught:
            predict_file(run, rows, out)
    assert Path(caught.value.filename).name in (f"{nth:06d}.jsonl", "out.jsonl")
    assert not out.exists()
    predict_file(run, rows, out)
    assert out.read_bytes() == uncut

"""What a kill can leave between two operations on files: the next start ends as if there had been none.

`python -m reliability.kills` does this with real kills at any operation; here are the places where it found something.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo import finetune
from zofo.train.loop import Loop
from zofo.train.run_dir import RunDir

METHODS = {"mezo": {"name": "mezo", "lr": 1e-4}, "fo-peft": {"name": "fo-peft", "lr": 1e-2}}


class Killed(BaseException):
    """Nothing catches it but the test."""


@pytest.fixture
def train(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(method: str = "mezo", out: str = "out", **options: Any) -> Path:
        given = {"max_steps": 8, "batch_size": 4, "eval_steps": 2, "save_steps": 2, "save_total_limit": 2, **options}
        few = ["task.test_examples=2", "task.dev_examples=2"]
        folder = tmp_path / out
        finetune(str(tiny_model_dir), str(sentiment_file), METHODS[method], output_dir=folder, overrides=few, **given)
        return folder

    return run


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, nth: int, after: bool = False) -> None:
    """At the nth call from now on: before it, or when it is done."""
    real, calls = getattr(owner, name), [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth and not after:
            raise Killed
        value = real(*args, **kwargs)
        if calls[0] == nth:
            raise Killed
        return value

    monkeypatch.setattr(owner, name, call)


def count(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: dict[str, int]) -> None:
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


def listing(run: Path) -> tuple[set[str], set[str]]:
    """(all files, what the manifest names)."""
    names = {str(path.relative_to(run)) for path in run.rglob("*")}
    return names, set(json.loads((run / "manifest.json").read_text("utf-8"))["files"])


def test_a_pruning_that_was_cut_is_ended_by_the_next_start(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one and the last save's, after which none follows; before a deletion, and between it and its manifest.

    No file is left over, and no name in the manifest."""
    calls = {"forget": 0, "_disclaim": 0}
    with monkeypatch.context() as patch:
        for step in calls:
            count(patch, RunDir, step, calls)
        whole = listing(train("fo-peft"))
    assert calls["forget"] >= 2
    for step, nth in (("forget", 1), ("forget", calls["forget"]), ("_disclaim", calls["_disclaim"])):
        with monkeypatch.context() as patch:
            kill_at(patch, RunDir, step, nth)
            with pytest.raises(Killed):
                train("fo-peft", f"{step}-{nth}")
        assert listing(train("fo-peft", f"{step}-{nth}", resume="latest")) == whole, (step, nth)


@pytest.mark.parametrize("again", ["latest", pytest.param("checkpoint-2", marks=pytest.mark.slow)])
def test_going_back_can_be_cut_at_any_move(
    again: str, train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With either way to start again: nothing is left aside, and no checkpoint of the line is missing."""
    run = train("mezo", "whole", save_total_limit=None)
    whole, journal = listing(run), (run / "journal.bin").read_bytes()
    for nth in range(1, 20):
        out = shutil.copytree(run, tmp_path / "out")
        with monkeypatch.context() as patch:
            kill_at(patch, Path, "rename", nth)
            patch.setattr(Loop, "fit", _killed)
            with pytest.raises(Killed):
                train("mezo", "out", save_total_limit=None, resume=str(out / "checkpoint-2"))
        moved_all = (out / "superseded" / "best-4").exists() or (out / "superseded" / "checkpoint-4").exists()
        start = again if again == "latest" else str(out / again)
        assert listing(train("mezo", "out", save_total_limit=None, resume=start)) == whole, nth
        assert (out / "journal.bin").read_bytes() == journal
        shutil.rmtree(out)
        if moved_all and nth > 8:
            return
    raise AssertionError("the moves were not all tried")


def _killed(loop: Any) -> None:
    raise Killed


def test_what_is_moved_aside_is_the_end_of_the_line(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after any move, the newest checkpoint in its place is one that everything in its place leads up to."""
    run = RunDir(train(save_total_limit=None))
    with monkeypatch.context() as patch:
        kill_at(patch, Path, "rename", 4, after=True)  # two copies, run.json, the newest checkpoint
        with pytest.raises(Killed):
            run.set_aside(2, None)
    assert [path.name for path in run.checkpoints()] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert not run.finished


@pytest.mark.parametrize("damage", ["", "{}", '{"best": 7}', '{"best": {"count": []}}', None])
def test_an_older_checkpoint_that_is_damaged_stops_no_pruning(damage: str | None, train: Callable[..., Path]) -> None:
    """And takes no best with it that it may refer to."""
    run = train(save_total_limit=None, max_steps=6)
    state = run / "checkpoint-2" / "state.json"
    state.unlink() if damage is None else state.write_text(damage, "utf-8")
    bests = {path.name for path in run.glob("best-*") if int(path.name[5:]) <= 2}
    train(save_total_limit=None, max_steps=8, resume="latest")
    assert (run / "checkpoint-8").is_dir()
    assert bests <= {path.name for path in run.glob("best-*")}


def test_what_a_run_has_pruned_is_its_users_to_make_again(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that a kill left in the manifest is taken out of it by the next start."""
    with monkeypatch.context() as patch:
        kill_at(patch, RunDir, "_disclaim", 3)  # the first is in `sweep`
        with pytest.raises(Killed):
            train("fo-peft")
    run = train("fo-peft", resume="latest")
    gone = [f"{kind}-{n}" for kind in ("best", "checkpoint") for n in (2, 4) if not (run / f"{kind}-{n}").exists()]
    assert gone
    for name in gone:
        (run / name).mkdir()
        (run / name / "photo.jpg").write_text("mine", "utf-8")
    train("fo-peft", overwrite=True, save_steps=8, eval_steps=8)
    assert all((run / name / "photo.jpg").read_text("utf-8") == "mine" for name in gone)


@pytest.mark.parametrize("left", ["everything", "the folders alone", "a file of another's"])
def test_what_is_left_of_a_deletion_is_deleted(left: str, train: Callable[..., Path]) -> None:
    """Its manifest goes last: a kill after it leaves folders that nothing names any more."""
    run = train("fo-peft")
    aside = (run / "best-2") if (run / "best-2").exists() else max(run.glob("best-*"))
    copy = shutil.copytree(aside, run / f".{aside.name}.old")
    if left != "everything":
        for path in [path for path in copy.rglob("*") if path.is_file()]:
            path.unlink()
    if left == "a file of another's":
        (copy / "p" / "photo.jpg").write_text("mine", "utf-8")
    train("fo-peft", resume="latest", max_steps=10)
    assert copy.exists() == (left == "a file of another's")

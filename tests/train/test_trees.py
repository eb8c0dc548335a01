"""A directory that is written anew: the old one, the new one, or recognisably neither; what is not zofo's stays."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo import InputError
from zofo.models.sealed import MANIFEST, PLAN, WORK, NotAsWritten, check_export, verify_tree
from zofo.train.trees import recover, remove_tree, write_tree

OLD = {
    "zofo.json": '{"inputs": {}}',
    "config.json": "old",
    "backbone/weights": "old" * 9,
    "gone": "old",
    "README.md": "o",
}
NEW = {"zofo.json": '{"inputs": {}}', "config.json": "new", "backbone/weights": "new" * 9, "more/file": "new"}
THEIRS = {"notes.txt": "mine", "backbone/mine.txt": "mine", "theirs/weights": "mine"}
CALLS = ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir")


def writer(content: dict[str, str]) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        for name, text in content.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)

    return write


def texts(directory: Path) -> dict[str, str]:
    paths = (path for path in directory.rglob("*") if path.is_file() and WORK not in path.parts)
    return {path.relative_to(directory).as_posix(): path.read_text() for path in paths if path.name != MANIFEST}


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.parametrize("new", [NEW, {**NEW, "README.md": "n"}], ids=["without one", "with one"])
def test_a_readme_that_was_edited_is_kept(new: dict[str, str], tmp_path: Path) -> None:
    """An export's is its model card, which people write."""
    write_tree(tmp_path / "out", writer(OLD))
    write_tree(tmp_path / "out", writer(OLD))
    assert texts(tmp_path / "out") == OLD, "as it was written: replaced"
    (tmp_path / "out" / "README.md").write_text("my model card")
    assert write_tree(tmp_path / "out", writer(new)) == ["README.edited.md"]
    assert texts(tmp_path / "out") == {**new, "README.edited.md": "my model card"}
    check_export(tmp_path / "out")


class Killed(BaseException):
    pass


def cut(monkeypatch: pytest.MonkeyPatch, at: int, error: Callable[[], BaseException], once: bool) -> list[int]:
    """os' operations fail from number `at` on, or at it alone. Returns a list whose first is how many there were."""
    made = [0]

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            made[0] += 1
            if made[0] == at or (made[0] > at and not once):
                raise error()
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return made


@pytest.mark.parametrize("theirs", [{}, THEIRS])
@pytest.mark.parametrize("before", [OLD, {}, None])
@pytest.mark.parametrize("how", ["killed", "one operation fails", "all fail from there"])
def test_cut_at_every_operation(
    how: str, before: dict[str, str] | None, theirs: dict[str, str], tmp_path: Path
) -> None:
    """None: no directory yet. What is not zofo's is there at every time."""
    if before is None and theirs:
        return
    wholes, number = (before or {}, NEW), 0
    while True:
        number += 1
        target = tmp_path / f"{number}"
        if before is not None:
            target.mkdir()
            if before:
                target.rmdir()
                assert write_tree(target, writer(before)) == []
            writer(theirs)(target)
        with pytest.MonkeyPatch.context() as patch:
            error = Killed if how == "killed" else lambda: OSError(5, "input/output error", "x")
            made = cut(patch, number, error, how == "one operation fails")
            try:
                stays = write_tree(target, writer(NEW))
            except (Killed, OSError):
                stays = None
        now = texts(target)
        assert theirs.items() <= now.items()
        ours = {name: text for name, text in now.items() if name not in theirs}
        if (target / MANIFEST).is_file():
            assert ours in wholes
            verify_tree(target, "")
        elif ours not in wholes or (target / WORK / PLAN).is_file():
            with pytest.raises(NotAsWritten, match="the writing of this export was cut"):
                check_export(target)
        if how == "one operation fails" and before and stays is None and ours:
            assert ours in wholes, "an error leaves one of the two at once"
        if target.is_dir():
            recover(target)
            assert {name: text for name, text in texts(target).items() if name not in theirs} in wholes
        assert write_tree(target, writer(NEW)) == sorted(theirs)
        assert texts(target) == NEW | theirs
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        shutil.rmtree(target)
        if made[0] < number:
            break
    assert number > 10


def test_a_cut_way_back_is_taken_up(tmp_path: Path) -> None:
    """Killed in the middle of the change, and again at every operation of going back."""
    for first in range(14, 34, 4):
        for second in range(1, 30):
            target = tmp_path / f"{first}-{second}"
            write_tree(target, writer(OLD))
            writer(THEIRS)(target)
            for at, act in (
                (first, lambda path=target: write_tree(path, writer(NEW))),
                (second, lambda p=target: recover(p)),
            ):
                with pytest.MonkeyPatch.context() as patch:
                    cut(patch, at, Killed, once=False)
                    with contextlib.suppress(Killed):
                        act()
            recover(target)
            assert texts(target) in (OLD | THEIRS, NEW | THEIRS)
            verify_tree(target, "")
            shutil.rmtree(target)


@pytest.mark.parametrize("name", ["more/file", "more", "config.json", "backbone"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_in_the_way_is_refused_by_name(name: str, kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    if kind == "folder" and name in ("more", "backbone"):
        return  # files go beside what is in there
    if kind == "folder":
        (target / name).mkdir(parents=True)
    else:
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text("mine") if kind == "file" else (target / name).symlink_to(tmp_path)
    with pytest.raises(InputError, match="not zofo's, and in the way") as caught:
        write_tree(target, writer(NEW))
    assert str(target / name.partition("/")[0]) in str(caught.value)
    there = target / name
    assert there.is_symlink() if kind == "link" else there.is_dir() if kind == "folder" else there.read_text() == "mine"
    assert not (target / WORK).exists()


def test_a_link_and_a_mounted_directory_are_written_in_place(tmp_path: Path) -> None:
    """The directory itself is never renamed or removed: it may be a mount, or where a link leads."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    inode = (tmp_path / "disk").stat().st_ino
    for content in (OLD, NEW):
        write_tree(tmp_path / "out", writer(content))
        assert texts(tmp_path / "disk") == content
    assert (tmp_path / "disk").stat().st_ino == inode
    assert (tmp_path / "out").is_symlink()


def test_removing_takes_what_the_manifest_names_alone(tmp_path: Path) -> None:
    write_tree(tmp_path / "checkpoint-8", writer({"state.json": "{}", "p/adapter_model.safetensors": "x"}))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "state.json").write_text("mine")
    writer({"notes.txt": "mine", "p/mine.txt": "mine", "mine/state.json": "mine"})(tmp_path / "checkpoint-8")
    (tmp_path / "checkpoint-8" / "linked").symlink_to(tmp_path / "elsewhere")
    stays = ["linked", "mine/state.json", "notes.txt", "p/mine.txt"]
    assert remove_tree(tmp_path / "checkpoint-8") == stays
    assert remove_tree(tmp_path / "checkpoint-8") == stays, "and without a manifest nothing of theirs either"
    assert (tmp_path / "elsewhere" / "state.json").read_text() == "mine"
    shutil.rmtree(tmp_path / "checkpoint-8")
    write_tree(tmp_path / "checkpoint-8", writer({"state.json": "{}"}))
    assert remove_tree(tmp_path / "checkpoint-8") == []
    assert not (tmp_path / "checkpoint-8").exists()

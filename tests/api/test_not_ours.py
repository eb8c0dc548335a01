"""What a verb meets where it writes, and did not write: it stays, and the verb says so."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from zofo.api.metatest.store import Store
from zofo.api.predictions import COMPLETION, KEYS, check_output, check_own
from zofo.api.quickstart import pypi
from zofo.api.task_files import begins_with_a_row, write_task
from zofo.errors import InputError
from zofo.train.lease import Lease

lease_module = sys.modules["zofo.train.lease"]  # zofo.train is the function
ALONE = ["rows.jsonl", "rows.json", "rows.csv", "rows.TSV", "rows.parquet", "rows.csv.gz"]
ROW = {"task": "a", "input": "b", "output": "c", "options": []}


@pytest.mark.parametrize("name", ["predictions.jsonl", "results.json", "report.json", *ALONE])
@pytest.mark.parametrize("content", ["mine", '{"accuracy": 1}\n', "[1]", "\x00\x01", "[" * 100_000])
def test_an_evaluation_overwrites_no_file_of_another(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    output = tmp_path / name if name in ALONE else tmp_path
    with pytest.raises(InputError, match=rf"{re.escape(name)}: is there already, and no evaluation of zofo wrote it"):
        check_output(output)
    assert (tmp_path / name).read_text() == content


def test_an_evaluation_overwrites_its_own_and_what_is_empty(tmp_path: Path) -> None:
    check_output(tmp_path / "nowhere")
    for name, keys in KEYS.items():
        (tmp_path / name).write_text(json.dumps(dict.fromkeys(keys)) + "\n")
    (tmp_path / "report.json").write_text("{}")
    check_output(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    check_output(tmp_path / "empty.jsonl")
    (tmp_path / "texts.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    check_own(tmp_path / "texts.jsonl", COMPLETION, "generate")
    with pytest.raises(InputError, match="no generate of zofo wrote it"):
        check_own(tmp_path / "results.json", COMPLETION, "generate")
    (tmp_path / "results.txt").touch()
    with pytest.raises(InputError, match="is a file; give a directory"):
        check_output(tmp_path / "results.txt")


def test_a_meta_test_takes_away_what_measurements_wrote(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Store(out).claim({"seed": 1}, overwrite=False)
    store = Store(out)
    store.part("zero-shot/film-100", lambda: {"way": "zero-shot", "value": 1.0, "seconds": 0.1}, {})
    store.predictions("zero-shot/film-100", [dict.fromkeys(KEYS["predictions.jsonl"], 0)])
    theirs = ["parts/mine.json", "predictions/zero-shot/mine.jsonl", "results.json", "parts/notes.txt"]
    for name in theirs:
        (out / name).write_text('{"mine": 1}\n')
    Store(out).claim({"seed": 2}, overwrite=True)
    left = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert left == sorted([*theirs, "plan.json"])


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_the_quick_start_takes_no_folder_of_another(what: str, tmp_path: Path) -> None:
    target = tmp_path / "movie-reviews"
    if what == "folder":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    else:
        target.symlink_to(tmp_path) if what == "link" else target.write_text("mine")
    with pytest.raises(InputError, match=r"not made by the quick start \(no ready.json\)"), pypi._building(target):
        raise AssertionError("nothing is downloaded for it")
    assert target.is_symlink() or target.is_file() or (target / "mine.txt").read_text() == "mine"
    with pypi._building(tmp_path / "new") as made:
        (made / pypi.STAMP).write_text("{}")
    assert (tmp_path / "new" / pypi.STAMP).is_file()


def test_a_task_file_is_known_by_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a task that cannot be put in its place is the old one."""
    target = tmp_path / "a"
    write_task(target, {"train.jsonl": [ROW], "test.jsonl": [ROW]})
    assert begins_with_a_row(target / "train.jsonl")
    for text in ("", "mine", '{"text": "a", "label": 1}', "[]", '{"input": "b", "output": "c", "options": []}'):
        (tmp_path / "mine.jsonl").write_text(text)
        assert not begins_with_a_row(tmp_path / "mine.jsonl")
    write_task(target, {"train.jsonl": [ROW, ROW]})
    assert [path.name for path in target.iterdir()] == ["train.jsonl"]
    real = Path.rename

    def rename(path: Path, to: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise OSError(5, "input/output error", str(to))
        return real(path, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="input/output"):
        write_task(target, {"train.jsonl": [ROW]})
    assert (target / "train.jsonl").read_text().count("\n") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"a", "mine.jsonl"}
    monkeypatch.undo()
    target.rename(tmp_path / ".a.old")  # as a kill between the two leaves it
    write_task(target, {"train.jsonl": [ROW]})
    assert {path.name for path in tmp_path.iterdir()} == {"a", "mine.jsonl"}


@pytest.mark.parametrize("content", ["mine", "{}", '{"pid": 3}', "[1]", "\x7fELF"])
def test_a_lock_of_another_tool_is_not_taken(content: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(InputError, match=r"\.lock: no lock of zofo's; move it away"), Lease(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == content


@pytest.mark.parametrize("content", ["", "\0" * 40, '{"tok', '{"token": "a'])
def test_what_a_crash_left_of_a_lock_is(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "PATIENCE", 0.05)
    (tmp_path / ".lock").write_text(content)
    (tmp_path / ".lock.mine").write_text("mine")
    with Lease(tmp_path) as lease:
        assert lease.held
    assert [path.name for path in tmp_path.iterdir()] == [".lock.mine"]

"""What `zofo data meta` refuses, and that it leaves others' files and its own old ones alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SST2, read_rows
from zofo.api import task_files
from zofo.api.convert import convert
from zofo.errors import InputError

Write = Callable[[str, list[dict[str, Any]]], Path]


def test_wrong_names(sst2_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mine = str(write_jsonl("sst2.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]))
    for tasks, data, template, message in (
        (["stt2"], sst2_dir, None, 'unknown task "stt2"; did you mean "sst2"?'),
        (["sst2", "sst2"], sst2_dir, None, "task sst2 is named twice"),
        (["sst2"], sst2_dir, "plian", 'sst2.yaml: no template "plian"; did you mean "plain"?'),
        (["sst2", "rte"], sst2_dir, None, "no directory rte in it; for several tasks"),
        (["sst2", "rte"], sst2_dir / "nowhere", None, "nowhere: is no directory; for several tasks"),
        (["sst2"], sst2_dir / "nowhere", None, "nowhere: no such file or directory"),
        (["rte"], sst2_dir / "sst2", None, 'no column "hypothesis" in train.jsonl; has: sentence, label'),
        (["movie-reviews"], None, None, "task movie-reviews needs data: run `zofo quickstart` once"),
        ([mine], sst2_dir, None, "already names the data"),
        ([mine], None, "review", 'own files have "default" and "plain", not "review"'),
    ):
        with pytest.raises(InputError) as caught:
            convert(tasks, out, data, template)
        assert message in str(caught.value)
    assert not out.exists()


def test_hidden_labels(sst2_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    write_jsonl("data/sst2/test.jsonl", [{"sentence": "a film", "label": -1}])
    with pytest.raises(
        InputError, match=r"test.jsonl:1: .*unknown label -1.*hides its labels cannot be .* take it out"
    ):
        convert(["sst2"], tmp_path / "out", sst2_dir)
    write_jsonl("data/sst2/train.jsonl", [SST2[0], {"sentence": "a film", "label": -1}])
    with pytest.raises(InputError, match=r"train.jsonl:2: sst2.yaml: unknown label -1; known: 0 negative, 1 positive$"):
        convert(["sst2"], tmp_path / "out", sst2_dir)
    assert not (tmp_path / "out").exists()


def test_nothing_of_others_is_replaced(sst2_dir: Path, write_jsonl: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sst2: holds the rows that are to be converted"):
        convert(["sst2"], sst2_dir, sst2_dir, overwrite=True)
    assert read_rows(sst2_dir / "sst2" / "train.jsonl") == SST2
    other = write_jsonl("out/sst2/sst2_16_13_train.jsonl", [{"input": "a", "output": "b", "options": []}])
    with pytest.raises(InputError, match=r"holds sst2_16_13_train.jsonl, which is none of ours"):
        convert(["sst2"], tmp_path / "out", sst2_dir, overwrite=True)
    assert other.is_file()
    write_jsonl("movie_reviews/movie_reviews/train.jsonl", [])
    reviews = write_jsonl("reviews.jsonl", [{"id": 0, "text": "dull", "label": 0}])
    with pytest.raises(InputError, match="movie_reviews: is task movie-reviews by another spelling"):
        convert(["movie-reviews"], tmp_path / "movie_reviews", reviews)
    for out in (reviews, tmp_path / "files"):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / "sst2").touch()
        with pytest.raises(InputError, match="is a file; give"):
            convert(["sst2"], out, sst2_dir, overwrite=True)


def test_an_error_leaves_the_old_files(sst2_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(["sst2"], tmp_path / "out", sst2_dir)
    before = read_rows(tmp_path / "out" / "sst2" / "train.jsonl")

    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(OSError, match="No space"):
        convert(["sst2"], tmp_path / "out", sst2_dir, overwrite=True)
    assert read_rows(tmp_path / "out" / "sst2" / "train.jsonl") == before
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["sst2"]


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_kill_left_between_two_renames(
    fails: bool, sst2_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old task comes back, and is replaced by the new one or stays: it is never gone, and never half there."""
    out = tmp_path / "out"
    convert(["sst2"], out, sst2_dir, examples={"train": 1})
    before = read_rows(out / "sst2" / "train.jsonl")
    (out / "sst2").rename(out / ".sst2.old")
    (out / ".sst2.tmp").mkdir()
    (out / ".sst2.tmp" / "train.jsonl").write_text('{"ta', "utf-8")
    if fails:
        monkeypatch.setattr(task_files, "write_text", _full)  # after the lock
        with pytest.raises(OSError, match="No space"):
            convert(["sst2"], out, sst2_dir)
        assert read_rows(out / "sst2" / "train.jsonl") == before
    else:
        convert(["sst2"], out, sst2_dir)
        assert len(read_rows(out / "sst2" / "train.jsonl")) == len(SST2) > len(before)
    assert [f.name for f in out.iterdir()] == ["sst2"]


@pytest.mark.parametrize("nth", [1, 2])
def test_an_error_at_a_rename_puts_the_old_task_back(
    nth: int, sst2_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls, real = tmp_path / "out", [0], Path.rename
    convert(["sst2"], out, sst2_dir, examples={"train": 1})

    def rename(path: Path, target: Path) -> Path:
        calls[0] += 1
        return _full() if calls[0] == nth else real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="No space"):
        convert(["sst2"], out, sst2_dir, overwrite=True)
    assert len(read_rows(out / "sst2" / "train.jsonl")) == 1
    assert [f.name for f in out.iterdir()] == ["sst2"]


def _full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_no_rows_asked_for(sst2_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sst2: nothing is left to write: it has rows for train, test"):
        convert(["sst2"], tmp_path / "out", sst2_dir, examples={"train": 0, "test": 0})

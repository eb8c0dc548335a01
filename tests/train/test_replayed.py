"""A run that took long to replay is opened again without a replay, with the same weights, from the user's cache."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import sentiment_rows, write_rows
from tests.small_runs import SMALL
from zofo import InputError, finetune
from zofo.api.restore import restore
from zofo.cli.main import run as command_line
from zofo.config.layers import Value
from zofo.train import checkpoint, replayed
from zofo.train.files import delete_tree


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any, tiny_model_dir: Path) -> Path:
    root = tmp_path_factory.mktemp("made")
    rows = write_rows(root / "rows.jsonl", sentiment_rows(40))
    return finetune(str(tiny_model_dir), str(rows), {"name": "mezo", "lr": 1e-3}, output_dir=root / "run", **SMALL).path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is long enough to be kept."""
    monkeypatch.setenv("ZOFO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(replayed, "LEAST", 0)
    monkeypatch.setattr(replayed, "READ", 1e30)
    return tmp_path / "cache"


def opened(run: Path, **given: Any) -> str:
    return restore(run, None, given or None).theta.digest()


def without_replay(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise AssertionError("replayed")

    patch.setattr(checkpoint, "replay", refuse)


def test_a_second_opening_replays_nothing(
    made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("ZOFO_CACHE", "off")
        plain = opened(made)
    assert not cache.exists()
    caplog.set_level(logging.INFO)
    assert opened(made) == plain
    assert f"MiB in {cache}; ZOFO_CACHE=off switches that off" in caplog.text
    (entry,) = cache.iterdir()
    assert len(entry.name) == 64
    assert cache.stat().st_mode & 0o077 == 0
    without_replay(monkeypatch)
    caplog.clear()
    assert opened(made) == plain
    assert f"theta is read from {entry}" in caplog.text
    shutil.copytree(made, cache.parent / "moved")  # the entry is the journal's, wherever the run is
    assert opened(cache.parent / "moved") == plain


@pytest.mark.parametrize("damage", ["cut", "gone", "changed", "another's"])
def test_a_damaged_entry_is_made_anew(made: Path, cache: Path, damage: str) -> None:
    plain = opened(made)
    (entry,) = cache.iterdir()
    file = entry / "theta.safetensors"
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[:-10])
    elif damage == "gone":
        (entry / "manifest.json").unlink()
    elif damage == "changed":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    else:  # whole by its checksums
        delete_tree(entry)
        replayed.write_tree(entry, lambda at: checkpoint.save_theta({"a": torch.zeros(3)}, at))
    assert opened(made) == plain
    assert [path.name for path in cache.iterdir()] == [entry.name]
    assert file.read_bytes() == whole


def test_the_base_and_the_journal_are_checked_all_the_same(
    made: Path, cache: Path, tmp_path: Path, other_model_dir: Path
) -> None:
    opened(made)
    with pytest.raises(InputError, match="is not the one this run started from"):
        opened(made, name=Value(str(other_model_dir), "--model"))
    shutil.copytree(made, tmp_path / "spoilt")
    raw = bytearray((tmp_path / "spoilt" / "journal.bin").read_bytes())
    raw[-20] ^= 1
    (tmp_path / "spoilt" / "journal.bin").write_bytes(raw)
    with pytest.raises(InputError, match="damaged"):
        opened(tmp_path / "spoilt")
    (tmp_path / "spoilt" / "journal.bin").unlink()
    with pytest.raises(InputError, match=r"journal\.bin: No such file"):
        opened(tmp_path / "spoilt")
    assert len(list(cache.iterdir())) == 1


@pytest.fixture(scope="module")
def other_model_dir(tmp_path_factory: Any, tiny_model_dir: Path) -> Path:
    """The same with one weight changed."""
    from safetensors.torch import load_file, save_file

    target = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(tiny_model_dir, target)
    tensors = load_file(target / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def test_what_is_quick_is_not_kept(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayed, "READ", 1.0)
    opened(made)
    monkeypatch.setattr(replayed, "READ", 1e30)
    monkeypatch.setattr(replayed, "LEAST", 1 << 30)
    opened(made)
    assert not cache.exists()


def test_a_disk_that_takes_nothing_stops_nobody(
    made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "theta.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_tensors", full)
        plain = opened(made)
    assert "theta's replay is not kept: [Errno 28]" in caplog.text
    assert list(cache.iterdir()) == []
    delete_tree(cache)
    cache.write_text("no directory")
    assert opened(made) == plain


def test_the_entry_not_used_for_longest_gives_way(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And drafts that a kill left, a day old; what is not zofo's stays."""
    now, names = time.time(), [c * 64 for c in "abc"]
    drafts = [f"{'d' * 64}-7", f".{'d' * 64}-8.tmp", f".{'d' * 64}-9.tmp"]
    for age, name in enumerate([*names, *drafts, "mine", "f" * 63]):
        (cache / name).mkdir(parents=True)
        (cache / name / "theta.safetensors").write_bytes(bytes(100))
        hours = 48 if name in drafts[:2] else age
        os.utime(cache / name, (now - 3600 * hours, now - 3600 * hours))
    monkeypatch.setattr(replayed, "LIMIT", 350)
    replayed._make_room(cache, 100)
    left = sorted(path.name for path in cache.iterdir())
    assert left == sorted([*names[:2], "mine", "f" * 63])  # drafts first; the draft of now is older than a and b
    monkeypatch.setattr(replayed, "LIMIT", 1)
    opened(made)  # larger than all that may be kept: nothing has to go for it
    assert sorted(path.name for path in cache.iterdir()) == left
    monkeypatch.setattr(replayed, "LIMIT", 1 << 30)
    opened(made)
    (entry,) = set(cache.iterdir()) - {cache / name for name in left}
    old = now - 3600 * 90
    os.utime(entry, (old, old))
    opened(made)
    assert entry.stat().st_mtime > old  # it is in use


def test_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], made: Path, cache: Path
) -> None:
    opened(made)
    assert command_line(["env"]) == 0
    assert "theta kept in" in capsys.readouterr().out
    for word in ("", "off", " OFF ", "0"):
        monkeypatch.setenv("ZOFO_CACHE", word)
        assert replayed.folder() is None
    assert command_line(["env"]) == 0
    assert "nowhere (ZOFO_CACHE)" in capsys.readouterr().out
    monkeypatch.delenv("ZOFO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert replayed.folder() == tmp_path / "xdg" / "zofo" / "theta"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert replayed.folder() == tmp_path / ".cache" / "zofo" / "theta"
    assert cache.is_dir()

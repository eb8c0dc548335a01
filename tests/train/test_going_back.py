"""Back to an older checkpoint: nothing of the newer line is lost before the new one has a checkpoint of its own."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.cut import cut
from zofo import InputError, evaluate, finetune
from zofo.train.run_dir import RunDir

BILEVEL = {"name": "bilevel-zofo", "inner_steps": 1, "lr_s": 1e-2, "lr_theta": 1e-4}
Train = Callable[..., Any]


@pytest.fixture
def train(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> Train:
    def run(**options: Any) -> Any:
        sizes = {"max_steps": 12, "batch_size": 4, "eval_steps": 4, "save_steps": 4, "save_total_limit": None}
        return finetune(
            str(tiny_model_dir), str(sentiment_file), BILEVEL, output_dir=tmp_path / "out", **{**sizes, **options}
        )

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lasting(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.endswith((".safetensors", ".bin"))}


def test_the_new_line_ends_as_the_old_one_did(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    run = train()
    before = lasting(files_of(run.path))
    with caplog.at_level(logging.WARNING, logger="zofo"):
        train(resume=str(run.path / "checkpoint-4"))
    assert "going back to step 4: what is newer (checkpoint-8, checkpoint-12" in caplog.text
    assert lasting(files_of(run.path)) == before
    assert not (run.path / "superseded").exists()
    assert evaluate(run.path) == pytest.approx(run.test)


def test_killed_before_its_first_checkpoint_everything_is_still_there(train: Train, tmp_path: Path) -> None:
    """A real kill, right after the journal was cut."""
    run = train()
    before = files_of(run.path)
    args = ["train", "--resume", str(run.path / "checkpoint-4"), "--output-dir", str(run.path)]
    done = forked.run(cut, str(int(signal.SIGKILL)), "zofo.objectives._loss:Loss.backward", "", "1", *args)
    assert done.returncode == -signal.SIGKILL
    aside = files_of(run.path / "superseded")
    newer = [name for name in before if name.startswith(("checkpoint-8", "checkpoint-12"))]
    assert newer
    for name in [*newer, "journal.bin", "metrics.jsonl", "run.json"]:
        assert aside[name] == before[name], name
    # A second start goes on from the same checkpoint, and at its end nothing is left aside
    train(resume="latest")
    assert lasting(files_of(run.path)) == lasting(before)
    assert not (run.path / "superseded").exists()


def test_going_on_from_the_newest_moves_nothing(train: Train) -> None:
    run = train()
    before = files_of(run.path)
    train(resume="latest", max_steps=20)
    after = files_of(run.path)
    assert all(after[name] == content for name, content in before.items() if name.startswith("checkpoint-"))


@pytest.mark.parametrize("how", ["cut", "missing", "changed", "no manifest"])
def test_latest_is_the_newest_whole_one(how: str, train: Train, caplog: pytest.LogCaptureFixture) -> None:
    run = train()
    before = lasting(files_of(run.path))
    victim = run.path / "checkpoint-12" / "state.json"
    if how == "cut":
        victim.write_bytes(victim.read_bytes()[:50])
    elif how == "changed":
        victim.write_text(victim.read_text().replace("1", "2", 1))
    elif how == "missing":
        victim.unlink()
    else:
        (victim.parent / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING, logger="zofo"):
        train(resume="latest")
    assert "checkpoint-12: passed over, it is damaged" in caplog.text
    assert lasting(files_of(run.path)) == before


def test_of_damaged_ones_alone_none_is_taken(train: Train) -> None:
    run = train()
    for path in RunDir(run.path).checkpoints():
        (path / "state.json").write_text("{")
    before = files_of(run.path)
    with pytest.raises(InputError, match=r"checkpoint-4.*checksum is wrong"):
        train(resume="latest")
    assert files_of(run.path) == before


def test_what_a_kill_left_of_our_files_is_swept(train: Train) -> None:
    run = train()
    shutil.copytree(run.path / "checkpoint-12", run.path / ".checkpoint-12.tmp")
    shutil.copytree(run.path / "checkpoint-4", run.path / ".checkpoint-4.old")
    (run.path / ".run.json.tmp").write_text("{")
    (run.path / ".mine.tmp").write_text("mine")
    train(resume="latest", max_steps=16)
    hidden = {path.name for path in run.path.iterdir() if path.name.startswith(".")}
    assert hidden == {".mine.tmp"}
    named = json.loads((run.path / "manifest.json").read_text())["files"]
    assert len(named) == len(set(named))

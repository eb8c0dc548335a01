"""A meta-test and a run of many tasks that are cut by a signal and started again end like those that were not."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import forked
from tests.cut import cut
from tests.metatest_output import parts_in, results_in, scores
from tests.setting_files import task_args
from tests.small_setting import train_args
from zofo.cli import main as cli


def run_cut(args: list[str], sent: int, holding: str) -> tuple[int, str]:
    """(exit code, what was shown) of a process that is sent a signal when a file of that name is in its place."""
    call = "os:rename" if "checkpoint" in holding else "os:replace"
    done = forked.run(cut, str(int(sent)), call, holding, "1", *args)
    return done.returncode, done.stderr


def ends_like(out: Path, uncut_output: Path) -> None:
    assert parts_in(out) == parts_in(uncut_output)
    ours, theirs = (scores(results_in(path)) for path in (out, uncut_output))
    assert ours == theirs
    files = [sorted(str(p.relative_to(path)) for p in path.rglob("*.jsonl")) for path in (out, uncut_output)]
    assert files[0] == files[1]
    assert all((out / name).read_bytes() == (uncut_output / name).read_bytes() for name in files[0])
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGKILL, -9), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_cut_in_the_middle_and_started_again(
    sent: int, code: int, metatest_args: Callable[[Path], list[str]], uncut_output: Path, tmp_path: Path
) -> None:
    """The same numbers and texts, and no part done twice."""
    out = tmp_path / "out"
    returncode, shown = run_cut(metatest_args(out), sent, "parts/tuned/film-")
    assert returncode == code
    assert "Traceback" not in shown
    assert not (out / "results.json").exists()
    stamps = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in (out / "parts").rglob("*.json") if p.name[0] != "."}
    assert 0 < len(stamps) < len(parts_in(uncut_output))
    if sent == signal.SIGINT:
        assert "interrupted" in shown
    assert cli.run(metatest_args(out)) == 0
    assert all((p.stat().st_mtime_ns, p.stat().st_ino) == stamp for p, stamp in stamps.items())
    ends_like(out, uncut_output)


def test_ctrl_c_in_training_and_resumed(small_setting: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Many tasks: the bytes of a run that was not cut."""

    def args(out: Path) -> list[str]:
        more = ["train.max_steps=42", "train.save_steps=12", "train.eval_steps=24"]
        return train_args(tiny_model_dir, task_args(small_setting), out, "bank", *more)

    assert cli.run(args(tmp_path / "whole")) == 0
    out = tmp_path / "cut"
    returncode, shown = run_cut(args(out), signal.SIGINT, "checkpoint-12")
    assert returncode == 130, shown
    assert "--resume latest" in shown
    assert cli.run(["train", "--output-dir", str(out), "--resume", "latest"]) == 0
    assert (out / "journal.bin").read_bytes() == (tmp_path / "whole" / "journal.bin").read_bytes()
    for path in (tmp_path / "whole").glob("best-*/s/*/*.safetensors"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "whole")).read_bytes()

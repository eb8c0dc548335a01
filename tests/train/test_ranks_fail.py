"""A rank that computes a NaN, is killed, hangs, holds another bit or starts with other rows: all end, and say which."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cut import cut
from tests.forked import run, zofo_main
from tests.in_ranks import in_ranks
from zofo.objectives._loss import Loss
from zofo.train.loop import Loop

MEZO = ["--method", "mezo", "method.lr=1e-4"]
Start = Callable[..., list[str]]


@pytest.fixture
def start(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> Start:
    """The command of a run of 9 steps, by its name and settings."""

    def arguments(name: str, *more: str, rows: Path = sentiment_file) -> list[str]:
        fixed = ["train", "--model", str(tiny_model_dir), "--task", str(rows), "train.threads=1", *MEZO]
        cadence = ["--max-steps", "9", "train.eval_steps=3", "train.save_steps=3", "train.batch_size=6"]
        return [*fixed, *cadence, "--output-dir", str(tmp_path / name), *more]

    return arguments


def with_nan(*args: str) -> None:
    """A rank whose 7th forward gives a NaN, and no other."""
    real, calls = Loss._each_sum, 0

    def spoilt(self: Loss, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        sums, weights = real(self, *given)
        return (sums * torch.nan if calls == 7 else sums), weights

    Loss._each_sum = spoilt  # pyright: ignore[reportAttributeAccessIssue]
    zofo_main(*args)


def test_a_nan_of_one_rank_is_one_error(start: Start) -> None:
    began = time.monotonic()
    done = in_ranks(2, *start("run"), special={1: with_nan})
    assert time.monotonic() - began < 100  # on a busy machine; two of them start in it
    for each in done:
        assert each.returncode == 1
        assert "step 3: upper update: the estimate's coefficient is nan" in each.stderr


def test_a_nan_that_is_skipped_is_skipped_on_all(start: Start, tmp_path: Path) -> None:
    done = in_ranks(2, *start("run", "train.on_nonfinite=skip", "parallel.check_steps=1"), special={1: with_nan})
    for each in done:
        assert each.returncode == 0, each.stderr
    info = json.loads((tmp_path / "run/run.json").read_text("utf-8"))
    assert info["skipped_by_level"] == {"upper": 1}
    assert info["steps"] == {"lower": 0, "upper": 9}


def test_one_that_is_killed_ends_the_others_and_any_number_goes_on(start: Start, tmp_path: Path) -> None:
    alone = run(zofo_main, *start("uncut", "train.micro_batch_size=3"))
    assert alone.returncode == 0, alone.stderr
    began = time.monotonic()
    done = in_ranks(2, *start("run"), special={1: killed})
    assert time.monotonic() - began < 100  # and not the timeout, which is 600
    assert done[1].returncode == -signal.SIGKILL
    assert done[0].returncode == 1
    assert "rank 1 (process" in done[0].stderr
    assert "is gone" in done[0].stderr
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    for each in in_ranks(2, *start("run", "--resume", "auto")):
        assert each.returncode == 0, each.stderr
    assert (tmp_path / "uncut/journal.bin").read_bytes() == (tmp_path / "run/journal.bin").read_bytes()
    again = run(zofo_main, *start("other", "train.micro_batch_size=3", "--resume", "auto"))
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "uncut/journal.bin").read_bytes() == (tmp_path / "other/journal.bin").read_bytes()


def killed(*args: str) -> None:
    cut(str(int(signal.SIGKILL)), "zofo.train.loop:Loop._step", "", "5", *args)


def asked_to_stop(*args: str) -> None:
    cut(str(int(signal.SIGTERM)), "zofo.train.loop:Loop._step", "", "4", *args)


def test_a_signal_to_one_rank_stops_all(start: Start, tmp_path: Path) -> None:
    done = in_ranks(3, *start("run"), special={2: asked_to_stop})
    assert [each.returncode for each in done] == [128 + signal.SIGTERM] * 3
    assert "interrupted: another rank was asked to stop" in done[0].stderr
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    alone = run(zofo_main, *start("uncut", "train.micro_batch_size=2"))
    assert alone.returncode == 0, alone.stderr
    for each in in_ranks(3, *start("run", "--resume", "latest")):
        assert each.returncode == 0, each.stderr
    assert (tmp_path / "uncut/journal.bin").read_bytes() == (tmp_path / "run/journal.bin").read_bytes()


def asked_in_an_exchange(*args: str) -> None:
    """A rank that is asked to stop while it waits for the others, when they have been told that it was not."""
    cut(str(int(signal.SIGTERM)), "zofo.train.stopping:same_records", "", "4", *args)


@pytest.mark.parametrize("who", [0, 1])
def test_a_signal_within_an_exchange_is_not_lost(who: int, start: Start, tmp_path: Path) -> None:
    done = in_ranks(2, *start("run", "parallel.check_steps=1000"), special={who: asked_in_an_exchange})
    assert [each.returncode for each in done] == [128 + signal.SIGTERM] * 2
    assert max(int(path.name[11:]) for path in (tmp_path / "run").glob("checkpoint-*")) < 9


def with_another_bit(*args: str) -> None:
    """A rank in whose theta one bit flips in the 4th step."""
    real = Loop._step

    def step(self: Loop) -> None:
        real(self)
        if self.at.k == 4:
            tensor = self.session.problem.theta["model.embed_tokens.weight"].data
            tensor.view(torch.int32).view(-1)[77] ^= 1 << 20

    Loop._step = step
    zofo_main(*args)


@pytest.mark.parametrize(("size", "words"), [(2, "ranks 0 and 1 differ"), (3, "rank 1 differs from the others")])
def test_a_flipped_bit_is_found_at_the_next_check(size: int, words: str, start: Start, tmp_path: Path) -> None:
    done = in_ranks(size, *start("run", "parallel.check_steps=5"), special={1: with_another_bit})
    for each in done:
        assert each.returncode == 1
        assert f"step 5: {words} in model.embed_tokens.weight" in each.stderr
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]


def stopped(*args: str) -> None:
    cut(str(int(signal.SIGSTOP)), "zofo.train.loop:Loop._step", "", "4", *args)


@pytest.mark.slow
def test_one_that_hangs_is_named(start: Start) -> None:
    began = time.monotonic()
    done = in_ranks(2, *start("run", "parallel.timeout=15"), special={1: stopped}, ends_within=60)
    assert time.monotonic() - began < 100
    assert done[0].returncode == 1
    assert "rank 1 (process" in done[0].stderr
    assert "gone or stands still" in done[0].stderr


def test_one_that_starts_with_other_rows_is_named(start: Start, sentiment_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(sentiment_file.read_text("utf-8").replace("boring", "lovely"), "utf-8")
    done = in_ranks(2, *start("run"), own={1: start("run", rows=other)})
    for each in done:
        assert each.returncode == 2
        assert "the ranks start with different examples" in each.stderr
    assert not (tmp_path / "run/journal.bin").exists()


def audited(*args: str) -> None:
    """A rank that says which files it opened to write."""
    opened: list[str] = []

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(given[0], str) and "/run" in given[0]:
            if (given[1] and set(given[1]) & set("wax+")) or given[2] & (os.O_WRONLY | os.O_RDWR):
                opened.append(given[0])
        elif event in ("os.rename", "os.remove", "os.mkdir") and "/run" in str(given[0]):
            opened.append(str(given[0]))

    sys.addaudithook(hook)
    try:
        zofo_main(*args)
    finally:
        print("wrote", opened, file=sys.stderr)


def test_only_rank_0_writes_and_little_travels(start: Start, tmp_path: Path) -> None:
    done = in_ranks(2, *start("run"), special={1: audited})
    assert done[0].returncode == done[1].returncode == 0, done[1].stderr
    assert done[1].stderr.splitlines()[-1] == "wrote []"
    assert done[0].stderr.startswith("2 ranks: 1 query x 2 data\n")
    assert not done[1].stdout
    ranks = json.loads((tmp_path / "run/run.json").read_text("utf-8"))["ranks"]
    assert ranks["a_step"]["sent"] + ranks["a_step"]["received"] < 1000
    assert "bytes a step" in done[0].stderr

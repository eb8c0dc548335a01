"""What hangs on one rank's own knowledge is agreed on before an exchange: else ranks meet in different ones."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.conftest import write_rows
from tests.cut import cut
from tests.forked import zofo_main
from tests.in_ranks import in_ranks
from tests.page_world import copa
from zofo import evaluate, finetune
from zofo.config.sections import TaskConfig
from zofo.data import TaskData
from zofo.models import tree_probe
from zofo.models.adapters import _layers
from zofo.objectives._loss import Loss
from zofo.train import checkpoint, setup
from zofo.train.loop import Loop
from zofo.train.run_dir import RunDir

MEZO = ["--method", "mezo", "method.lr=1e-4"]
SETTINGS: dict[str, Any] = {"batch_size": 4, "max_steps": 4, "eval_steps": 2, "save_steps": 2, "threads": 1}
Start = Callable[..., list[str]]


@pytest.fixture
def start(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> Start:
    """The command of a run of 4 steps, by its settings."""

    def arguments(*more: str, rows: Path = sentiment_file) -> list[str]:
        fixed = ["train", "--model", str(tiny_model_dir), "--task", str(rows), "train.threads=1", *MEZO]
        cadence = ["--max-steps", "4", "train.eval_steps=2", "train.save_steps=2", "train.batch_size=4"]
        return [*fixed, *cadence, "parallel.timeout=60", "--output-dir", str(tmp_path / "run"), *more]

    return arguments


def in_two(act: Callable[[str, str, str], None], model: Path, rows: Path, out: Path) -> list[CompletedProcess[str]]:
    """A call from Python, in each of two ranks."""
    return in_ranks(2, str(model), str(rows), str(out), act=act, ends_within=150)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (["parallel.query=2"], "parallel.query"),
        (["--resume", "auto"], "train.resume"),
        (["--max-steps", "6"], "train.max_steps"),
        (["train.score_test=false"], "train.score_test"),
        (["parallel.check_steps=1"], "parallel.check_steps"),
    ],
)
def test_other_settings_are_named(theirs: list[str], words: str, start: Start) -> None:
    done = in_ranks(2, *start("estimator.q=2"), own={1: start("estimator.q=2", *theirs)}, ends_within=150)
    for each in done:
        assert each.returncode == 2
        assert f"the ranks start with different {words}" in each.stderr


class Asks(TrainerCallback):
    """Asks for nothing."""


def with_a_callback_of_rank_0(model: str, rows: str, out: str) -> None:
    callbacks = [Asks()] if os.environ["RANK"] == "0" else []
    more = ["parallel.timeout=60"]
    finetune(model, rows, "mezo", output_dir=out, callbacks=callbacks, overrides=more, **SETTINGS)


def test_callbacks_of_rank_0_alone(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    done = in_two(with_a_callback_of_rank_0, tiny_model_dir, sentiment_file, tmp_path / "run")
    assert [each.returncode for each in done] == [0, 0]


def with_an_infinite_weight(*args: str) -> None:
    real = Loop._step

    def step(self: Loop) -> None:
        real(self)
        if self.at.k == 2:
            self.session.problem.theta["model.embed_tokens.weight"].data[-1, 0] = torch.inf

    Loop._step = step
    zofo_main(*args)


def test_an_infinite_weight(start: Start) -> None:
    done = in_ranks(2, *start("method.lr=1e-2"), special={1: with_an_infinite_weight}, ends_within=150)
    for each in done:
        assert each.returncode == 1
        assert "ranks 0 and 1 differ in model.embed_tokens.weight" in each.stderr


def with_nan_in_a_mask(*args: str) -> None:
    real = Loss._sums

    def spoilt(self: Loss, *given: Any, **kwargs: Any) -> Any:
        sums, weights = real(self, *given, **kwargs)
        return (sums * torch.nan if torch.is_grad_enabled() else sums), weights

    Loss._sums = spoilt
    zofo_main(*args)


def test_a_nan_in_a_masks_gradients(start: Start, tmp_path: Path) -> None:
    more = ["mask=sensitivity", "train.on_nonfinite=skip"]
    done = in_ranks(2, *start(*more), special={1: with_nan_in_a_mask}, ends_within=150)
    for each in done:
        assert each.returncode == 1
        assert "4 of 4 updates skipped" in each.stderr


LONGEST = """
def longest(completions):
    most = max(map(len, completions))
    return [len(text) / (most + 1) for text in completions]
"""


def test_a_reward_is_not_asked_of_nothing(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"prompt": f"film {i}: a", "completion": " good one"} for i in range(30)]
    )
    (tmp_path / "reward.py").write_text(LONGEST, "utf-8")
    args = ["train", "--model", str(tiny_model_dir), "--task", str(rows), "--method", "mezo", "--max-steps", "2"]
    args += [f"task.metric={tmp_path / 'reward.py'}:longest", "task.max_new_tokens=4", "task.dev_examples=2"]
    args += ["train.threads=1", "train.batch_size=4", "task.test_examples=2", "--output-dir", str(tmp_path / "run")]
    done = in_ranks(3, *args, ends_within=150)
    assert [each.returncode for each in done] == [0, 0, 0]


def twice(model: str, rows: str, out: str) -> None:
    """Rank 0 takes its time to write what the other reads next."""
    real = RunDir.write_info

    def slow(self: RunDir, info: Mapping[str, Any]) -> None:
        time.sleep(1)
        real(self, info)

    RunDir.write_info = slow
    done = finetune(model, rows, "mezo", output_dir=out, **SETTINGS)
    assert (done.path / "run.json").is_file()
    assert evaluate(done.path, split="dev") == evaluate(done.path, split="dev")


def test_one_call_after_another(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    done = in_two(twice, tiny_model_dir, sentiment_file, tmp_path / "run")
    assert [each.returncode for each in done] == [0, 0], done[1].stderr


def with_short_rows(*args: str) -> None:
    """A machine on which other rows lie in the place of those that all were told."""
    real = setup.load_task

    def load(cfg: TaskConfig, *given: Any) -> TaskData:
        return real(replace(cfg, data=str(cfg.data).replace("long", "short")), *given)

    setup.load_task = load
    tree_probe.option_trees = lambda examples, limit: list(examples)  # of which none gains from it
    zofo_main(*args)


def test_rows_that_one_rank_packs(tiny_model_dir: Path, tmp_path: Path) -> None:
    """A probe that one rank makes, since its rows gain from it, and the other does not."""
    for split, count in (("train", 24), ("validation", 12)):
        rows = copa(count)
        write_rows(tmp_path / f"long/{split}.jsonl", rows)
        write_rows(tmp_path / f"short/{split}.jsonl", [row | {"premise": "x"} for row in rows])
    args = ["train", "--model", str(tiny_model_dir), "--task", "copa", *MEZO, "--max-steps", "2", "train.threads=1"]
    args += ["task.dev_examples=6", "--data", str(tmp_path / "long"), "--output-dir", str(tmp_path / "run")]
    done = in_ranks(2, *args, "parallel.timeout=60", special={1: with_short_rows}, ends_within=150)
    for each in done:
        assert each.returncode == 2
        assert "the ranks start with different examples.dev.sha256" in each.stderr


def test_eval_with_other_settings(tiny_model_dir: Path, sentiment_file: Path) -> None:
    args = ["eval", str(tiny_model_dir), "--task", str(sentiment_file), "--split", "train"]
    done = in_ranks(2, *args, own={1: [*args, "--batch-size", "3"]}, ends_within=150)
    for each in done:
        assert each.returncode == 2
        assert "the ranks start with different asked.batch_size" in each.stderr


def stopped_in_the_test(*args: str) -> None:
    cut(str(int(signal.SIGINT)), "zofo.train.loop:Loop._adapted", "", "3", *args)


@pytest.mark.parametrize("who", [[0], [1], [0, 1]])
def test_a_signal_in_the_test(who: list[int], start: Start, tmp_path: Path) -> None:
    done = in_ranks(2, *start(), special=dict.fromkeys(who, stopped_in_the_test), ends_within=150)
    assert [each.returncode for each in done] == [130, 130]


def stopped_in_the_last_evaluation(*args: str) -> None:
    cut(str(int(signal.SIGINT)), "zofo.train.loop:Loop._adapted", "", "2", *args)


@pytest.mark.parametrize("who", [[0], [1]])
def test_a_signal_in_the_last_evaluation(who: list[int], start: Start, tmp_path: Path) -> None:
    done = in_ranks(
        2, *start("train.eval_steps=3"), special=dict.fromkeys(who, stopped_in_the_last_evaluation), ends_within=150
    )
    assert [each.returncode for each in done] == [130, 130]


def full(*args: str) -> None:

    def save(directory: Path, *given: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))

    checkpoint.save_tree = save
    zofo_main(*args)


def test_a_full_disk(start: Start) -> None:
    done = in_ranks(2, *start(), special={0: full}, ends_within=150)
    assert [each.returncode for each in done] == [1, 1]
    assert "no space left" in done[1].stderr


def with_nan(nth: str, *args: str) -> None:
    """A rank whose nth forward gives a NaN."""
    real, calls = Loss._each_sum, 0

    def spoilt(self: Loss, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        sums, weights = real(self, *given)
        return (sums * torch.nan if calls == int(nth) else sums), weights

    Loss._each_sum = spoilt  # pyright: ignore[reportAttributeAccessIssue]
    zofo_main(*args)


@pytest.mark.parametrize("who", [0, 1])
def test_a_nan_in_a_shared_estimate(who: int, start: Start, tmp_path: Path) -> None:
    more = ["estimator=one_sided", "estimator.q=2", "parallel.query=2", "train.on_nonfinite=skip"]
    args = start(*more)
    done = in_ranks(2, *args, special={who: with_nan}, own={who: ["1", *args]}, ends_within=150)
    assert [each.returncode for each in done] == [0, 0]
    assert json.loads((tmp_path / "run/run.json").read_text("utf-8"))["skipped_by_level"] == {"upper": 1}


def test_a_nan_in_what_a_rule_compares(start: Start) -> None:
    """Two forwards of the estimate, then those of the rule: what one rank finds, both go by."""
    more = ["rule=conservative", "estimator.q=2", "parallel.query=2", "method.lr=1e-2"]
    args = start(*more)
    done = in_ranks(2, *args, special={0: with_nan}, own={0: ["3", *args]}, ends_within=150)
    assert [each.returncode for each in done] == [0, 0]


def without_mixing(*args: str) -> None:
    _layers.rows_may_mix = lambda *given: False
    zofo_main(*args)


def test_a_probe_of_the_adapters(start: Start) -> None:
    """p is s in the first step: whether the penalty is left out hangs on whether rows may mix."""
    more = ["--method", "bilevel-zofo", "method.inner_steps=0", "method.lr_theta=1e-4", "adapter.r=2"]
    more += ["train.micro_batch_size=1"]
    args = [arg for arg in start() if arg not in MEZO]
    done = in_ranks(2, *args, *more, special={1: without_mixing}, ends_within=150)
    assert [each.returncode for each in done] == [0, 0]


class Fails(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3 and os.environ["RANK"] == "1":
            raise ValueError("no more")


def with_a_callback_that_fails(model: str, rows: str, out: str) -> None:
    began = time.monotonic()
    try:
        finetune(model, rows, "mezo", output_dir=out, callbacks=[Fails()], **SETTINGS)
    except Exception as error:
        print(error)
    if os.environ["RANK"] == "1":
        time.sleep(12)
    print(time.monotonic() - began)


def test_one_that_goes_on_elsewhere(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    done = in_two(with_a_callback_that_fails, tiny_model_dir, sentiment_file, tmp_path / "run")
    words, seconds = done[0].stdout.splitlines()
    assert words == "rank 1 ended: no more"
    assert float(seconds) < 10

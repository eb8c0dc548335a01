"""Ranks on rows of every kind: option trees, mixtures, a bank of adapters, a reward; late ones that join."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.conftest import write_rows
from tests.forked import run, zofo_main
from tests.in_ranks import in_ranks
from tests.page_world import copa
from tests.setting_files import task_args
from tests.small_setting import make_setting, train_args
from zofo import finetune
from zofo.config import registry
from zofo.zo.journal import read_header, read_records

CADENCE = ["--max-steps", "4", "train.eval_steps=2", "train.save_steps=2", "train.threads=1"]
REWARD = "def length(completions):\n    return [float(len(text)) for text in completions]\n"


def alone_and_in_two(args: list[str], root: Path, *alone: str) -> tuple[Path, Path]:
    first = run(zofo_main, *args, "--output-dir", str(root / "one"), *alone)
    assert first.returncode == 0, first.stderr
    for each in in_ranks(2, *args, "--output-dir", str(root / "many")):
        assert each.returncode == 0, each.stderr
    return root / "one", root / "many"


def journal(path: Path) -> bytes:
    return (path / "journal.bin").read_bytes()


def test_option_trees(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Five examples for two ranks, several options in a row, demonstrations before them."""
    for split, count in (("train", 24), ("validation", 12)):
        write_rows(tmp_path / f"rows/{split}.jsonl", copa(count))
    args = ["train", "--model", str(tiny_model_dir), "--task", "copa", "--data", str(tmp_path / "rows"), *CADENCE]
    args += ["--method", "mezo", "method.lr=1e-4", "train.batch_size=5", "task.num_fewshot=1", "task.dev_examples=6"]
    one, many = alone_and_in_two(args, tmp_path, "train.micro_batch_size=3")
    assert journal(one) == journal(many)
    for name in ("eval/predictions-theta.jsonl", "metrics.jsonl"):
        kept = [
            [line for line in (path / name).read_text("utf-8").splitlines() if '"event": "train"' not in line]
            for path in (one, many)
        ]
        assert kept[0] == kept[1]  # a train line has seconds


@pytest.mark.parametrize("name", ["mezo", "bank", "shared", "multi-task-ft", "fo-peft"])
def test_many_tasks(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Mixtures; a bank in which a rank's slice has another task's adapter alone."""
    setting = make_setting(tmp_path / "setting")
    args = train_args(tiny_model_dir, task_args(setting), tmp_path / "run", name)
    args = [arg for i, arg in enumerate(args) if "--output-dir" not in (arg, args[i - 1])]
    one, many = alone_and_in_two(args, tmp_path, "train.micro_batch_size=2")
    if name == "mezo":
        assert journal(one) == journal(many)
    losses = [[line["loss"] for line in metrics(path) if line["event"] == "dev"] for path in (one, many)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    info = [json.loads((path / "run.json").read_text("utf-8")) for path in (one, many)]
    assert [each["tokens"] for each in info[:1]] == [each["tokens"] for each in info[1:]]


ONE_TASK = [name for name in registry.names("methods") if not registry.load("methods", name).Method.many]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("two-stage", "fo-ft") else pytest.mark.slow) for n in ONE_TASK]
)
def test_every_method(name: str, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    """Of each method two ranks hold the same after every step, and end where one process does."""
    args = ["train", "--model", str(tiny_model_dir), "--task", str(sentiment_file), "--method", name, *CADENCE]
    args += ["train.batch_size=4", "parallel.check_steps=1", "task.num_fewshot=1"]
    if "inner_steps" in {field.name for field in dataclasses.fields(registry.load("methods", name).Config)}:
        args += ["method.inner_steps=1"]
    one, many = alone_and_in_two(args, tmp_path, "train.micro_batch_size=2")
    losses = [[line["loss"] for line in metrics(path) if line["event"] == "dev"] for path in (one, many)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_a_reward_is_descended(tiny_model_dir: Path, tmp_path: Path) -> None:
    """What is written, and its reward, are shared: the estimate of minus the reward is that of one process."""
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"prompt": f"film {i}: a", "completion": " good one"} for i in range(30)]
    )
    (tmp_path / "reward.py").write_text(REWARD, "utf-8")
    args = ["train", "--model", str(tiny_model_dir), "--task", str(rows), *CADENCE, "--method", "mezo"]
    args += ["task.objective=metric", f"task.metric={tmp_path / 'reward.py'}:length", "task.max_new_tokens=4"]
    args += ["train.batch_size=4", "estimator.eps=0.05", "estimator.shift=copy"]
    one, many = alone_and_in_two(args, tmp_path, "train.micro_batch_size=2")
    assert journal(one) == journal(many)
    path = one / "journal.bin"
    assert any(c for record in read_records(path, read_header(path)[1]) for _, c in record.terms)


def test_late_ones_join(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    """From a snapshot and the journal behind it: four steps by one process, then three go on."""
    args = [
        "train",
        "--model",
        str(tiny_model_dir),
        "--task",
        str(sentiment_file),
        "--method",
        "mezo",
        "method.lr=1e-4",
    ]
    args += ["train.batch_size=6", "train.eval_steps=4", "train.save_steps=2", "train.max_replay_seconds=0"]
    args += ["train.threads=1", "--output-dir", str(tmp_path / "run"), "--resume", "auto"]
    first = run(zofo_main, *args, "--max-steps", "4", "train.micro_batch_size=2")
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "run/checkpoint-4/backbone").is_dir()
    for each in in_ranks(3, *args, "--max-steps", "8", "train.micro_batch_size=2", "parallel.check_steps=1"):
        assert each.returncode == 0, each.stderr
    whole = [str(tmp_path / "whole") if arg == str(tmp_path / "run") else arg for arg in args]
    uncut = run(zofo_main, *whole, "--max-steps", "8", "train.micro_batch_size=2")
    assert uncut.returncode == 0, uncut.stderr
    assert journal(tmp_path / "run") == journal(tmp_path / "whole")


class StopsOneRank(TrainerCallback):
    """Asks to stop after step 3, on rank 1 alone; says on which rank it would report."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3 and os.environ["RANK"] == "1":
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        print("reports" if state.is_world_process_zero else "is silent", state.global_step)


def with_a_callback(model: str, rows: str, out: str) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "max_steps": 8, "eval_steps": 4, "save_steps": 4, "threads": 1}
    done = finetune(model, rows, "mezo", output_dir=out, callbacks=[StopsOneRank()], **settings)
    print(done.leads, done.info["steps"]["upper"])


def test_a_callback_of_one_rank_stops_all(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    done = in_ranks(2, str(tiny_model_dir), str(sentiment_file), str(tmp_path / "run"), act=with_a_callback)
    assert [each.returncode for each in done] == [0, 0], done[0].stderr
    assert done[0].stdout == "reports 3\nTrue 3\n"
    assert done[1].stdout == "is silent 3\nFalse 3\n"

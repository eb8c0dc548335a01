"""A cadence that whole iterations cannot keep is said once, with the steps at which it comes, and those are true."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows
from zofo import finetune
from zofo.cli import main as cli
from zofo.config.cadence import reached, rounded
from zofo.config.sections import TrainConfig

TRAIN = TrainConfig("out", max_steps=100, eval_steps=15, save_steps=30, logging_steps=22)


def test_the_steps_are_those_of_the_loop() -> None:
    """`Loop._train` evaluates where count // every has grown since the last time."""
    for step in (1, 2, 3, 7, 11):
        for every in (1, 2, 5, 10, 11, 12, 22, 35, 100):
            for total in (0, 1, 10, 11, 50, 120):
                at, last = [], 0
                for count in range(step, total + 1, step):
                    if count // every > last // every:
                        at.append(count)
                        last = count
                assert reached(every, step, total, 1000) == at, (every, step, total)


@pytest.mark.parametrize(
    ("changes", "per_step", "lines"),
    [
        (
            {},
            11,
            [
                "after whole iterations of 11 counted steps: evaluations (train.eval_steps=15) at 22, 33, 55, ...; "
                "checkpoints (train.save_steps=30) at 33, 66, 99",
                "train.max_steps 100: the last 1 make no iteration of 11: not run",
            ],
        ),
        (
            {"max_steps": 99, "save_steps": 15, "logging_steps": 15},
            11,
            [
                "after whole iterations of 11 counted steps: evaluations (train.eval_steps=15) and checkpoints (train."
                "save_steps=15) and log lines (train.logging_steps=15) at 22, 33, 55, ...",
            ],
        ),
        ({"max_steps": 99, "eval_steps": 33, "save_steps": 11}, 11, []),  # as it was asked for
        ({"max_steps": 44, "eval_steps": 100, "save_steps": 100}, 11, []),  # never, but for the end
        ({}, 1, []),
        ({}, 0, []),  # nothing is trained
        ({"count": "outer"}, 11, []),
        ({"max_steps": 0}, 11, []),
    ],
)
def test_what_is_said(changes: dict[str, object], per_step: int, lines: list[str]) -> None:
    assert rounded(dataclasses.replace(TRAIN, **changes), per_step) == lines  # pyright: ignore[reportArgumentType]


def steps_in(text: str, kind: str) -> list[int]:
    found = re.search(rf"{kind}[^;]*? at ([\d, ]+)", text)
    return [int(number) for number in (found[1] if found else "").split(",") if number.strip()]


@pytest.mark.parametrize(
    "method", [{"name": "bilevel-zofo", "inner_steps": 2}, {"name": "bilevel-fo", "inner_steps": 3}]
)
def test_a_run_says_it_once_and_does_so(
    method: dict[str, object],
    tmp_path: Path,
    tiny_model_dir: Path,
    sentiment_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, Any] = {"max_steps": 12, "eval_steps": 5, "save_steps": 5, "logging_steps": 1, "batch_size": 4}
    run = finetune(
        str(tiny_model_dir), str(sentiment_file), method, output_dir=tmp_path / "out", save_total_limit=9, **options
    )
    said = capsys.readouterr().err
    assert said.count("after whole iterations of ") == 1
    evaluated = sorted({row["step"] for row in read_rows(run.path / "metrics.jsonl") if row["event"] == "dev"} - {0})
    assert steps_in(said, "evaluations") == [step for step in evaluated if step in steps_in(said, "evaluations")]
    assert set(evaluated) <= {*steps_in(said, "evaluations"), 12}, "the end besides"
    names = {path.name for path in run.path.glob("checkpoint-*")}
    assert names >= {f"checkpoint-{step}" for step in steps_in(said, "checkpoints")}


def test_every_verb_that_looks_at_a_configuration(
    tmp_path: Path, tiny_model_dir: Path, sentiment_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--model", str(tiny_model_dir), "--task", str(sentiment_file), "--output-dir", str(tmp_path / "out")]
    cadence = ["train.eval_steps=15", "--max-steps", "44"]
    for verb in (["validate"], ["train", "--dry-run"]):
        for method, times in (("bilevel-zofo", 1), ("mezo", 0)):
            assert cli.run([*verb, *base, "--method", method, *cadence]) == 0
            shown = "".join(capsys.readouterr())
            assert shown.count("evaluations (train.eval_steps=15) at 22, 33") == times, (verb, method)

"""The verb meta-test: its options, targets it refuses, and what it prints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.metatest_output import results_in
from tests.setting_files import task_args, write_rows
from zofo.cli import main as cli

Refusal = Callable[..., str]
Args = Callable[[Path], list[str]]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ways", "zero-shoot"], ['--ways: unknown "zero-shoot"', 'did you mean "zero-shot"']),
        (["--ways", "tuned"], ["tuned-fresh"]),
        (["--ways", "zero-shot,zero-shot"], ["each once"]),
        (["--ways", "zero-shot", "--seeds", "100,x"], ["--seeds: expected integers"]),
        (["--ways", "zero-shot", "--seeds", "100,100"], ["--seeds", "each once"]),
        (["--ways", "zero-shot", "--seeds", ""], ["--seeds"]),
        (["--ways", "tuned-fresh", "--rates", "1e-3,fast"], ["--rates: expected numbers"]),
        (["--ways", "tuned-fresh", "--rates", "0"], ["--rates: each is more than 0"]),
        (["--ways", "tuned-fresh", "--rates", "nan"], ["--rates"]),
        (["--ways", "tuned-fresh", "--rates", "inf"], ["--rates"]),
        (["--ways", "zero-shot", "--steps", "0"], ["steps"]),
        (["--ways", "zero-shot", "--num-fewshot", "0"], ["num-fewshot"]),
        (["--ways", "zero-shot", "--test-examples", "0"], ["test-examples"]),
        (["--ways", "zero-shot", "--way", "tuned"], ["--way"]),
        (["train.max_steps=3"], ["task.key=value"]),
    ],
)
def test_options_of_meta_test(more: list[str], said: list[str], small_setting: Path, refusal: Refusal) -> None:
    error = refusal("meta-test", small_setting, *more)
    for text in said:
        assert text in error


def test_no_ways_at_all(small_setting: Path, refusal: Refusal) -> None:
    assert "--ways" in refusal("meta-test", small_setting, "--ways", "")


@pytest.mark.parametrize("field", ["num_fewshot", "test_examples"])
def test_fields_that_the_plan_owns_are_not_ignored(field: str, small_setting: Path, refusal: Refusal) -> None:
    error = refusal("meta-test", small_setting, f"task.{field}=2", "--ways", "in-context")
    assert field.replace("_", "-") in error.replace("_", "-")


def test_one_task_is_no_setting(small_setting: Path, refusal: Refusal, tmp_path: Path) -> None:
    error = refusal("meta-test", "sst2", data=small_setting.parent / "data")
    assert "sst2 is one task; " in error
    assert "a setting such as class-to-class" in error
    file = tmp_path / "rows.jsonl"
    write_rows(file, [{"text": "warm", "label": "great"}, {"text": "dull", "label": "bad"}])
    assert "is one task; " in refusal("meta-test", file, data=None)


def test_a_model_without_a_setting(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["meta-test", str(tiny_model_dir)]) == 2
    assert "error: --task: give a setting such as class-to-class" in capsys.readouterr().err


def test_a_model_that_is_not_there(small_setting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["meta-test", str(tmp_path / "none"), *task_args(small_setting), "--output", str(tmp_path / "out")]
    assert cli.run(args) == 2
    assert "no such directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_did_not_finish(run_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished = tmp_path / "cut"
    shutil.copytree(run_of("shared"), unfinished)
    (unfinished / "run.json").unlink()
    assert cli.run(["meta-test", str(unfinished), "--ways", "zero-shot"]) == 2
    assert "--resume latest" in capsys.readouterr().err


def test_a_run_that_failed(
    run_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is measured, and said to have failed, once; what was exported of it, too."""
    failed = shutil.copytree(run_of("shared"), tmp_path / "failed")
    for name in ("run.json", "manifest.json"):
        content = json.loads((failed / name).read_text())
        content.pop("info", None)
        if name == "run.json":
            content["outcome"] = {"kind": "failed", "reason": "5 of 8 updates skipped", "weights": "hardly trained"}
        (failed / name).write_text(json.dumps(content))
    words = "failed: 5 of 8 updates skipped; its weights are hardly trained"
    assert cli.run(["export", str(failed), str(tmp_path / "out"), "--adapter", "theta"]) == 0
    for target, start in ((failed, "the run"), (tmp_path / "out", "the run that it was exported from")):
        caplog.clear()
        assert cli.run(["meta-test", str(target), "--ways", "zero-shot", "--test-examples", "2"]) == 0
        assert [m for m in caplog.messages if "failed" in m] == [f"{target}: {start} {words}"]
    capsys.readouterr()


def test_what_is_printed(
    metatest_args: Args, uncut_output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Off a terminal: tab-separated; a line for each way, then for each target task, as results.json has them."""
    shutil.copytree(uncut_output, tmp_path / "out")
    assert cli.run(metatest_args(tmp_path / "out")) == 0
    (unit, of_ways, *ways), (of_tasks, *tasks) = (
        block.splitlines() for block in capsys.readouterr().out.strip().split("\n\n")
    )
    results = results_in(uncut_output)["ways"]
    assert "per cent" in unit
    assert of_ways.split("\t") == ["way", "mean", "worst seed", "unseen domain"]
    assert of_tasks.split("\t") == ["target task", "metric", "zero-shot", "zero-shot-s", "tuned", "tuned-fresh"]
    assert [line.split("\t")[0] for line in ways] == ["zero-shot", "zero-shot-s", "tuned", "tuned-fresh"]
    for line in ways:
        way, mean, worst, apart = line.split("\t")
        of_way = results[way]
        percent = [f"{100 * of_way[block]['mean']:.1f}" for block in ("all", "unseen_domain")]
        if of_way["all"]["sd"] is None:
            assert (mean, worst, apart) == (percent[0], "-", percent[1])
        else:
            assert mean == f"{percent[0]} ({100 * of_way['all']['sd']:.1f})"
            assert worst == f"{100 * of_way['all']['worst']:.1f}"
            assert apart == f"{percent[1]} ({100 * of_way['unseen_domain']['sd']:.1f})"
    assert [line.split("\t")[:2] for line in tasks] == [
        ["film", "macro_f1"],
        ["kind", "macro_f1"],
        ["quiz", "accuracy"],
    ]


def test_coverage_is_said(
    metatest_args: Args, uncut_output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(uncut_output, tmp_path / "out")
    assert cli.run(metatest_args(tmp_path / "out")) == 0
    shown = capsys.readouterr().err
    assert "3 of 4 target tasks (75 %)" in shown
    assert "missing target tasks: absent" in shown

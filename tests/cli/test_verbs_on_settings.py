"""The other verbs on settings and runs of many tasks: ls, show, validate, eval, export, generate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.metatest_output import results_in
from tests.setting_files import read_rows, task_args
from tests.small_setting import run_info, train_args
from zofo.cli import main as cli

Shown = Callable[..., str]


def test_ls_settings(shown_by: Shown) -> None:
    lines = shown_by("ls", "settings").splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        "class-to-class",
        "non-class-to-class",
        "non-qa-to-qa",
        "qa-to-qa",
    ]
    assert all(len(line.split("\t")) == 2 for line in lines)
    assert "settings\tclass-to-class" in shown_by("ls")


def test_show_a_setting(shown_by: Shown, small_setting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown_by("show", "class-to-class")
    for part in ("MetaICL", "2110.15943", "training tasks (43)", "target tasks (20)"):
        assert part in text
    for part in ("glue-cola", "ag_news", "climate_fever"):
        assert part in text
    text = shown_by("show", str(small_setting), *task_args(small_setting)[2:])
    for part in ("setting small", "held out tasks (1): sort", "75 %", "missing target tasks: absent"):
        assert part in text
    assert "quiz: multiple-choice" in text
    assert cli.run(["show", "class-to-class", "--data", str(small_setting.parent / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_show_the_methods(shown_by: Shown) -> None:
    text = shown_by("show", "meta-bilevel-zofo")
    for part in ("2502.03604", "method.tasks_per_step", "method.adapters", "method.inner_steps", "B.5.2"):
        assert part in text
    for name in ("metaicl", "multi-task-ft"):
        assert "method.lr" in shown_by("show", name)


@pytest.mark.parametrize("preset", ["meta", "metaicl"])
def test_validate_the_presets(preset: str, shown_by: Shown, small_setting: Path, tiny_model_dir: Path) -> None:
    model = ["--model", str(tiny_model_dir), *task_args(small_setting)]
    text = shown_by("validate", "--preset", preset, *model, "--output-dir", "unused")
    config = yaml.safe_load(text)
    assert config["task"]["train_examples"] == 768
    if preset == "meta":
        assert config["method"]["name"] == "meta-bilevel-zofo"
        assert (config["method"]["tasks_per_step"], config["method"]["inner_steps"]) == (5, 10)
        assert (config["train"]["batch_size"], config["train"]["max_steps"]) == (4, 50000)
    else:
        assert (config["task"]["num_fewshot"], config["method"]["lr"]) == (4, 1e-5)


def test_dry_run(
    capsys: pytest.CaptureFixture[str],
    small_setting: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "out"
    assert cli.run(train_args(tiny_model_dir, task_args(small_setting), out, "bank", "--dry-run")) == 0
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "missing target tasks: absent" in caplog.text
    assert "3 tasks of 12" in text
    assert not list(out.glob("checkpoint-*"))
    assert not (out / "run.json").exists()


@pytest.mark.parametrize("name", ["bank", "shared", "channel"])
def test_eval_export_and_generate(
    name: str, run_of: Any, shown_by: Shown, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(name)
    info = run_info(run)
    result = json.loads(shown_by("eval", str(run)))
    assert result["task_mean"] == pytest.approx(info["test"][info["deployed"]]["task_mean"], abs=1e-9)
    assert result["n"] == 18
    assert shown_by("export", str(run), str(tmp_path / "export"))
    again = json.loads(shown_by("eval", str(tmp_path / "export")))
    assert again["task_mean"] == pytest.approx(result["task_mean"], abs=1e-9)
    line = json.loads(shown_by("generate", str(run), "--prompt", "the film is", "--max-new-tokens", "4"))
    assert "the film is" in json.dumps(line)
    if name == "bank":
        assert cli.run(["eval", str(run), "--adapter", "s"]) == 2
        assert "adapter" in capsys.readouterr().err
        assert cli.run(["export", str(run), str(tmp_path / "e2"), "--adapter", "s"]) == 2
        assert not (tmp_path / "e2").exists()


def test_eval_of_a_target_split_of_a_plain_model(
    small_setting: Path, tiny_model_dir: Path, tmp_path: Path, shown_by: Shown
) -> None:
    """`zofo eval` measures a setting's targets too: as the meta-test's zero-shot, by the same rows."""
    model = [str(tiny_model_dir), *task_args(small_setting)]
    result = json.loads(shown_by("eval", *model, "task.test_examples=6"))
    out = tmp_path / "out"
    shown_by("meta-test", *model, "--ways", "zero-shot", "--test-examples", "6", "--output", str(out))
    of_metatest = results_in(out)["ways"]["zero-shot"]["all"]["mean"]
    assert result["task_mean"] == pytest.approx(of_metatest, abs=1e-9)
    assert len(read_rows(out / "predictions" / "zero-shot" / "film-100.jsonl")) == 6

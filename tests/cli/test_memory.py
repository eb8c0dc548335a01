"""`zofo memory`: tables, JSON, several methods, and the errors of `zofo validate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zofo.cli import main as cli
from zofo.cli.memory import COMPARED, configs

SMALL = ["train.batch_size=2", "train.eval_batch_size=2", "train.threads=1"]


def run(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> tuple[str, str]:
    assert cli.run([str(a) for a in ("memory", *args)]) == code
    return capsys.readouterr()


def test_one_method(tiny_model_dir: Path, sentiment_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--model", tiny_model_dir, "--task", sentiment_file, "--method", "mezo", *SMALL, "--measure")
    lines = out.splitlines()
    measured, predicted = (next(i for i, x in enumerate(lines) if x.startswith(k)) for k in ("measured", "predicted"))
    assert "mezo" in lines[predicted]
    assert "float32" in lines[predicted]
    phases = ["zeroth-order forward", "zeroth-order update", "evaluation"]
    for start in (measured, predicted):
        assert [line[:24].strip() for line in lines[start + 2 : start + 5]] == phases
    assert "compiled kernels" in out


def test_methods_side_by_side(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each takes the settings that it knows."""
    out, _ = run(capsys, "--model", tiny_model_dir, "--length", "16", *SMALL, "adapter.r=4", "method.inner_steps=3")
    names = [line.split()[0] for line in out.splitlines()[2:7]]
    assert names == ["zero-shot", "mezo", "bilevel-zofo", "fo-peft", "fo-ft"]


def test_json(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(
        capsys, "--model", tiny_model_dir, "--length", "16", "--method", "mezo", "--method", "fo-peft", *SMALL, "--json"
    )
    report = json.loads(out)
    mezo, fo = report["predicted"]
    assert (mezo["method"], fo["method"], fo["adapter"]) == ("mezo", "fo-peft", "lora")
    assert mezo["peak_bytes"] == max(phase["total"] for phase in mezo["phases"].values())
    assert report["process_bytes"] > 100 * 2**20


def test_the_errors_of_validate(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    for wrong in (
        ["--model", gone, "--task", "sst2", "--method", "mezo"],
        ["--model", tiny_model_dir, "--task", "sst3", "--method", "mezo"],
        ["--model", tiny_model_dir, "--task", "sst2", "--method", "mezoo"],
        ["--model", tiny_model_dir, "--task", "sst2", "--preset", "papper"],
        ["--model", tiny_model_dir, "--task", "sst2", "--method", "mezo", "method.lrr=1"],
    ):
        _, error = run(capsys, *wrong, code=2)
        assert cli.run([str(a) for a in ("validate", *wrong, "--output-dir", "x")]) == 2
        assert error == capsys.readouterr().err


def test_a_files_task_and_method_count(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    """Whatever of the two stands in the file, in a preset, or on the command line."""
    file, sections = tmp_path / "c.yaml", {"model": None, "task": None, "adapter": None}
    file.write_text(f"model: {tiny_model_dir}\ntask: {sentiment_file}\nmethod: mezo\n")
    assert [c.names["method"] for c in configs([str(file)], None, [], sections, False)] == ["mezo"]
    assert [c.names["method"] for c in configs([str(file)], None, ["fo-ft"], sections, False)] == ["fo-ft"]
    file.write_text(f"model: {tiny_model_dir}\ntask: {{name: {sentiment_file}}}\n")
    assert [c.names["method"] for c in configs([str(file)], "quickstart", [], sections, False)] == ["bilevel-zofo"]
    assert len(configs([str(file)], None, [], sections, False)) == len(COMPARED)
    file.write_text(f"model: {tiny_model_dir}\nmethod: mezo\n")
    task = {**sections, "task": str(sentiment_file)}
    assert [c.names["method"] for c in configs([str(file)], None, [], task, False)] == ["mezo"]


def test_what_to_count_must_be_said(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, error = run(capsys, "--model", tiny_model_dir, code=2)
    assert error == "error: no data: give --task, --train-file, or --length TOKENS of a row\n"
    _, error = run(capsys, "--model", tiny_model_dir, "--task", "sst2", "--options", "2", code=2)
    assert "give --length TOKENS" in error
    _, error = run(capsys, "--length", "16", "--method", "mezo", code=2)
    assert error.startswith("error: model.name: required")

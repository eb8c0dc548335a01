"""What users keep: runs, exports, journals and configurations that an older version wrote are opened as they were.

`tests/fixtures/make_runs.py` made them with the commit of that name. Their bytes come from one processor; another's
sums may differ in their last digit, and a choice that hangs on it does too, so numbers are compared to 1e-3.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, read_rows, write_rows
from tests.fixtures.make_runs import RUNS, STILL
from zofo.cli import main as cli
from zofo.config.resolve import load
from zofo.zo.journal import read_header, read_records

TRAINED = [name for name in RUNS if name not in STILL]
EXPORTED = [name for name in TRAINED if RUNS[name][:2] == ["--task", "rows.jsonl"]]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which the older version was called. Read only."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests/fixtures/runs_of_c5ac1e8.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def zofo(unpacked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """zofo(*args) -> what it said, called there; it must succeed."""
    monkeypatch.chdir(unpacked)

    def run(*args: object) -> str:
        code = cli.run([str(arg) for arg in args])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out + said.err

    return run


def assert_same_numbers(actual: Any, expected: Any, where: str = "", least: float = 1e-4) -> None:
    """Equal but for the last digits of numbers. What a later version adds is no difference. least: numbers that are as
    near as that are equal."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_same_numbers(actual[key], value, f"{where}.{key}", least)
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same_numbers(one, other, f"{where}[{number}]", least)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-3, abs=least), where
    else:
        assert actual == expected, where


def least_of_c(info: dict[str, Any], run: Path) -> float:
    """How near two coefficients c = (G+ - G-) / 2 eps are that are equal: on a processor with other instructions than
    those of the fixture the losses G have other last digits, which 1 / 2 eps enlarges. info: of the older run."""
    if info["environment"]["cpu_capability"] == torch.backends.cpu.get_cpu_capability():
        return 1e-4
    return 1e-4 / (2 * load(run / "config.yaml").estimator.eps)


@pytest.mark.parametrize("name", [name for name in RUNS if RUNS[name][:2] == ["--task", "rows.jsonl"]][::3])
def test_a_run_predicts_what_it_did(name: str, unpacked: Path, zofo: Callable[..., str], tmp_path: Path) -> None:
    """Rows without labels, of runs that did not record theirs."""
    old = read_rows(unpacked / "evals" / name / "predictions.jsonl")
    write_rows(tmp_path / "rows.jsonl", [{"text": row["prompt"]} for row in old])
    zofo("predict", f"runs/{name}", "--file", tmp_path / "rows.jsonl", "--output", tmp_path / "out.jsonl")
    for row, before in zip(read_rows(tmp_path / "out.jsonl"), old, strict=True):
        shares = torch.tensor(before["scores"]).softmax(0).tolist()
        options = [answer.strip() for answer in before["answers"]]
        assert [row[f"probability_{option}"] for option in options] == pytest.approx(shares, abs=1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_evaluated_as_it_was(name: str, unpacked: Path, zofo: Callable[..., str], tmp_path: Path) -> None:
    zofo("eval", f"runs/{name}", "--output", tmp_path)
    old = unpacked / "evals" / name
    results = [json.loads((at / "results.json").read_text()) for at in (tmp_path, old)]
    assert_same_numbers(results[0], results[1])
    assert_same_numbers(read_rows(tmp_path / "predictions.jsonl"), read_rows(old / "predictions.jsonl"))


@pytest.mark.parametrize("name", TRAINED)
def test_a_run_is_exported_as_it_was(name: str, unpacked: Path, zofo: Callable[..., str], tmp_path: Path) -> None:
    zofo("export", "--separate", f"runs/{name}", tmp_path / "new")
    old = unpacked / "exports" / name
    weights = sorted(path.relative_to(old) for path in old.rglob("*.safetensors"))
    assert weights == sorted(path.relative_to(tmp_path / "new") for path in (tmp_path / "new").rglob("*.safetensors"))
    for path in weights:
        exported, expected = load_file(tmp_path / "new" / path), load_file(old / path)
        assert exported.keys() == expected.keys()
        for key, tensor in expected.items():
            assert exported[key].dtype == tensor.dtype
            assert (exported[key].float() - tensor.float()).abs().max() < 1e-5, key


@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_is_evaluated_as_its_run(name: str, unpacked: Path, zofo: Callable[..., str], tmp_path: Path) -> None:
    """Of bfloat16 the export is float32 on a CPU: another arithmetic."""
    data = [arg for arg in RUNS[name] if arg.startswith("task.") and "objective" not in arg]
    zofo("eval", f"exports/{name}", "--task", "rows.jsonl", *data, "--output", tmp_path)
    rows = [read_rows(at / "predictions.jsonl") for at in (tmp_path, unpacked / "evals" / name)]
    assert [row["id"] for row in rows[0]] == [row["id"] for row in rows[1]]
    if "bf16" not in name:
        assert_same_numbers([row["scores"] for row in rows[0]], [row["scores"] for row in rows[1]])


# A run of each method in every run of the suite; the others with `make test-slow`
OTHERS = [name for name in TRAINED if name.startswith(("mezo-", "sparse-mezo-", "fo-peft-"))]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in OTHERS else n for n in TRAINED])
def test_a_run_goes_on_as_it_did(name: str, unpacked: Path, zofo: Callable[..., str], tmp_path: Path) -> None:
    """theta is replayed from the journal and the streams taken up: what follows is what the older version did then."""
    run, old = shutil.copytree(unpacked / "runs" / name, tmp_path / "run"), unpacked / "longer" / name
    zofo("train", "--output-dir", run, "--resume", "latest", "train.max_steps=24")
    numbers = [json.loads((at / "run.json").read_text()) for at in (run, old)]
    for part in ("steps", "dev", "test", "best_step", "deployed"):
        assert_same_numbers(numbers[0][part], numbers[1][part], part)
    if (old / "journal.bin").exists():
        records = [list(read_records(at / "journal.bin", read_header(at / "journal.bin")[1])) for at in (run, old)]
        assert [r.step for r in records[0]] == [r.step for r in records[1]]
        assert_same_numbers([r.rate for r in records[0]], [r.rate for r in records[1]])
        least = least_of_c(numbers[1], run)
        for record, expected in zip(*records, strict=True):
            assert [seed for seed, _ in record.terms] == [seed for seed, _ in expected.terms]
            found, before = ([c for _, c in each.terms] for each in (record, expected))
            assert_same_numbers(found, before, f"step {expected.step}", least)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_no_fault(name: str, zofo: Callable[..., str]) -> None:
    """It has no manifest.json, and its journal is of format 2."""
    said = zofo("validate", f"runs/{name}")
    assert "run.json: as the run wrote it: yes" in said
    assert "examples: those that the run was made with: not checked" in said


@pytest.mark.parametrize("name", TRAINED)
def test_a_saved_configuration_is_a_configuration(name: str, zofo: Callable[..., str]) -> None:
    zofo("validate", f"runs/{name}/config.yaml")

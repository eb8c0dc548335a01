"""`zofo validate RUN`: lines and exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zofo import finetune
from zofo.cli import main as cli
from zofo.errors import RunError

SMALL: dict[str, Any] = {"max_steps": 4, "batch_size": 4, "eval_steps": 2, "save_steps": 2}


@pytest.fixture
def run(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> Path:
    return finetune(str(tiny_model_dir), str(sentiment_file), "mezo", output_dir=tmp_path / "run", **SMALL).path


@pytest.fixture
def validate(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], list[str]]]:
    """validate(*args) -> (exit code, lines of stdout, lines of stderr)"""

    def call(*args: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = cli.run(["validate", *map(str, args)])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return call


def test_a_whole_run(
    run: Path, sentiment_file: Path, validate: Callable[..., tuple[int, list[str], list[str]]]
) -> None:
    code, lines, errors = validate(run)
    assert (code, errors) == (0, [])
    assert "config.yaml: as the run wrote it: yes" in lines
    assert "theta: the journal replayed, and every snapshot equal to it bit for bit: yes" in lines
    assert lines[-2].startswith("metrics.jsonl, README.md, eval/, superseded/: that they are there, and no more")
    assert lines[-1] == (f"the run is whole: `zofo eval {run}` measures it, `zofo export {run} OUT` writes its model")
    sentiment_file.unlink()
    lines = validate(run)[1]
    assert lines[-1].startswith(
        f"the run is whole, as far as it was checked: `zofo eval {run} --data FILE` measures it"
    )
    for path in run.glob("checkpoint-*"):
        shutil.rmtree(path)
    (run / "run.json").unlink()
    gone = ("run.json", "README.md", "info", "readme")
    manifest = json.loads((run / "manifest.json").read_text())
    files = [name for name in manifest["files"] if name not in gone and not name.startswith(("checkpoint-", "eval/"))]
    left = {**{key: value for key, value in manifest.items() if key not in gone}, "files": files}
    (run / "manifest.json").write_text(json.dumps(left))
    code, lines, errors = validate(run)
    assert (code, errors) == (0, [])
    assert lines[-1].startswith("the run has no checkpoint yet, and no process is at it"), "killed before one"


@pytest.mark.parametrize("how", [KeyboardInterrupt("enough"), RunError("stopped before the end; a fix")])
def test_a_run_that_was_stopped(
    how: BaseException,
    tiny_model_dir: Path,
    sentiment_file: Path,
    tmp_path: Path,
    validate: Callable[..., tuple[int, list[str], list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last line is the command that goes on, and it does. One that failed is a finding: exit code 1."""

    def stop(*_: object) -> None:
        raise how

    with monkeypatch.context() as patch:
        patch.setattr("zofo.api.finetune.finish", stop)
        with pytest.raises(type(how)):
            finetune(str(tiny_model_dir), str(sentiment_file), "mezo", output_dir=tmp_path / "run", **SMALL)
    code, lines, errors = validate(tmp_path / "run")
    if isinstance(how, RunError):
        words = "failed at step 4 of 4: stopped before the end"
        assert (code, len(errors)) == (1, 1)
        start, _, command = errors[0].partition("`")
        assert start == f"error: {tmp_path / 'run'}: its files are whole, and the run {words}; "
    else:
        words = "was interrupted at step 4 of 4, before the test set was measured"
        assert (code, errors) == (0, [])
        start, _, command = lines[-1].partition("`")
        assert start == f"the run is whole, and {words}: "
    assert cli.run(command.partition("`")[0].split()[1:]) == 0
    assert (tmp_path / "run" / "run.json").is_file()


def test_every_fault_is_a_line(run: Path, validate: Callable[..., tuple[int, list[str], list[str]]]) -> None:
    raw = (run / "journal.bin").read_bytes()
    (run / "journal.bin").write_bytes(raw[:-35] + raw[-35:-4] + b"\0\1\2\3")
    (run / "checkpoint-2" / "state.json").unlink()
    (run / "run.json").write_text("{")
    (run / "metrics.jsonl").unlink()
    code, lines, errors = validate(run)
    assert (code, lines) == (2, [])
    for name, what in {
        "journal.bin": "record 3 at byte",
        "checkpoint-2/state.json": "missing",
        "run.json": "no JSON",
        "metrics.jsonl": "missing",
    }.items():
        (line,) = [each for each in errors if f"{run / name}: " in each]
        assert what in line
        assert ";" in line, "what can be done"
    assert len(errors) == 4


def test_what_makes_no_sense_beside_a_run(
    run: Path, tmp_path: Path, validate: Callable[..., tuple[int, list[str], list[str]]]
) -> None:
    for args, word in (
        (("--method", "mezo"), "--method"),
        (("--output-dir", "x"), "--output-dir"),
        (("train.seed=3",), "train.seed"),
        ((run / "checkpoint-2" / "..",), "is a run, which is taken as it is"),
    ):
        code, lines, errors = validate(run, *args)
        assert (code, lines) == (2, [])
        assert word in errors[0]
    assert validate(run / "config.yaml")[0] == 0, "a configuration, as before"
    (tmp_path / "empty").mkdir()
    code, _, errors = validate(tmp_path / "empty")
    assert code == 2
    assert "is a directory" in errors[0]


def test_model_and_its_settings_are_taken(
    run: Path, tiny_model_dir: Path, tiny_opt_dir: Path, validate: Callable[..., tuple[int, list[str], list[str]]]
) -> None:
    assert validate(run, "--model", tiny_model_dir, "model.device=cpu")[0] == 0
    code, _, errors = validate(run, "--model", tiny_opt_dir)
    assert code == 2
    assert any("the base model is not the one that the run was made with" in line for line in errors)

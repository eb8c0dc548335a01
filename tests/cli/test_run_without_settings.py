"""A run that has lost its config.yaml is still known as a run, and every verb says what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import sentiment_rows, write_rows
from tests.small_runs import SMALL
from zofo import finetune
from zofo.cli import main as cli


@pytest.fixture(scope="module")
def made(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("settings")
    rows = write_rows(root / "rows.jsonl", sentiment_rows(40))
    return finetune(str(tiny_model_dir), str(rows), "mezo", output_dir=root / "run", **SMALL).path


@pytest.mark.parametrize("lost", ["config.yaml", "config.yaml run.json", "config.yaml manifest.json README.md"])
@pytest.mark.parametrize(
    "args",
    [
        "eval RUN",
        "eval RUN/checkpoint-8",
        "eval RUN --adapter theta",
        "generate RUN --prompt x",
        "generate RUN/checkpoint-4 --prompt x",
        "predict RUN --text x",
        "export RUN OUT",
        "export RUN/checkpoint-8 OUT",
        "meta-test RUN --task class-to-class --data DATA",
        "validate RUN",
        "train --resume latest --output-dir RUN",
    ],
)
def test_every_verb_says_so(
    args: str, lost: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    for name in lost.split():
        (run / name).unlink()
    before = sorted(run.rglob("*"))
    (tmp_path / "data").mkdir()
    places = {"RUN": str(run), "OUT": str(tmp_path / "out"), "DATA": str(tmp_path / "data")}
    for key, place in places.items():
        args = args.replace(key, place)
    assert cli.run(args.split()) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert any("config.yaml" in line for line in lines), lines
    assert not any("config.json" in line or "no run.json" in line or "is no run" in line for line in lines), lines
    assert sorted(run.rglob("*")) == before
    assert not (tmp_path / "out").exists()

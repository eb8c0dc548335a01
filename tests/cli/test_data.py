"""The verb `zofo data`: what it prints, and that it replaces a task whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo.cli import main as cli
from zofo.cli.data import summary


def test_summaries() -> None:
    def row(*options: str) -> dict[str, Any]:
        return {"options": list(options)}

    assert summary([row(), row()]) == "free text"
    assert summary([row("a", "b")] * 2) == "options: a | b"
    assert summary([row(*"abcdefgh")] * 2) == "one set of 8 options"
    assert summary([row("a", "b"), row("c", "d")]) == "2 options of its own each"
    assert summary([row("a", "b"), row("c", "d", "e", "f"), row("a", "b", "c")]) == "2 to 4 options of its own each"


def test_the_verb(sst2_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = ["data", "meta", "sst2", "--data", str(sst2_dir), "--output-dir", str(out), "--train-examples", "3"]
    assert cli.run(line) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}/sst2/train.jsonl: 3 rows, options: terrible | great, template plain",
        f"{out}/sst2/test.jsonl: 4 rows, options: terrible | great, template plain",
    ]
    assert cli.run([*line, "--test-examples", "1"]) == 2
    assert capsys.readouterr().err == (
        f"error: {out}/sst2: exists; give another --output-dir, or --overwrite to replace it\n"
    )
    assert cli.run([*line, "--test-examples", "0", "--overwrite"]) == 0
    assert [f.name for f in (out / "sst2").iterdir()] == ["train.jsonl"], "the old task is gone whole"
    assert [f.name for f in out.iterdir()] == ["sst2"]
    assert "1 row," not in capsys.readouterr().out
    assert cli.run([*line, "--train-examples", "1", "--overwrite"]) == 0
    assert "train.jsonl: 1 row, options" in capsys.readouterr().out


def test_the_group_alone_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data"]) == 0
    assert "meta" in capsys.readouterr().out
    assert cli.run(["data", "mete"]) == 2
    assert "mete" in capsys.readouterr().err

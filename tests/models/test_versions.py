"""What zofo says of the libraries' versions is what its suite was run with: `zofo env`, errors, the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests import compatibility
from zofo.cli import main as cli
from zofo.models import versions
from zofo.models.versions import Library


def line(name: str = "tested", failed: int = 0, python: str = "3.11.7", **libraries: str) -> dict[str, Any]:
    return {
        "environment": name,
        "date": "2026-11-28",
        "python": python,
        "platform": "Linux x86_64",
        "passed": 9,
        "failed": failed,
        "skipped": 1,
        "seconds": 90,
        "versions": libraries,
    }


@pytest.mark.parametrize(
    ("here", "standing"),
    [
        ("2.9.9", "older"),
        ("2.10.0", "tested"),
        ("2.13.0+cpu", "tested"),
        ("2.13.0rc1", "tested"),
        ("2.13.1", "newer"),
        ("3.0", "newer"),
        (None, "missing"),
    ],
)
def test_where_a_version_stands(here: str | None, standing: str) -> None:
    assert Library("torch", here, "2.10.0", "2.13.0").standing == standing


def test_env_shows_the_tested_versions_beside_those_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = (
        Library("torch", "2.13.0+cpu", "2.10.0", "2.13.0"),
        Library("peft", "99.0", "0.20.0", "0.21.2"),
        Library("numba", "0.1", "0.61.0", "0.68.1"),
        Library("datasets", None, "4.0.0", "5.2.0"),
    )
    monkeypatch.setattr(versions, "libraries", lambda: known)
    monkeypatch.setattr(versions, "pythons", lambda: ("3.2", "3.3"))
    assert cli.run(["env"]) == 0
    out, err = capsys.readouterr()
    rows = {row.split("\t")[0]: row.split("\t")[1:] for row in out.splitlines()}
    span = {each.name: each.span for each in known}
    assert rows["torch"] == ["2.13.0+cpu", "2.10.0 to 2.13.0"]
    assert rows["peft"] == ["99.0", span["peft"]]
    assert rows["datasets"] == ["not installed", span["datasets"]]
    assert rows["python"][1] == "3.2, 3.3"
    assert len(err.splitlines()) == 4
    for words in (
        r"warning: python 3\.\d+ was not tested \(tested with 3.2, 3.3\)",
        r"warning: peft 99.0 \(tested with .*\): is newer than any version that the tests passed with",
        r"warning: numba 0.1 \(tested with .*\): is older than any version that the tests passed with",
        r"warning: datasets not installed \(tested with .*\): is needed",
    ):
        assert re.search(words, err)


def test_the_ranges_come_from_lines_without_a_failure() -> None:
    records = [
        line("oldest", torch="2.10.0", peft="0.20.0"),
        line("tested", torch="2.13.0+cpu", peft="0.21.2"),
        line("newest", 1, torch="2.15.0", peft="0.22.0"),
        line("oldest", 0, torch="2.9.1", peft="0.20.0"),  # of before a bound was raised
        line("newest", 0, "3.13.0", torch="2.12.0"),
    ]
    spans = compatibility.tested(records)
    assert spans == {"torch": ("2.10.0", "2.13.0"), "peft": ("0.20.0", "0.21.2")}, "by version, not by letter"
    assert "| newest | 2026-11-28 | 3.11.7 | Linux x86_64 | 2.15.0 |" in compatibility.table(records)


def test_a_line_replaces_the_one_about_the_same_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LINES", "TESTED", "PAGE"):
        monkeypatch.setattr(compatibility, name, tmp_path / name)
    (tmp_path / "PAGE").write_text(f"a\n{compatibility.BEGIN}\nold\n{compatibility.END}\nb\n")
    old, new = line(failed=2, torch="2.13.0"), line(torch="2.13.0")
    compatibility.write([old])
    assert json.loads((tmp_path / "TESTED").read_text())["libraries"] == {}
    compatibility.write([*(each for each in compatibility.lines() if not compatibility._same(each, new)), new])
    assert compatibility.lines() == [new]
    assert json.loads((tmp_path / "TESTED").read_text()) == {
        "pythons": ["3.11"],
        "libraries": {"torch": ["2.13.0", "2.13.0"]},
    }
    page = (tmp_path / "PAGE").read_text()
    assert page.startswith("a\n")
    assert page.endswith(f"{compatibility.END}\nb\n")
    assert "old" not in page

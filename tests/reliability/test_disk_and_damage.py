"""The scripts that break the disk and the files find what is wrong, and find nothing wrong."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from reliability import damage
from tests.conftest import ROOT
from tests.fuzz.world import World


@pytest.mark.slow
@pytest.mark.parametrize("only", ["export", "eval", "train mezo-adamw", "resume fo-ft"])
def test_a_minute_of_broken_disks(only: str, tmp_path: Path) -> None:
    out = tmp_path / "disk.json"
    command = [sys.executable, "-m", "reliability.disk", "--minutes", "1", "--only", only, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    figures = json.loads(out.read_text())
    assert figures["faults"] == [], done.stdout[-2000:]
    assert figures["cases"] > 10


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[damage.Subject]]:
    folder = tmp_path_factory.mktemp("damage")
    each = damage.subjects(World(folder), folder)
    for subject in each:
        damage.undamaged(subject, folder)
    return folder, each


@pytest.mark.slow
def test_a_sample_of_damages(subjects: tuple[Path, list[damage.Subject]]) -> None:
    folder, each = subjects
    tally = damage.Tally()
    for one in damage.plan(each, random.Random(5))[:250]:
        damage.case(*one, folder, tally)
    assert tally.faults == []
    assert tally.refused > 80


@pytest.mark.slow
def test_it_sees_another_result_and_a_raw_error(
    subjects: tuple[Path, list[damage.Subject]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the checksums of exports a flipped weight is another result."""
    folder, each = subjects
    (subject,) = (one for one in each if one.name == "export, merged")
    raw = (subject.path / "model.safetensors").read_bytes()
    at = len(raw) // 2
    spoilt = (
        subject,
        "model.safetensors",
        "a bit flipped",
        raw[:at] + b"\x00\x00\x80\x40" * 8 + raw[at + 32 :],
        "eval",
    )
    monkeypatch.setattr("zofo.models.files.check_export", lambda directory: None)
    tally = damage.Tally()
    damage.case(*spoilt, folder, tally)
    assert any("another result without a word" in fault for fault in tally.faults)
    monkeypatch.undo()
    tally = damage.Tally()
    damage.case(*spoilt, folder, tally)
    assert (tally.refused, tally.faults) == (1, [])

"""The script of long runs: a short one is made, and what grows is seen."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from reliability import long_runs
from zofo.train.callbacks import HISTORY
from zofo.zo.journal import Journal, Record

LOOK: dict[str, Any] = {
    "step": 0,
    "resident": 500 * long_runs.MIB,
    "open": 9,
    "threads": 3,
    "python_threads": 1,
    "log_history": HISTORY,
    "cpu_seconds": 4.0,
    "units": 1.0,
    "files": {"journal.bin": 0, "metrics.jsonl": 0, "checkpoint-N/trainer_state.json": 90_000, "manifest.json": 900},
}


def looks() -> list[dict[str, Any]]:
    made = []
    for number in range(1, 21):
        look = copy.deepcopy(LOOK)
        look["step"] = 550 * number
        look["files"] |= {"journal.bin": 35 * look["step"], "metrics.jsonl": 18 * look["step"]}
        made.append(look)
    return made


def faults(seen: list[dict[str, Any]]) -> list[str]:
    return long_runs.judged({"steps": 11_000, "asked": 11_000, "looks": seen})["faults"]


def test_what_is_flat_has_no_fault() -> None:
    assert faults(looks()) == []


@pytest.mark.parametrize(
    ("what", "grow"),
    [
        ("resident", lambda look, n: look.update(resident=look["resident"] + n * long_runs.MIB)),
        ("open", lambda look, n: look.update(open=9 + n // 4)),
        ("threads", lambda look, n: look.update(threads=3 + n // 8)),
        ("units", lambda look, n: look.update(units=1.0 + 0.05 * n)),
        ("journal.bin", lambda look, n: look["files"].update({"journal.bin": 35 * look["step"] * n})),
        ("manifest.json", lambda look, n: look["files"].update({"manifest.json": 900 + 100 * n})),
        ("trainer_state.json", lambda look, n: look["files"].update({"checkpoint-N/trainer_state.json": 60_000 * n})),
    ],
)
def test_what_grows_is_a_fault(what: str, grow: Any) -> None:
    seen = looks()
    for number, look in enumerate(seen):
        grow(look, number)
    assert any(what in fault for fault in faults(seen))


@pytest.mark.slow
def test_a_short_run(tmp_path: Path) -> None:
    long_runs.child("spsa, momentum", 1100, 600, part := tmp_path / "part.json")
    seen = json.loads(part.read_text())
    assert [look["step"] for look in seen["looks"]] == [550, 1100]
    assert seen["looks"][-1]["files"]["checkpoint-N/trainer_state.json"] > 0


def test_a_journal_knows_its_length_without_reading(tmp_path: Path) -> None:
    """Each save asks for it: a scan of all records each time would take the square of a run's steps."""
    path = tmp_path / "journal.bin"
    journal = Journal.create(path, {"seed": 0})
    for step in range(5):
        journal.append(Record(step, ((1, 0.5),), 1e-3))
        assert journal.number == step + 1 == sum(1 for _ in journal.records())
    position = journal.position
    journal.append(Record(5, ((1, 0.5),), 1e-3))
    journal.close()
    again = Journal.open(path, position)  # as a resume does
    assert again.number == 5
    again.close()

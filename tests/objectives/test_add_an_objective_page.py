"""The example of docs/add_an_objective.md is a working objective, and the test that it prints can fail."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.family_runs import save_rows
from zofo import finetune, objectives
from zofo.config import registry

DOC = ROOT / "docs" / "add_an_objective.md"
NAME = "zofo.objectives.margin"


def module(source: str, name: str) -> types.ModuleType:
    made = types.ModuleType(name)
    exec(compile(source, f"{DOC} ({name})", "exec"), made.__dict__)
    return made


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """The printed test's module; the objective is where a plug-in's would be."""
    objective, test = [text for text in re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S) if "import" in text]
    margin = module(objective, NAME)
    monkeypatch.setitem(sys.modules, NAME, margin)
    monkeypatch.setattr(objectives, "margin", margin, raising=False)
    point = types.SimpleNamespace(name="margin", load=lambda: margin)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "zofo.objectives" else [])
    monkeypatch.setattr(registry, "EntryPoint", types.SimpleNamespace)
    return module(test, "test_margin")


def test_the_printed_test_passes(page: Any) -> None:
    page.test_the_margin_by_hand()


def test_the_printed_test_can_fail(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from zofo.objectives import options

    monkeypatch.setattr(page.margin, "Objective", options.Objective)
    with pytest.raises(AssertionError):
        page.test_the_margin_by_hand()


@pytest.mark.parametrize("method", ["mezo", "fo-peft", "bilevel-zofo"])
def test_a_run_descends_it(page: Any, method: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    run = finetune(
        str(tiny_model_dir),
        str(save_rows(tmp_path)),
        method,
        output_dir=tmp_path / "out",
        max_steps=11,
        batch_size=4,
        overrides=["task.objective=margin"],
    )
    assert run.dev["loss"] >= 0
    assert (run.path / "config.yaml").read_text().count("objective: margin") == 1

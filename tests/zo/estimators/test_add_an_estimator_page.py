"""The example of docs/add_an_estimator.md is a working estimator, and the test that it prints holds."""

from __future__ import annotations

import re
import sys
import types
from typing import Any

import pytest

from tests.conftest import ROOT
from zofo.zo import estimators

DOC = ROOT / "docs" / "add_an_estimator.md"


def module(source: str, name: str) -> types.ModuleType:
    made = types.ModuleType(name)
    sys.modules[name] = made  # dataclasses look their module up
    exec(compile(source, f"{DOC} ({name})", "exec"), made.__dict__)
    return made


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The estimator in its place, and the test's module."""
    listings = [text for text in re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S) if "import" in text]
    estimator, test = listings
    name = "zofo.zo.estimators.four_point"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))  # undone after the test
    monkeypatch.setattr(estimators, "four_point", module(estimator, name), raising=False)
    monkeypatch.setitem(sys.modules, "test_four_point", types.ModuleType("test_four_point"))
    return estimators.four_point, module(test, "test_four_point")  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("mode", ["layer", "copy", "inplace"])
def test_the_printed_test_passes(mode: str, blocks: Any) -> None:
    blocks[1].test_four_points_are_exact_on_a_cubic(mode)


def test_the_printed_test_can_fail(blocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from zofo.zo.estimators import spsa

    monkeypatch.setattr(blocks[0], "Estimator", spsa.Estimator)
    with pytest.raises(AssertionError):
        blocks[1].test_four_points_are_exact_on_a_cubic("layer")


def test_its_settings_are_checked(blocks: Any) -> None:
    assert blocks[0].Config().problems() == []
    assert blocks[0].Config(far=1.0).problems()[0].startswith("far: ")

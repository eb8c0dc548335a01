"""The record of environments, the constraints and pyproject agree. Not part of a run that makes the record."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import compatibility
from tests.conftest import ROOT
from zofo.models import versions


def test_the_files_are_those_of_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tested.json and the page's table are what `python -m tests.compatibility --table` would write."""
    before = compatibility.TESTED.read_text(), compatibility.PAGE.read_text()
    for name in ("TESTED", "PAGE"):
        copy = tmp_path / name
        copy.write_text(getattr(compatibility, name).read_text())
        monkeypatch.setattr(compatibility, name, copy)
    compatibility.tabulate(compatibility.lines())
    assert (compatibility.TESTED.read_text(), compatibility.PAGE.read_text()) == before


def test_every_dependency_has_a_range_that_its_lower_bound_begins() -> None:
    """pyproject's lower bound is a version that the suite passed with: not one that nobody tried."""
    known = {each.name: each for each in versions.libraries()}
    for requirement in compatibility.requirements():
        (bound,) = [s.version for s in requirement.specifier if s.operator == ">="]
        assert len(requirement.specifier) == 1, f"{requirement}: an upper bound needs a version known to be wrong"
        oldest = Version(known[requirement.name.lower()].oldest)
        assert oldest.release[: len(Version(bound).release)] == Version(bound).release, (
            f"{requirement}: tried from {oldest}"
        )


def test_constraints_name_each_direct_dependency_once_a_python() -> None:
    """The tested environment is whole: what pyproject asks for is pinned, exactly."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        name: of for name, of in project["optional-dependencies"].items() if name != "flower"
    }  # flower.txt has it
    wanted = [*project["dependencies"], *(r for of in extras.values() for r in of)]
    lines = (ROOT / "constraints" / "tested.txt").read_text().splitlines()
    pins = [Requirement(each.split("#")[0]) for each in lines if each.strip() and not each.startswith("#")]
    assert all(str(pin.specifier).startswith("==") and not pin.url for pin in pins)
    names = {pin.name.lower().replace("_", "-") for pin in pins}
    assert {Requirement(text).name.lower() for text in wanted} <= names
    pinned = next(pin for pin in pins if pin.name == "torch")
    assert str(pinned.specifier) in (ROOT / "constraints" / "pins.txt").read_text()


def test_flower_can_be_installed_beside_the_lower_bounds() -> None:
    """typer and rich as Flower pins them are inside zofo's ranges."""
    bounds = {r.name: r.specifier for r in compatibility.requirements()}
    lines = (ROOT / "constraints" / "flower.txt").read_text().splitlines()
    pins = {r.name: str(r.specifier)[2:] for r in (Requirement(each) for each in lines if each.strip())}
    assert "flwr" in pins
    for name in ("typer", "rich"):
        assert bounds[name].contains(pins[name]), f"{name} {pins[name]} is not in {bounds[name]}"

"""The script that kills runs at any file operation finds what is lost, and finds nothing lost."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from reliability import kills
from tests.fuzz.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("kills"))


@pytest.mark.slow
@pytest.mark.parametrize("method", list(kills.METHODS))
def test_a_chain_of_each_method(method: str, world: World, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    sizes = kills.counts_of(world, method, whole)
    tally = kills.Tally()
    kills.chain(world, method, whole, sizes, tmp_path / "run", random.Random(1), tally)
    assert tally.faults == []
    assert sum(tally.kills.values()) >= 1


@pytest.mark.slow
def test_it_sees_what_is_lost(world: World, tmp_path: Path) -> None:
    """A file more, a byte less: both are named."""
    whole, tally = tmp_path / "whole", kills.Tally()
    sizes = kills.counts_of(world, "mezo", whole)
    (whole / "orphan").write_text("x")
    (whole / "eval" / "predictions-theta.jsonl").write_text("{}\n")
    kills.chain(world, "mezo", whole, sizes, tmp_path / "run", random.Random(1), tally)
    assert any("orphan" in fault for fault in tally.faults)
    assert any("predictions-theta.jsonl differs" in fault for fault in tally.faults)
    assert json.loads((tmp_path / "whole.counts").read_text())[0] > 100

"""The script that kills at any file operation finds what is lost, and finds nothing lost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from reliability._undertakings import Undertaking, undertakings

from reliability import kills
from tests.fuzz.world import World

pytestmark = pytest.mark.slow  # forks of this process, each a run


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Undertaking]:
    root = tmp_path_factory.mktemp("kills")
    (root / "finished").mkdir()
    return {each.name: each for each in undertakings(World(root), root / "finished")}


def killed(what: Undertaking, case: Path, seed: int = 1) -> kills.Tally:
    tally = kills.Tally()
    kills.Chain(what, kills.left_alone(what, case), case, random.Random(seed), tally).run()
    return tally


def test_nothing_is_lost(known: dict[str, Undertaking], tmp_path: Path) -> None:
    for name, what in known.items():
        tally = killed(what, tmp_path / "case")
        assert tally.faults == [], name
        assert sum(tally.kills.values()) >= 1


def test_what_is_lost_is_found(known: dict[str, Undertaking], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that leaves a file behind, and one that loses a checkpoint."""
    what, case = known["fo-peft"], tmp_path / "case"
    whole, tally = kills.left_alone(what, case), kills.Tally()
    real = kills.command

    def leaves(*args: object) -> object:
        ended = real(*args)  # type: ignore[arg-type]
        (case / "out" / "left.tmp").write_text("x", "utf-8")
        return ended

    monkeypatch.setattr(kills, "command", leaves)
    kills.Chain(what, whole, case, random.Random(1), tally).run()
    assert any("left.tmp: only here" in fault for fault in tally.faults)

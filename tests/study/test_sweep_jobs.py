"""Which runs a study has left, and which trial is chosen, by how their directories stand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from zofo.study.plan import Row
from zofo.study.sweep_jobs import Job, State, chosen, left, value_of
from zofo.train.run_dir import RunDir

TWO = Row("mezo", {}, 2, ({}, {}))


def done(value: float, **fields: Any) -> State:
    return State("done", value, settled=True, begun=True, **fields)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((done(0.7), done(0.6)), 1),
        ((done(0.6), done(0.6)), 0),  # of two alike the earlier
        ((done(math.inf), done(0.7)), 1),  # not finite on dev
        ((done(math.inf), done(math.inf)), None),
        ((State("failed", 0.1), done(0.7)), 1),
        ((State("pruned", 0.1), State("refused")), None),
        ((done(0.7), State("open")), None),  # not before all are over
        ((done(0.7), State("going")), None),
        ((State("going", 0.6, settled=True), done(0.7)), 0),  # only its test set is being measured
    ],
)
def test_the_choice_reads_dev_alone(states: tuple[State, ...], expected: int | None) -> None:
    assert chosen(TWO, dict(enumerate(states))) == expected


def test_of_one_trial_there_is_nothing_to_choose() -> None:
    assert chosen(Row("mezo", {}), {0: State("open")}) == 0


def test_what_is_left() -> None:
    trial, final = Job(TWO, "trial", 0), Job(TWO, "seed", 1, chosen=0)
    assert left([(final, done(0.5)), (trial, State("open"))]) == [trial, final], "trials first"
    whole = done(0.5, tested=True, noted=True)
    for kind in ("going", "failed", "pruned", "refused"):
        assert left([(trial, State(kind)), (final, whole), (trial, done(0.5))]) == []


@pytest.mark.parametrize(
    ("dev", "expected"),
    [
        ({"loss": 0.5, "accuracy": 0.9}, 0.5),
        ({"loss": None, "accuracy": 0.9}, math.inf),
        ({"accuracy": 0.9}, -0.9),  # rows without a loss
        ({"accuracy": None}, math.inf),
        ({}, math.inf),
    ],
)
def test_the_value_of_a_run(dev: dict[str, Any], expected: float, tmp_path: Path) -> None:
    """Of what it deploys; null in a file is not finite."""
    info = json.loads(json.dumps({"dev": {"s": dev, "p": {"loss": 0.1}}, "deployed": "s", "metric": "accuracy"}))
    assert value_of(RunDir(tmp_path), info) == expected

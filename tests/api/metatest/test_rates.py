"""Which tuning rate the meta-test takes: the best on held-out training tasks alone."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import zofo
from tests.metatest_protocol import SubjectCalls, protocol_on
from tests.setting_files import JsonRow
from zofo.api.metatest.plan import Plan
from zofo.api.metatest.protocol import Protocol
from zofo.data.example import TASK_MEAN
from zofo.data.metrics import NONE
from zofo.errors import InputError


class ToldParts:
    """Protocol.part with told numbers: (value, loss) by task and rate; and which parts were asked for, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, held: dict[float, tuple[float, float]], best: float) -> None:
        """held: of the held-out task. best: the rate that the target tasks would take."""
        self.asked: list[tuple[str, str, int, float | None]] = []

        def part(protocol: Any, way: str, pool: Any, seed: int, rate: float | None) -> JsonRow:
            self.asked.append((way, pool.name, seed, rate))
            value, loss = held[rate or 0] if pool.name in protocol.setting.held_out else (float(rate == best), 0.0)
            facts = {"way": way, "task": pool.name, "seed": seed, "rate": rate, "metric": pool.metric}
            return {**facts, "value": value, "loss": loss, "n": 5, "seconds": 0.0}

        monkeypatch.setattr(Protocol, "part", part)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({1e-3: (0.5, 2.0), 1e-2: (0.4, 1.0), 1e-1: (0.3, 0.5)}, 1e-3),  # the score decides, not the loss
        ({1e-3: (0.5, 2.0), 1e-2: (0.5, 1.0), 1e-1: (0.4, 0.5)}, 1e-2),  # a tie goes to the lower loss
        ({1e-3: (0.5, 1.0), 1e-2: (0.5, 1.0), 1e-1: (0.2, 0.5)}, 1e-3),  # and then to the lower rate
        ({1e-3: (0.5, 2.0), 1e-2: (0.5, float("nan")), 1e-1: (0.4, 0.5)}, 1e-3),  # no loss is no lower loss
        ({1e-3: (0.5, float("nan")), 1e-2: (0.5, 2.0), 1e-1: (0.4, 0.5)}, 1e-2),  # wherever it stands
    ],
)
def test_held_out_training_tasks_alone_choose_the_rate(
    held: dict[float, tuple[float, float]],
    expected: float,
    run_of: Any,
    small_setting: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Target tasks would take 0.1."""
    told = ToldParts(monkeypatch, held, best=1e-1)
    plan = Plan(("tuned", "tuned-fresh"), seeds=(42, 13, 21), rates=tuple(held), rate_runs=2)
    parts = protocol_on(run_of("shared"), small_setting, plan).run()
    assert {part["rate"] for part in parts} == {expected}
    choosing = [asked for asked in told.asked if asked[1] == "sort"]
    assert told.asked[: len(choosing)] == choosing, "the rates are chosen before any target task is looked at"
    assert len(choosing) == 2 * 3 * 2
    assert {seed for _, _, seed, _ in choosing} == {42, 13}
    assert {asked[1] for asked in told.asked} == {"sort", "film", "kind", "quiz"}
    assert "sort" not in {part["task"] for part in parts}


def test_one_rate_needs_no_choice_nor_held_out_tasks(
    small_setting: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so no training tasks in the directory."""
    data = tmp_path / "data"
    for name in ("film", "quiz"):
        shutil.copytree(small_setting.parent / "data" / name, data / name)
    calls = SubjectCalls(monkeypatch)
    plan: dict[str, Any] = {"task": str(small_setting), "data": str(data), "seeds": (100,), "steps": 1}
    result = zofo.meta_test(tiny_model_dir, ways=["tuned-fresh"], rates=(1e-3,), **plan)
    assert {t["task"] for t in calls.tunings} == {"film", "quiz"}
    assert result["ways"]["tuned-fresh"]["rate"] == 1e-3
    with pytest.raises(InputError, match="held"):
        zofo.meta_test(tiny_model_dir, ways=["tuned-fresh"], rates=(1e-3, 1e-2), **plan)


def test_a_rate_that_diverges_is_not_chosen(run_of: Any) -> None:
    result = zofo.meta_test(run_of("shared"), ways=["tuned"], seeds=(100,), rates=(1e30, 1e-3), test_examples=4)
    assert result["ways"]["tuned"]["rate"] == 1e-3


def test_rates_that_are_nearly_equal_are_two(run_of: Any, small_setting: Path, tmp_path: Path) -> None:
    plan = Plan(("tuned",), seeds=(100,), rates=(1.00000001e-2, 1.00000002e-2), steps=1)
    protocol = protocol_on(run_of("shared"), small_setting, plan, tmp_path)
    protocol.rate("tuned")
    rates = {json.loads(path.read_text())["rate"] for path in (tmp_path / "parts").rglob("*.json")}
    assert rates == set(plan.rates)


def test_a_rate_whose_scores_are_nan_is_not_chosen_and_parts_are_json(
    run_of: Any, small_setting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All scores NaN: left out. Some losses NaN, as read back from a part's file too: it loses a tie."""
    plan = Plan(("tuned",), seeds=(100,), rates=(1e-1, 1e-2, 1e-3), steps=1)
    protocol = protocol_on(run_of("shared"), small_setting, plan, tmp_path)
    real, rates, said = protocol.subject.measure, list[float](), list[str]()
    tune = protocol._tune

    def tuned(way: str, pool: Any, seed: int, rate: float) -> Any:
        rates.append(rate)
        return tune(way, pool, seed, rate)

    def measure(*args: Any) -> Any:
        evaluation = real(*args)
        bad = len(evaluation.predictions) if rates[-1] == 1e-1 else 1 if rates[-1] == 1e-2 else 0
        predictions = [replace(p, predicted=NONE) if i < bad else p for i, p in enumerate(evaluation.predictions)]
        loss = {1e-1: math.nan, 1e-2: math.nan, 1e-3: 2.0}[rates[-1]]
        values = {**evaluation.values, "loss": loss, TASK_MEAN: 0.5}
        return replace(evaluation, values=values, predictions=predictions)

    monkeypatch.setattr(protocol, "_tune", tuned)
    monkeypatch.setattr(protocol.subject, "measure", measure)
    monkeypatch.setattr(protocol, "say", said.append)
    for _ in range(2):  # the second time the parts come from their files, with null for NaN
        assert protocol.rate("tuned") == 1e-3
    assert any("rate 0.1: left out: tuned on" in line and "NaN, so there is no result" in line for line in said)
    parts = [path.read_text() for path in (tmp_path / "parts").rglob("*.json")]
    assert any(json.loads(text)["loss"] is None for text in parts)
    assert not any("NaN" in text for text in parts)

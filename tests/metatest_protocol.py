"""A meta-test's protocol that a test can reach into: opened on a run, its adapters' starts, its tunings recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.setting_files import JsonRow
from zofo.api.metatest.plan import Plan
from zofo.api.metatest.protocol import Protocol
from zofo.api.metatest.store import Store
from zofo.api.metatest.subject import Subject, open_subject
from zofo.config.resolve import load
from zofo.data.multitask.setting import find_setting, open_setting

ALL_TUNED = Plan(("zero-shot", "tuned", "tuned-fresh"), seeds=(100, 13), rates=(3e-2,), steps=3)
QUICK: dict[str, Any] = {"seeds": (100, 13), "rates": (1e-3,), "steps": 1, "test_examples": 4}  # of zofo.meta_test


def protocol_on(run: Path, setting: Path, plan: Plan, out: Path | None = None) -> Protocol:
    """As `zofo.meta_test` makes it."""
    config, setting_of_file = load(run / "config.yaml"), find_setting(str(setting))
    assert setting_of_file is not None
    opened = open_setting(setting_of_file, setting.parent / "data", 1, config.train.seed)
    subject = open_subject(run, config, plan.ways, 32, config.train.seed)
    return Protocol(subject, opened, config.task, plan, config.train.seed, Store(out))


def start_of(protocol: Protocol, way: str) -> dict[str, torch.Tensor]:
    """The adapter that a way starts from, as its own file would hold it."""
    protocol.subject.begin(way)
    assert protocol.subject.adapters is not None
    return {key: value.clone() for key, value in protocol.subject.adapters.state("tuned").items()}


class SubjectCalls:
    """Every call of Subject.tune and of Subject.measure, with the rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tunings: list[dict[str, Any]] = []
        self.measured: list[dict[str, Any]] = []
        real_tune, real_measure = Subject.tune, Subject.measure

        def tune(
            subject: Subject, way: str, encoded: Any, data: Any, steps: int, batch_size: int, rate: float, seed: int
        ) -> float:
            texts = [(e.example.prompt, e.example.answers[e.example.gold[0]]) for e in encoded]
            task = encoded[0].example.group
            call = {"task": task, "texts": texts, "steps": steps, "batch": batch_size, "rate": rate, "seed": seed}
            self.tunings.append(call)
            return real_tune(subject, way, encoded, data, steps, batch_size, rate, seed)

        def measure(subject: Subject, encoded: Any, *args: Any) -> Any:
            self.measured.append({"way": args[-1], "examples": [e.example for e in encoded]})
            return real_measure(subject, encoded, *args)

        monkeypatch.setattr(Subject, "tune", tune)
        monkeypatch.setattr(Subject, "measure", measure)


def firsts_of_each_class(rows: list[JsonRow], each: int) -> list[tuple[str, str]]:
    """The first `each` rows of each class, as prompts and answers."""
    pairs, taken = [], dict[str, int]()
    for row in rows:
        if taken.get(row["output"], 0) < each:
            taken[row["output"]] = taken.get(row["output"], 0) + 1
            pairs.append((row["input"], "\n" + row["output"]))
    return pairs

"""A configuration to predict the memory of, and the comparison of what is predicted with what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zofo.api.configure import resolve
from zofo.api.memory.footprint import Footprint
from zofo.config.resolve import Config

CLOSE = 0.01  # they are equal with the torch of constraints.txt; another may split an operation in another way


def configuration(model: Path, task: Path | str, *overrides: str, **sections: Any) -> Config:
    train = {"output_dir": "unused", "batch_size": 4, "eval_batch_size": 4, "threads": 1}
    return resolve(None, overrides, model=str(model), task=str(task), train=train, **sections)


def same(predicted: Footprint, measured: Footprint) -> None:
    """Every phase in total, and every part of it that is more than a rounding of the total."""
    assert [p.phase for p in predicted.peaks] == [p.phase for p in measured.peaks]
    assert predicted.batches == measured.batches
    for one, other in zip(predicted.peaks, measured.peaks):
        assert one.total == pytest.approx(other.total, rel=CLOSE), one.phase
        for part, size in other.parts.items():
            assert one.parts[part] == pytest.approx(size, abs=CLOSE * other.total), (one.phase, part)

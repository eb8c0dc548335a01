"""A sweep's plan: a configuration with several methods, adapters, tasks, settings and seeds (docs/sweep.md).

    model: MODEL_DIR
    task: {name: sst2, data: DATA_DIR}
    methods: [mezo, fo-ft]
    search: {method.lr: [1e-5, 1e-4]}
    seeds: [0, 1, 2]
    train: {max_steps: 1000, eval_steps: 100}

A row of it is a method with its adapter and task; its trials are run with the first seed, the one with the best dev is
chosen, and runs with every seed and measures the test set. A point is what a trial sets, "section.field" to value.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.config.layers import SECTIONS, brief
from zofo.errors import did_you_mean, printable

OF_A_ROW = ("search", "trials", "forwards", "seeds", "adapters")
OWN = {  # what a sweep sets itself
    "train.output_dir": "--output-dir says where the study is",
    "train.seed": "give seeds: [0, 1, 2]",
    "train.resume": "a sweep goes on by itself",
    "train.overwrite": "a sweep goes on by itself",
    "train.score_test": "the test set is measured for what dev has chosen",
}
Point = Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """What a setting may be: one of `values`, or a number from low to high, evenly in its logarithm or not."""

    values: tuple[Any, ...] = ()
    low: float = math.nan
    high: float = math.nan
    log: bool = False

    def to_json(self) -> Any:
        return list(self.values) or {"low": self.low, "high": self.high, "log": self.log}

    def ends(self) -> tuple[Any, ...]:
        """Values that stand for all of them when settings are checked."""
        return self.values or (self.low, self.high)


@dataclass(frozen=True)
class Row:
    """settings: of all its runs. points: of its trials, in order; () where TPE chooses them out of `search` as it goes.
    like: the row whose chosen settings it has, with its own over them, so that it has one trial."""

    name: str
    settings: Point
    trials: int = 1
    points: tuple[Point, ...] = ({},)
    search: Mapping[str, Space] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    like: str | None = None


@dataclass(frozen=True)
class Plan:
    """data: what the file says, with what the command line changed. folder: of the file, for its relative paths."""

    name: str
    rows: tuple[Row, ...]
    data: Mapping[str, Any]
    folder: Path
    text: str
    sampler: str = "grid"
    prune: bool = False
    seed: int = 0

    @property
    def preset(self) -> str | None:
        return self.data.get("preset")

    @property
    def runs(self) -> int:
        """Trials, and one more for each further seed."""
        return sum(row.trials + len(row.seeds) - 1 for row in self.rows)

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def label(self, name: str) -> str:
        """What a row is called in a table over tasks: without the task that a plan of several puts before its name."""
        tasks = self.data.get("tasks") or ()
        several = () if isinstance(tasks, str) or len(tasks) < 2 else map(str, tasks)
        return next((name.removeprefix(f"{task}-") for task in several if name.startswith(f"{task}-")), name)

    def digest(self) -> str:
        text = dumps(self.data, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def flat(sections: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    out = dict[str, Any]()
    for section, content in sections.items():
        if isinstance(content, Mapping):
            out |= {f"{section}.{key}": value for key, value in content.items()}
        elif isinstance(content, (str, os.PathLike)):
            out[f"{section}.name"] = os.fspath(content)
        elif content is not None:
            faults.append(f"{section}: expected a name or a mapping, got {brief(content)}")
    return settings_of("", out, faults)


def settings_of(place: str, content: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """ "section.field" to value; `method: mezo` is its name. A sweep's own settings are refused."""
    out, before = dict[str, Any](), f"{place}: " if place else ""
    for key, value in content.items():
        section, dot, name = str(key).partition(".")
        if section not in SECTIONS:
            hint = did_you_mean(section, (*SECTIONS, *OF_A_ROW)) or f"; known: {', '.join(SECTIONS)}"
            faults.append(f'{before}{printable(str(key), 60)}: no "section.field"{hint}')
        elif key in OWN:
            faults.append(f"{before}{key}: leave it out; {OWN[key]}")
        elif dot and name:
            out[str(key)] = value
        elif section == "train" or isinstance(value, Mapping):
            out |= flat({section: value}, faults)
        else:
            out[f"{section}.name"] = value
    return out

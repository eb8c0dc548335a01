"""The plan of `experiments.half_batch`, and which of its parts are finished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.half_batch_trial import Arm
from zofo.config.yaml_reader import read_yaml


@dataclass(frozen=True)
class Part:
    """One file of results: the trials `start` to `stop` of a task at a theta."""

    task: str
    theta: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.theta}-{self.start:04d}"


class Plan:
    """tasks: {name: {half, trials, longest}}; thetas: {name: {steps, lr, batch_size}}, 0 steps: as it came;
    arms: {name: {kind, rates, band, norm_of}}; shared: settings of the session."""

    def __init__(self, path: Path, results: Path | None = None) -> None:
        self.data = read_yaml(path, "plan")
        self.arms = [Arm.read(name, spec) for name, spec in self.data["arms"].items()]
        self.results = results or Path(__file__).parents[1] / "results" / path.stem

    def parts(self) -> Iterator[Part]:
        size = self.data["part"]
        for task, spec in self.data["tasks"].items():
            for theta in self.data["thetas"]:
                for start in range(0, spec["trials"], size):
                    yield Part(task, theta, start, min(start + size, spec["trials"]))

    def file(self, part: Part) -> Path:
        return self.results / f"{part.name}.json"

    def found(self, **where: str) -> list[dict[str, Any]]:
        """The finished parts whose keys have these values."""
        files = [self.file(part) for part in self.parts() if self.file(part).is_file()]
        read = (json.loads(file.read_text()) for file in files)
        return [part for part in read if all(part[key] == value for key, value in where.items())]

"""A meta-test's results as the page has them: its ways, and each target task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.api.metatest.results import percent, rows, with_sd
from zofo.config.json_text import read_json
from zofo.errors import InputError


@dataclass(frozen=True)
class MetaTest:
    """ways: (way, mean and standard deviation, worst seed, unseen domain). tasks: (task, metric, a cell for each way:
    mean and standard deviation over the seeds, worst seed)."""

    name: str
    setting: str
    ways: tuple[tuple[str, ...], ...]
    tasks: tuple[tuple[str, ...], ...]


def is_meta_test(path: Path) -> bool:
    return (path / "results.json").is_file() and (path / "plan.json").is_file()


def meta_test(path: Path) -> MetaTest:
    """Raises InputError where its results are damaged."""
    content = read_json(path / "results.json")
    try:
        ways = content["ways"]
        tasks = dict.fromkeys(task for way in ways.values() for task in way["tasks"])
        by_task = tuple(_task(task, ways) for task in tasks)
        return MetaTest(path.name, str(content["setting"]), tuple(rows(ways)), by_task)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        fix = "measure again with --overwrite"
        raise InputError(f"{path / 'results.json'}: no results of a meta-test; {fix}") from error


def _task(task: str, ways: Mapping[str, Any]) -> tuple[str, ...]:
    measured = [way["tasks"].get(task) for way in ways.values()]
    metric = next(each["metric"] for each in measured if each)
    return task, metric, *("" if each is None else _cell(each) for each in measured)


def _cell(values: dict[str, Any]) -> str:
    worst = f", worst {percent(values['worst'])}" if values["sd"] is not None else ""
    return with_sd(values) + worst

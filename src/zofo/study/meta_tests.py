"""Meta-tests' results as a report and a comparison have them: ways, target tasks, settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.api.metatest.results import percent, rows, with_sd
from zofo.config.json_text import read_json
from zofo.errors import InputError
from zofo.study.statistics import ENOUGH_SEEDS
from zofo.study.table_text import Entry, Table


@dataclass(frozen=True)
class MetaTest:
    """ways: (way, mean and standard deviation, worst seed, unseen domain). tasks: (task, metric, a cell for each way:
    mean and standard deviation over the seeds, worst seed)."""

    name: str
    setting: str
    ways: tuple[tuple[str, ...], ...]
    tasks: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of its ways."""
        return tuple(way[0] for way in self.ways)


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


def table(paths: Sequence[Path]) -> Table:
    """Ways by settings, as Bilevel ZOFO's Table 4: per cent, in brackets the standard deviation over the seeds, a
    setting's best bold. A way that several meta-tests of a setting have is told apart by the directory's name. Raises
    InputError where results are damaged."""
    measured = list[tuple[str, str, str, dict[str, Any]]]()
    for path in paths:
        found = meta_test(path)
        measured += [
            (path.name, found.setting, way, read_json(path / "results.json")["ways"][way]) for way in found.names
        ]
    settings = list(dict.fromkeys(setting for _, setting, _, _ in measured))
    times = Counter((setting, way) for _, setting, way, _ in measured)
    again = {way for (_, way), several in times.items() if several > 1}
    cells = dict[str, dict[str, dict[str, Any]]]()
    for name, setting, way, values in measured:
        cells.setdefault(f"{way} ({name})" if way in again else way, {})[setting] = values["all"]
    best = {setting: max(row[setting]["mean"] for row in cells.values() if setting in row) for setting in settings}
    lines = []
    for way, row in cells.items():
        entries = [
            Entry(with_sd(row[setting]), row[setting]["mean"] == best[setting], row[setting]["mean"])
            if setting in row
            else Entry("-")
            for setting in settings
        ]
        lines.append([Entry(way), *entries])
    seeds = min(len(row[setting]["seeds"]) for row in cells.values() for setting in row)
    notes = [f"underpowered: {seeds} test seeds in a cell, fewer than five"] if seeds < ENOUGH_SEEDS else []
    return Table("target tasks of meta-tests, per cent", ["way", *settings], lines, notes)

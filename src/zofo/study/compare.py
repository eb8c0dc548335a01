"""Runs beside each other: which of them are one row, what each row reached, and which differences are noise."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from zofo.errors import InputError, did_you_mean, first_few
from zofo.study.results import Result, finite, read, runs_in
from zofo.study.statistics import ENOUGH_SEEDS, Estimate, holm, over_examples, over_seeds

Split = Literal["test", "dev"]
# What two runs of one row may differ in: the seed, where files are, and what changes no number
NO_ROW = ("train.seed", "train.output_dir", "train.resume", "train.overwrite", "train.threads", "train.report_to")
NO_ROW += ("train.save_steps", "train.save_total_limit", "train.max_replay_seconds", "model.device")
OF_TASK = ("task.name", "task.data", "task.train_file", "task.dev_file", "task.test_file")
OF_TASK += ("task.train_examples", "task.dev_examples", "task.test_examples", "task.text_column", "task.label_column")


@dataclass(frozen=True)
class Cell:
    """One row on one task. runs: by seed. metric: what is compared, the task's own where nothing else was asked."""

    runs: Mapping[int, Result]
    metric: str
    split: Split

    @property
    def values(self) -> dict[int, float]:
        """{seed: value}, those that are numbers."""
        numbers = {seed: getattr(run, self.split).get(self.metric) for seed, run in self.runs.items()}
        return {seed: float(value) for seed, value in numbers.items() if value is not None and math.isfinite(value)}

    @property
    def mean(self) -> float:
        return statistics.mean(self.values.values()) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Over the seeds; NaN for one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else math.nan

    def by_example(self, seed: int) -> dict[str, float]:
        """{test example: its value}; {} where none are kept, or the metric is no mean of theirs."""
        outcomes = self.runs[seed].outcomes() if self.split == "test" else ()
        values = [one.loss if self.metric == "loss" else one.score for one in outcomes]
        if not (known := finite(values)) or len(known) < len(values):
            return {}
        if not math.isclose(statistics.mean(known), self.values[seed], rel_tol=1e-4, abs_tol=1e-6):
            return {}  # as macro-F1, or a loss that is weighted by tokens
        return dict(zip((one.id for one in outcomes), known))


@dataclass(frozen=True)
class Difference:
    """A row minus the one it is compared with, on one task. seeds, examples: over each kind of noise; None where it
    cannot be told. p: the larger of theirs, adjusted for all comparisons by Holm's rule."""

    seeds: Estimate | None
    examples: Estimate | None
    p: float

    @property
    def mean(self) -> float:
        known = [one.mean for one in (self.seeds, self.examples) if one is not None]
        return known[0] if known else math.nan

    @property
    def within_noise(self) -> bool:
        """Unless every kind of noise that can be told leaves it, and Holm's p is below .05."""
        known = [one for one in (self.seeds, self.examples) if one is not None and one.known]
        return not known or any(one.within_noise for one in known) or not self.p < 0.05


@dataclass(frozen=True)
class Comparison:
    """rows: {name: {task: cell}}. against: the row that the others are compared with. differences: {(row, task)}.

    left_out: runs that are not at their end, with why.
    """

    rows: Mapping[str, Mapping[str, Cell]]
    tasks: Sequence[str]
    against: str
    split: Split
    differences: Mapping[tuple[str, str], Difference]
    left_out: Mapping[Path, str] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """The fewest that a cell has."""
        return min(len(cell.values) for cells in self.rows.values() for cell in cells.values())

    @property
    def underpowered(self) -> bool:
        return self.seeds < ENOUGH_SEEDS

    def average(self, row: str) -> float:
        """Over the tasks; NaN where the row lacks one."""
        cells = self.rows[row]
        return statistics.mean(cells[task].mean for task in self.tasks) if set(cells) == set(self.tasks) else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: each cell's value by seed, and each difference with its intervals."""
        rows = {
            row: {task: {"metric": cell.metric, "values": cell.values} for task, cell in cells.items()}
            for row, cells in self.rows.items()
        }
        differences = [
            {"row": row, "task": task, "difference": one.mean, "p_holm": one.p, "within_noise": one.within_noise}
            | {kind: None if each is None else asdict(each) for kind, each in _kinds(one)}
            for (row, task), one in self.differences.items()
        ]
        return {"split": self.split, "against": self.against, "rows": rows, "differences": differences}

    def best(self, task: str) -> set[str]:
        """The rows with the best mean on a task."""
        means = {row: cells[task].mean for row, cells in self.rows.items() if task in cells}
        known = {row: mean for row, mean in means.items() if math.isfinite(mean)}
        loss = any(cells[task].metric == "loss" for cells in self.rows.values() if task in cells)
        top = (min if loss else max)(known.values(), default=math.nan)
        return {row for row, mean in known.items() if mean == top}


def _kinds(one: Difference) -> list[tuple[str, Estimate | None]]:
    return [("over_seeds", one.seeds), ("over_examples", one.examples)]


def compare(
    paths: Sequence[str | Path], *, against: str | None = None, metric: str | None = None, split: Split = "test"
) -> Comparison:
    """Read runs, directories of runs and kept files, and lay them out: a row for each method, adapter and setting, a
    column for each task, over the seeds.

    against: the row that the others are compared with, the first if left out. metric: each task's own if left out;
    "loss" for the loss. Raises InputError where nothing is finished, or two runs are the same cell and seed.
    """
    if split not in ("test", "dev"):
        raise InputError(f'split: expected "test" or "dev", got "{split}"')
    results, left_out = _read(paths)
    if split == "test":
        left_out |= {run.path: "its test set was not scored" for run in results if not run.test}
        results = [run for run in results if run.test]
    if not results:
        why = "; ".join(f"{path.name}: {reason}" for path, reason in list(left_out.items())[:3])
        raise InputError(f"no finished run to compare{f' ({why})' if why else ''}")
    rows = _rows(results, metric, split)
    tasks = list(dict.fromkeys(task for cells in rows.values() for task in cells))
    if against is not None and against not in rows:
        near = did_you_mean(against, rows)
        raise InputError(f'against: no row "{against}"{near}; rows: {first_few(rows, 12)}')
    chosen = against or next(iter(rows))
    return Comparison(rows, tasks, chosen, split, _differences(rows, chosen), left_out)


def _read(paths: Sequence[str | Path]) -> tuple[list[Result], dict[Path, str]]:
    results, left_out = list[Result](), dict[Path, str]()
    for given in paths:
        found = runs_in(Path(given))
        for path in found or [Path(given)]:  # `read` says what a path without a run is
            result = read(path)
            if result.finished:
                results.append(result)
            else:
                left_out[path] = result.ending.words() or "not at its end"
    unique = {result.path.resolve(): result for result in results}
    return list(unique.values()), left_out


def _rows(results: Sequence[Result], metric: str | None, split: Split) -> dict[str, dict[str, Cell]]:
    names = label(results)
    cells: dict[str, dict[str, dict[int, Result]]] = {}
    for result in results:
        seeds = cells.setdefault(names[result.path], {}).setdefault(result.task, {})
        if (other := seeds.get(result.seed)) is not None:
            raise InputError(
                f"{result.path} and {other.path}: the same settings, task and seed twice; leave one of them out"
            )
        seeds[result.seed] = result
    return {
        row: {task: Cell(seeds, _metric(seeds, metric, split), split) for task, seeds in tasks.items()}
        for row, tasks in cells.items()
    }


def _metric(seeds: Mapping[int, Result], metric: str | None, split: Split) -> str:
    first = next(iter(seeds.values()))
    known = [key for key in getattr(first, split) if key not in ("n", "unpredicted")]
    if metric is not None and metric not in known:
        raise InputError(
            f'metric: {first.path} has no "{metric}"{did_you_mean(metric, known)}; known: {", ".join(known)}'
        )
    return metric or first.metric


def label(results: Sequence[Result]) -> dict[Path, str]:
    """{path: its row's name}: the study's own, or method and adapter, and of rows that share these the settings in
    which they differ."""
    of_study = {run.path: run.info.get("study", {}) for run in results}
    names = {path: str(study.get("label") or study.get("row") or "") for path, study in of_study.items()}
    plain = {run.path: " ".join(filter(None, (run.method, run.adapter))) for run in results}
    groups = defaultdict[str, list[Result]](list)
    for run in results:
        groups[names[run.path] or plain[run.path]].append(run)
    labels = {}
    for name, group in groups.items():
        differing = {} if names[group[0].path] else _differing(group)
        for run in group:
            extra = ", ".join(f"{key.partition('.')[2]} {_word(run.settings.get(key))}" for key in differing)
            labels[run.path] = f"{name} ({extra})" if extra else name
    return labels


def _differing(group: Sequence[Result]) -> list[str]:
    """The settings in which runs differ that are no seed's, place's or task's. A setting that hangs on the task alone
    makes no row."""
    ignored = {*NO_ROW, *OF_TASK}
    keys = dict.fromkeys(key for run in group for key in run.settings if key not in ignored)
    found = []
    for key in keys:
        by_task = defaultdict[str, set[str]](set)
        for run in group:
            by_task[run.task].add(_word(run.settings.get(key)))
        if any(len(values) > 1 for values in by_task.values()):
            found.append(key)
    return found


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _differences(rows: Mapping[str, Mapping[str, Cell]], against: str) -> dict[tuple[str, str], Difference]:
    found: dict[tuple[str, str], Difference] = {}
    for row, cells in rows.items():
        for task, cell in cells.items():
            if row != against and task in rows[against]:
                found[row, task] = difference(cell, rows[against][task])
    adjusted = holm({key: one.p for key, one in found.items()})
    return {key: Difference(one.seeds, one.examples, adjusted[key]) for key, one in found.items()}


def difference(cell: Cell, base: Cell) -> Difference:
    """cell minus base over the seeds that both have; p is not adjusted."""
    shared = [seed for seed in cell.values if seed in base.values]
    if not shared:
        return Difference(None, None, math.nan)
    seeds = over_seeds([cell.values[seed] - base.values[seed] for seed in shared])
    pairs = [(cell.by_example(seed), base.by_example(seed)) for seed in shared]
    by_example = defaultdict[str, list[float]](list)
    for ours, theirs in pairs:
        for name, value in ours.items():
            by_example[name].append(value - theirs.get(name, math.nan))
    same = all(ours and set(ours) == set(theirs) for ours, theirs in pairs)
    examples = over_examples([statistics.mean(each) for each in by_example.values()]) if same else None
    known = [one.p for one in (seeds, examples) if one is not None and math.isfinite(one.p)]
    return Difference(seeds, examples, max(known, default=math.nan))

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
from zofo.study.labels import Named, find_row, label, named, short
from zofo.study.results import Result, finite, read, runs_in
from zofo.study.statistics import ENOUGH_SEEDS, Estimate, holm, over_examples, over_seeds

Split = Literal["test", "dev"]
SPLITS = ("test", "dev")
PRUNED = "pruned: "  # what the reason of a trial begins with that a sweep has stopped


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

    left_out: runs that are not at their end, with why. unchosen: how many trials of a study are not there since dev did
    not choose them, or has not yet. further: runs of chosen settings with other seeds than the trials beside them.
    """

    rows: Mapping[str, Mapping[str, Cell]]
    tasks: Sequence[str]
    against: str
    split: Split
    differences: Mapping[tuple[str, str], Difference]
    left_out: Mapping[Path, str] = field(default_factory=dict)
    unchosen: int = 0
    further: int = 0

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
    if split not in SPLITS:
        raise InputError(f'split: expected "test" or "dev", got "{split}"')
    return of_runs(*_read(paths), against=against, metric=metric, split=split)


def of_runs(
    results: Sequence[Result],
    given: Sequence[Path] = (),
    *,
    against: str | None = None,
    metric: str | None = None,
    split: Split = "test",
) -> Comparison:
    """`compare` of runs that are read. given: those that were asked for by themselves, of which it is said why they are
    left out, trials that dev did not choose too. Raises InputError."""
    names, out = named(results), dict[Path, str]()
    known = [run for run in results if run.finished and (split == "dev" or run.test)]
    without = [run for run in results if run.finished and split == "test" and not run.test]
    unchosen = 0
    for run in results:
        quiet = names[run.path].unchosen and run.path not in given
        if run.finished and run not in known:
            unchosen += quiet
            out |= {} if quiet else {run.path: "its test set was not scored"}
        elif not run.finished:
            pruned = quiet and run.ending.reason.startswith(PRUNED)
            unchosen += pruned
            out |= {} if pruned else {run.path: run.ending.words() or "not at its end"}
    if not known:
        raise InputError(_nothing(split, without, out))
    alike = [run for run in known if not _further(run, known, names)]
    further, known = len(known) - len(alike), alike
    rows = _rows(known, metric, split)
    tasks = list(dict.fromkeys(task for cells in rows.values() for task in cells))
    chosen = next(iter(rows)) if against is None else _against(against, known, results, rows)
    return Comparison(rows, tasks, chosen, split, _differences(rows, chosen), out, unchosen, further)


def _further(run: Result, runs: Sequence[Result], names: Mapping[Path, Named]) -> bool:
    """Whether trials that it was chosen among stand beside it, none with its seed: a mean with this seed in it and one
    without say nothing of the settings."""
    if not (at := names[run.path].place) or not at.chosen:
        return False
    others = [one for one in runs if names[one.path].unchosen and one.task == run.task]
    seeds = {one.seed for one in others if (its := names[one.path].place) is not None and its.row == at.row}
    return bool(seeds) and run.seed not in seeds


def _nothing(split: Split, without: Sequence[Result], left_out: Mapping[Path, str]) -> str:
    """Why there is nothing to compare, and what helps."""
    others = [f"{short(path)}: {why}" for path, why in left_out.items() if path not in {run.path for run in without}]
    why = [f"test set not scored: {first_few([short(run.path) for run in without])}"] if without else []
    why += [first_few(others, 3, "; ")] if others else []
    said = f"no finished run to compare{f' ({joined})' if (joined := '; '.join(why)) else ''}"
    return f"{said}; --split dev compares those that are finished by their dev set" if without else said


def _against(wanted: str, known: Sequence[Result], results: Sequence[Result], rows: Mapping[str, Any]) -> str:
    """The row that is meant, also as it is called beside the trials that are not there. Raises InputError."""
    if (found := find_row(wanted, list(rows))) is not None:
        return found
    now, whole = label(known), label(results)
    if (other := find_row(wanted, list(dict.fromkeys(whole.values())))) is not None:
        meant = {now[path] for path, name in whole.items() if name == other and path in now}
        if len(meant) == 1:
            return meant.pop()
    raise InputError(f'against: no row "{wanted}"{did_you_mean(wanted, rows)}; rows: {first_few(rows, 12)}')


def _read(paths: Sequence[str | Path]) -> tuple[list[Result], list[Path]]:
    """(runs, those of them that were given by themselves)."""
    results, own = dict[Path, Result](), list[Path]()
    for given in map(Path, paths):
        found = runs_in(given)
        for path in found or [given]:  # `read` says what a path without a run is
            result = read(path)
            results.setdefault(path.resolve(), result)
            own += [result.path] if path == given else []
    return list(results.values()), own


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

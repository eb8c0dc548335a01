"""A comparison as a table: the papers' layout (rows by tasks, an average), the four axes of cost, the differences.

`markdown`, `csv`, `latex` and `plain` write them (`table_text`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from zofo.errors import first_few
from zofo.study.compare import Cell, Comparison, Difference
from zofo.study.results import Result, finite
from zofo.study.table_text import Entry, Table, csv, latex, markdown, plain, sentence

__all__ = ["Entry", "Table", "csv", "latex", "markdown", "plain", "tables"]
NOISE, FEW = "~", "not finite"


def tables(comparison: Comparison) -> list[Table]:
    """What was reached, at what cost, and how it differs from the row that is compared with."""
    return [_results(comparison), _costs(comparison), *([_differences(comparison)] if comparison.differences else [])]


def measured(comparison: Comparison) -> list[Table]:
    """`tables` without the cost."""
    return [_results(comparison), *([_differences(comparison)] if comparison.differences else [])]


def _results(comparison: Comparison) -> Table:
    """Mean and standard deviation over the seeds, the best of each task bold."""
    many = len(comparison.tasks) > 1
    head = [
        "",
        *(f"{task} ({metric_of(comparison, task)})" for task in comparison.tasks),
        *(["average"] if many else []),
    ]
    best = {task: comparison.best(task) for task in comparison.tasks}
    averages = {row: comparison.average(row) for row in comparison.rows}
    known = finite(averages.values())
    top = max(known) if known and not _losses(comparison) else min(known, default=math.nan)
    rows = []
    for row, cells in comparison.rows.items():
        line = [Entry(row)]
        for task in comparison.tasks:
            cell = cells.get(task)
            unit, mark = unit_of(comparison, task), marked(comparison, row, task)
            line.append(Entry("-") if cell is None else entry(cell, unit, row in best[task], mark))
        if many:
            mean, units = averages[row], {unit_of(comparison, task) for task in comparison.tasks}
            shown = math.isfinite(mean) and len(units) == 1
            line.append(Entry(number(mean, units.pop()), mean == top, mean) if shown else Entry("-"))
        rows.append(line)
    title = f"{comparison.split} set"
    return Table(title, head, rows, notes(comparison), caption(comparison, title))


def entry(cell: Cell, unit: float, best: bool = False, mark: str = "") -> Entry:
    if not cell.values:
        return Entry(FEW)
    text = number(cell.mean, unit)
    if math.isfinite(cell.sd):
        text += f" ± {number(cell.sd, unit)}"
    short = f" [{len(cell.values)}/{len(cell.runs)}]" if len(cell.values) < len(cell.runs) else ""
    return Entry(text + short + mark, best, cell.mean)


def marked(comparison: Comparison, row: str, task: str) -> str:
    """The sign of a cell that is not shown to differ."""
    difference = comparison.differences.get((row, task))
    return f" {NOISE}" if difference is not None and difference.within_noise else ""


def notes(comparison: Comparison) -> list[str]:
    """What the marks of cells mean."""
    found = []
    if any(one.within_noise for one in comparison.differences.values()):
        found.append(f"{NOISE}: not shown to differ from {comparison.against} (see the differences)")
    found += underpowered(comparison)
    if any(len(cell.values) < len(cell.runs) for cells in comparison.rows.values() for cell in cells.values()):
        found.append("[k/n]: k of n seeds gave a number; the others are not finite")
    return found


def caption(comparison: Comparison, title: str) -> str:
    """title, metric, split, unit, spread and seeds, in sentences."""
    metrics = list(dict.fromkeys(metric_of(comparison, task) for task in comparison.tasks))
    units = {unit_of(comparison, task) for task in comparison.tasks}
    unit = " in per cent" if units == {100.0} else " (shares in per cent)" if 100.0 in units else ""
    spread = "mean ± standard deviation over the seeds" if _seeds(comparison)[-1] > 1 else "of one seed"
    words = f"{sentence(title)}: {' and '.join(metrics)} on the {comparison.split} set{unit}, {spread}"
    return f"{words}. {of_seeds(comparison)} The best mean of a task is bold."


def of_seeds(comparison: Comparison) -> str:
    """How many seeds a cell has, and which, as a sentence."""
    few, most = _seeds(comparison)
    seeds = sorted({seed for cells in comparison.rows.values() for cell in cells.values() for seed in cell.values})
    count = str(few) if few == most else f"{few} to {most}"
    return f"{count} seed{'s' * (most != 1)} a cell ({first_few(map(str, seeds), 10)})."


def _seeds(comparison: Comparison) -> tuple[int, int]:
    """(the fewest, the most that a cell has)."""
    counts = [len(cell.values) for cells in comparison.rows.values() for cell in cells.values()]
    return min(counts), max(counts)


def underpowered(comparison: Comparison) -> list[str]:
    """A note where a cell has fewer than five seeds."""
    few = (
        f"underpowered: {comparison.seeds} seed{'s' if comparison.seeds != 1 else ''} in a cell; with fewer than five, "
    )
    return [few + "only large differences can be shown"] if comparison.underpowered else []


AXES: dict[str, Callable[[Result], float | None]] = {
    "counted steps": lambda run: run.counted_steps,
    "forward-equivalents": lambda run: run.forward_equivalents,
    "seconds": lambda run: run.seconds,
    "trials": lambda run: run.trials,
}


def _costs(comparison: Comparison) -> Table:
    """The mean over tasks and seeds on the four axes."""
    rows = []
    for row, cells in comparison.rows.items():
        runs = [run for cell in cells.values() for run in cell.runs.values()]
        line = [Entry(row), Entry(str(len(runs)), value=len(runs))]
        for axis in AXES.values():
            values = finite(axis(run) for run in runs)
            mean = statistics.mean(values) if values else math.nan
            line.append(Entry(f"{mean:,.0f}" if values else "not known", value=mean if values else None))
        rows.append(line)
    note = "a forward-equivalent is a forward of one batch; a backward pass is two"
    about = f"Cost of a run: means over tasks and seeds. {of_seeds(comparison)}"
    return Table("cost of a run", ["", "runs", *AXES], rows, [note], about)


def _differences(comparison: Comparison) -> Table:
    head = [f"minus {comparison.against}", "task", "difference", "over seeds, 95 %", "over examples, 95 %"]
    head += ["p (Holm)", "verdict"]
    rows = []
    for (row, task), one in comparison.differences.items():
        unit = unit_of(comparison, task)
        adjusted = Entry(f"{one.p:.3g}" if math.isfinite(one.p) else "-", value=one.p)
        line = [
            Entry(row),
            Entry(task),
            Entry(signed(one.mean, unit) if math.isfinite(one.mean) else "-", value=one.mean),
        ]
        rows.append(
            [*line, *(Entry(text) for text in _intervals(one, unit)), adjusted, Entry(_verdict(comparison, one))]
        )
    metrics = " and ".join(dict.fromkeys(metric_of(comparison, task) for task in comparison.tasks))
    title = f"differences from {comparison.against}"
    about = (
        f"{sentence(title)} in {metrics} on the {comparison.split} set, with 95 % intervals (Student's t over seeds, "
    )
    about += f"paired bootstrap over examples) and p adjusted by Holm's rule. {of_seeds(comparison)}"
    return Table(title, head, rows, _of_differences(comparison), about)


def _of_differences(comparison: Comparison) -> list[str]:
    """What n is, where intervals show it."""
    counts = [one.examples.n for one in comparison.differences.values() if one.examples is not None]
    cells = [cell for cells in comparison.rows.values() for cell in cells.values()] if counts else []
    drawn = [int(run.test.get("n") or 0) for cell in cells for run in cell.runs.values()]
    if not drawn or max(counts) <= max(drawn):
        return []
    return ["n over examples is above a run's test examples: each seed drew its own, and n counts those of all seeds"]


def _intervals(one: Difference, unit: float) -> list[str]:
    shown = []
    for estimate in (one.seeds, one.examples):
        if estimate is None or not estimate.known:
            shown.append("-")
        else:
            shown.append(f"{signed(estimate.low, unit)} to {signed(estimate.high, unit)} (n {estimate.n})")
    return shown


def _verdict(comparison: Comparison, one: Difference) -> str:
    if one.seeds is None:
        return "no seed in common"
    if not one.seeds.known and not (one.examples is not None and one.examples.known):
        return "one run each: nothing is known"
    if one.within_noise:
        return "within noise" + (", underpowered" if comparison.underpowered else "")
    kinds = [
        name for name, each in (("seeds", one.seeds), ("examples", one.examples)) if each is None or not each.known
    ]
    return "differs" + (f" (noise of {kinds[0]} not known)" if kinds else "")


def metric_of(comparison: Comparison, task: str) -> str:
    return next(cells[task].metric for cells in comparison.rows.values() if task in cells)


def _losses(comparison: Comparison) -> bool:
    return all(metric_of(comparison, task) == "loss" for task in comparison.tasks)


def unit_of(comparison: Comparison, task: str) -> float:
    """Shares are shown in percent, as the papers do; losses and other numbers as they are."""
    cells = [cells[task] for cells in comparison.rows.values() if task in cells]
    share = all(abs(value) <= 1 for cell in cells for value in cell.values.values())
    return 100.0 if share and cells[0].metric not in ("loss", "perplexity") else 1.0


def number(value: float, unit: float) -> str:
    return f"{value * unit:.1f}" if unit == 100 else f"{value:.4f}"


def signed(value: float, unit: float) -> str:
    return f"{value * unit:+.1f}" if unit == 100 else f"{value:+.4f}"

"""The papers' layouts of a comparison, by name: which runs are a line, which a column.

Bilevel ZOFO is arXiv 2502.03604. A layout is a function from a comparison to a `Table`; `LAYOUTS` has them by the names
that `zofo compare --layout` takes.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from zofo.errors import InputError, did_you_mean
from zofo.study.compare import Cell, Comparison, Difference, difference
from zofo.study.results import Result, finite
from zofo.study.statistics import holm
from zofo.study.table_text import Entry, Table, sentence
from zofo.study.tables import (
    NOISE,
    caption,
    entry,
    marked,
    metric_of,
    notes,
    number,
    of_seeds,
    signed,
    underpowered,
    unit_of,
)

PLAIN = "plain"  # the template without a hard prompt


@dataclass(frozen=True)
class Layout:
    """place: where in which paper a table is laid out so. table: makes it; raises InputError where the runs lack what
    it is of."""

    place: str
    about: str
    table: Callable[[Comparison], Table]


def lay_out(comparison: Comparison, name: str) -> Table:
    """Raises InputError for an unknown name, or runs without what the layout is of."""
    check_name(name)
    table = LAYOUTS[name].table(comparison)
    return table if table.caption else replace(table, caption=f"{sentence(table.title)}. {of_seeds(comparison)}")


def check_name(name: str) -> None:
    """Raises InputError for an unknown layout."""
    if name not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise InputError(f'--layout: unknown "{name}"{did_you_mean(name, LAYOUTS) or f"; known: {known}"}')


def modes(comparison: Comparison) -> Table:
    """Trainers by modes (the adapter; ft: none), each trainer's average over its modes, and the average over tasks."""
    trainers = defaultdict[str, list[str]](list)
    for row, cells in comparison.rows.items():
        trainers[_first(cells).method].append(row)
    head = ["trainer", "mode", *(_headed(comparison, task) for task in comparison.tasks), "average"]
    lines = []
    for trainer, rows in trainers.items():
        known = [_first(comparison.rows[row]).adapter or "ft" for row in rows]
        names = known if len(set(known)) == len(known) else rows
        for row, mode in zip(rows, names):
            lines.append([Entry(trainer), Entry(mode), *_cells(comparison, row), _average(comparison, [row])])
        if len(rows) > 1:
            means = [_mean(comparison, rows, task) for task in comparison.tasks]
            lines.append([Entry(trainer), Entry("average"), *means, _average(comparison, rows)])
    added = notes(comparison)
    if any(one.within_noise for one in comparison.differences.values()):
        added.append(f"an average has no {NOISE}: its own difference was not tested, only those of its cells")
    title = f"{comparison.split} set, trainers by modes"
    return Table(title, head, lines, added, caption(comparison, title))


def prompts(comparison: Comparison) -> Table:
    """With a hard prompt, without one (`task.template=plain`), and the difference with its intervals."""
    pairs = dict[tuple[str, str, str], tuple[Cell, Cell]]()
    for task in comparison.tasks:
        by_trainer = defaultdict[str, dict[str, Cell]](dict)
        for cells in comparison.rows.values():
            if task in cells:
                run = next(iter(cells[task].runs.values()))
                others = by_trainer[_trainer(run)]
                template = str(run.settings.get("task.template", "default"))
                if template in others:
                    raise InputError(
                        f"--layout prompts: {_trainer(run)} on {task} has two rows with template {template}"
                    )
                others[template] = cells[task]
        for trainer, templates in by_trainer.items():
            for template, cell in templates.items():
                if template != PLAIN and PLAIN in templates:
                    pairs[trainer, task, template] = cell, templates[PLAIN]
    if not pairs:
        raise InputError("--layout prompts: no method has both runs with a prompt and with task.template=plain")
    found = {key: difference(without, cell) for key, (cell, without) in pairs.items()}
    adjusted = holm({key: one.p for key, one in found.items()})
    lines = []
    for (trainer, task, template), (cell, without) in pairs.items():
        one = replace(found[trainer, task, template], p=adjusted[trainer, task, template])
        unit = unit_of(comparison, task)
        shown = [entry(each, unit) for each in (cell, without)]
        lines.append([Entry(trainer), Entry(task), Entry(template), *shown, *_differing(one, unit)])
    head = ["method", "task", "prompt", "with prompt", "without prompt", "difference", "95 %", "p (Holm)"]
    lines.sort(key=lambda line: line[0].text)
    title = f"{comparison.split} set, with and without a hard prompt"
    added = [f"{NOISE}: not shown to differ", *underpowered(comparison)]
    return Table(title, head, lines, added, caption(comparison, title))


def _differing(one: Difference, unit: float) -> list[Entry]:
    """(the difference, its wider interval, p)."""
    known = [each for each in (one.seeds, one.examples) if each is not None and each.known]
    wide = max(known, key=lambda each: each.high - each.low, default=None)
    interval = "-" if wide is None else f"{signed(wide.low, unit)} to {signed(wide.high, unit)}"
    p = f"{one.p:.3g}" if math.isfinite(one.p) else "-"
    mark = f" {NOISE}" if one.within_noise else ""
    return [Entry(f"{signed(one.mean, unit)}{mark}", value=one.mean), Entry(interval), Entry(p, value=one.p)]


def stages(comparison: Comparison) -> Table:
    """A first-order adapter (after stage 1), two stages at each rate of theta, and Bilevel ZOFO."""
    order = {"fo-peft": 0, "two-stage": 1}
    rows = sorted(comparison.rows, key=lambda row: order.get(_first(comparison.rows[row]).method, 2))
    if not any(_first(comparison.rows[row]).method == "two-stage" for row in rows):
        raise InputError("--layout stages: there is no run of method two-stage")
    lines = [[*_staged(comparison.rows[row], row), *_cells(comparison, row)] for row in rows]
    head = ["method", "experiment", *(_headed(comparison, task) for task in comparison.tasks)]
    title = f"{comparison.split} set, in two stages and bilevel"
    return Table(title, head, lines, notes(comparison), caption(comparison, title))


def _staged(cells: Mapping[str, Cell], row: str) -> tuple[Entry, Entry]:
    run = _first(cells)
    if run.method == "fo-peft":
        return Entry("two-stage pipeline"), Entry("after stage 1")
    if run.method == "two-stage":
        return Entry("two-stage pipeline"), Entry(f"after stage 2 (lr {run.settings['method.lr_theta']:g})")
    return Entry(run.method), Entry("-" if row == run.method else row)


def seconds(comparison: Comparison) -> Table:
    """Of a counted step, evaluations not included."""
    return _by_task(comparison, "seconds a counted step", lambda run: run.info.get("seconds_per_step"), "{:.3f}")


def memory(comparison: Comparison) -> Table:
    """The peak of the process; on CUDA of the allocator."""
    return _by_task(comparison, "peak memory, GiB", lambda run: _gib(run.info.get("peak_bytes")), "{:.2f}")


def parameters(comparison: Comparison) -> Table:
    """Weights of one adapter, by the backbone; a run without one is left out."""
    counts = defaultdict[str, dict[str, int]](dict)
    for run in _all(comparison.rows.values()):
        size = run.info.get("parameters", {}).get("adapter")
        if run.adapter and size:
            counts[run.model][run.adapter] = size
    if not counts:
        raise InputError("--layout parameters: no run has an adapter")
    adapters = list(dict.fromkeys(adapter for sizes in counts.values() for adapter in sizes))
    lines = [
        [Entry(model), *(Entry(f"{sizes[a]:,}", value=sizes[a]) if a in sizes else Entry("-") for a in adapters)]
        for model, sizes in counts.items()
    ]
    return Table("weights that an adapter adds", ["model", *adapters], lines)


def _by_task(comparison: Comparison, title: str, of: Callable[[Result], float | None], form: str) -> Table:
    """A line for each task, a column for each row: mean and standard deviation over the seeds."""
    lines = []
    for task in comparison.tasks:
        line = [Entry(task)]
        for cells in comparison.rows.values():
            values = finite(of(run) for run in cells[task].runs.values()) if task in cells else []
            spread = f" ± {form.format(statistics.stdev(values))}" if len(values) > 1 else ""
            mean = statistics.mean(values) if values else math.nan
            line.append(Entry(form.format(mean) + spread, value=mean) if values else Entry("-"))
        lines.append(line)
    machines = {str(run.info.get("environment", {}).get("device_name")) for run in _all(comparison.rows.values())}
    added = ["the runs are of different machines: these numbers do not compare"] if len(machines) > 1 else []
    return Table(title, ["task", *comparison.rows], lines, added)


def _gib(size: float | None) -> float | None:
    return None if size is None else size / 2**30


def _all(rows: Iterable[Mapping[str, Cell]]) -> list[Result]:
    return [run for cells in rows for cell in cells.values() for run in cell.runs.values()]


def _first(cells: Mapping[str, Cell]) -> Result:
    return next(iter(next(iter(cells.values())).runs.values()))


def _trainer(run: Result) -> str:
    return " ".join(filter(None, (run.method, run.adapter)))


def _headed(comparison: Comparison, task: str) -> str:
    return f"{task} ({metric_of(comparison, task)})"


def _cells(comparison: Comparison, row: str) -> list[Entry]:
    cells = comparison.rows[row]
    return [
        entry(cells[task], unit_of(comparison, task), row in comparison.best(task), marked(comparison, row, task))
        if task in cells
        else Entry("-")
        for task in comparison.tasks
    ]


def _mean(comparison: Comparison, rows: Sequence[str], task: str) -> Entry:
    """Over the rows that all have the task, as the papers' lines of averages."""
    cells = [comparison.rows[row].get(task) for row in rows]
    values = finite(None if cell is None else cell.mean for cell in cells)
    if len(values) < len(rows):
        return Entry("-")
    mean = statistics.mean(values)
    return Entry(number(mean, unit_of(comparison, task)), value=mean)


def _average(comparison: Comparison, rows: Sequence[str]) -> Entry:
    values = [comparison.average(row) for row in rows]
    units = {unit_of(comparison, task) for task in comparison.tasks}
    if len(units) > 1 or len(finite(values)) < len(rows):
        return Entry("-")
    mean = statistics.mean(values)
    return Entry(number(mean, units.pop()), value=mean)


LAYOUTS: Mapping[str, Layout] = {
    "modes": Layout("Bilevel ZOFO, Tables 2, 3, 5 and 6", "trainers by adapters, averages of each", modes),
    "prompts": Layout("Bilevel ZOFO, Tables 1 and 8", "with and without a hard prompt", prompts),
    "stages": Layout("Bilevel ZOFO, Table 9", "two stages beside Bilevel ZOFO", stages),
    "seconds": Layout("Bilevel ZOFO, Table 7", "seconds a step by task", seconds),
    "memory": Layout("Bilevel ZOFO, Figure 5", "peak memory by task", memory),
    "parameters": Layout("Bilevel ZOFO, Figure 3", "weights that adapters add, by model", parameters),
}

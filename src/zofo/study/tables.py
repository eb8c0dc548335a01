"""A comparison as a table: the papers' layout (rows by tasks, an average), the four axes of cost, the differences.

One table is a list of rows of cells; `markdown`, `csv` and `latex` write it. A cell knows whether it is the best.
"""

from __future__ import annotations

import csv as csv_module
import io
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zofo.study.compare import Cell, Comparison, Difference
from zofo.study.results import Result, finite

NOISE, FEW = "~", "not finite"


@dataclass(frozen=True)
class Entry:
    """text: as people read it. best: shown bold. value: as CSV has it, where it is a number."""

    text: str
    best: bool = False
    value: float | None = None


@dataclass(frozen=True)
class Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    notes: Sequence[str] = ()


def tables(comparison: Comparison) -> list[Table]:
    """What was reached, at what cost, and how it differs from the row that is compared with."""
    return [_results(comparison), _costs(comparison), *([_differences(comparison)] if comparison.differences else [])]


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
            unit, mark = unit_of(comparison, task), _marked(comparison, row, task)
            line.append(Entry("-") if cell is None else entry(cell, unit, row in best[task], mark))
        if many:
            mean, units = averages[row], {unit_of(comparison, task) for task in comparison.tasks}
            shown = math.isfinite(mean) and len(units) == 1
            line.append(Entry(number(mean, units.pop()), mean == top, mean) if shown else Entry("-"))
        rows.append(line)
    return Table(f"{comparison.split} set", head, rows, _notes(comparison))


def entry(cell: Cell, unit: float, best: bool = False, mark: str = "") -> Entry:
    if not cell.values:
        return Entry(FEW)
    text = number(cell.mean, unit)
    if math.isfinite(cell.sd):
        text += f" ± {number(cell.sd, unit)}"
    short = f" [{len(cell.values)}/{len(cell.runs)}]" if len(cell.values) < len(cell.runs) else ""
    return Entry(text + short + mark, best, cell.mean)


def _marked(comparison: Comparison, row: str, task: str) -> str:
    difference = comparison.differences.get((row, task))
    return f" {NOISE}" if difference is not None and difference.within_noise else ""


def _notes(comparison: Comparison) -> list[str]:
    notes = []
    if any(one.within_noise for one in comparison.differences.values()):
        notes.append(f"{NOISE}: not shown to differ from {comparison.against} (see the differences)")
    notes += underpowered(comparison)
    if any(len(cell.values) < len(cell.runs) for cells in comparison.rows.values() for cell in cells.values()):
        notes.append("[k/n]: k of n seeds gave a number; the others are not finite")
    return notes


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
    return Table("cost of a run", ["", "runs", *AXES], rows, [note])


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
    return Table(f"differences from {comparison.against}", head, rows)


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


def plain(table: Table) -> dict[str, Any]:
    """For JSON: its title, head, lines of texts, notes."""
    return {
        "title": table.title,
        "head": list(table.head),
        "rows": [[cell.text for cell in line] for line in table.rows],
        "notes": list(table.notes),
    }


# ----------------------------------------------------------------------------------------------------------- as text


def markdown(parts: Sequence[Table]) -> str:
    out = []
    for part in parts:
        head = [_cell_of_markdown(text) for text in part.head]
        rows = [[_bold(entry, "**{}**", _cell_of_markdown) for entry in row] for row in part.rows]
        widths = [max(3, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
        out += ["", f"**{_cell_of_markdown(part.title)}**", ""]
        rule = [("-" * widths[0])] + ["-" * (width - 1) + ":" for width in widths[1:]]
        for row in (head, rule, *rows):
            out.append("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |")
        out += ["", *part.notes] if part.notes else []
    return "\n".join(out[1:]) + "\n"


def csv(parts: Sequence[Table]) -> str:
    """All parts after each other, `table` the first column; numbers in full, mean and text beside each other."""
    file = io.StringIO()
    writer = csv_module.writer(file, lineterminator="\n")
    writer.writerow(["table", "row", "column", "value", "shown", "best"])
    for part in parts:
        for row in part.rows:
            for name, entry in zip(part.head[1:], row[1:]):
                value = "" if entry.value is None or not math.isfinite(entry.value) else repr(float(entry.value))
                writer.writerow([part.title, row[0].text, name, value, entry.text, int(entry.best)])
    return file.getvalue()


def latex(parts: Sequence[Table]) -> str:
    """booktabs tables: \\usepackage{booktabs}."""
    out = ["% \\usepackage{booktabs}"]
    for part in parts:
        out += ["\\begin{table}", "  \\centering", f"  \\caption{{{_tex(part.title)}}}"]
        out += [f"  \\begin{{tabular}}{{l{'c' * (len(part.head) - 1)}}}", "    \\toprule"]
        out.append("    " + " & ".join(map(_tex, part.head)) + " \\\\")
        out.append("    \\midrule")
        for row in part.rows:
            out.append("    " + " & ".join(_bold(entry, "\\textbf{{{}}}", _tex) for entry in row) + " \\\\")
        out += ["    \\bottomrule", "  \\end{tabular}", *(f"  % {_tex(note)}" for note in part.notes), "\\end{table}"]
    return "\n".join(out) + "\n"


def _bold(entry: Entry, how: str, escape: Callable[[str], str]) -> str:
    text = escape(entry.text)
    return how.format(text) if entry.best else text


def _cell_of_markdown(text: str) -> str:
    return re.sub(r"([|*_`\\<>\[\]])", r"\\\1", " ".join(text.split())) if re.search(r"[|*_`\\<>]", text) else text


TEX = {"\\": r"\textbackslash{}", "~": r"$\sim$", "^": r"\textasciicircum{}", "±": r"$\pm$"}
TEX |= {char: f"\\{char}" for char in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(TEX.get(char, char) for char in " ".join(text.split()))

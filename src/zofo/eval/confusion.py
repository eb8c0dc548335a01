"""What a classifier confuses, as lines for a person: beside an accuracy that one frequent label can make."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len

from zofo.errors import first_few, printable
from zofo.eval.likelihood import Evaluation

MOST = 10  # labels of a whole table
WORST = 5  # confusions that are named where there are more labels
WIDE = 16  # characters of a label


def confusion(evaluation: Evaluation) -> Iterator[str]:
    """Lines: accuracy, macro-F1, and of each right label how many were predicted as what; of more than MOST labels the
    WORST confusions. None where macro-F1 is not among the task's metrics."""
    report = evaluation.report
    if report is None or "macro_f1" not in evaluation.values or "confusion" not in report:
        return
    names = [printable(label, WIDE) for label in report["labels"]]
    none = report.get("unpredicted", [0] * len(names))
    measured = f"accuracy {report['accuracy']:.3f}, macro-F1 {report['macro_f1']:.3f}"
    if len(names) > MOST:
        yield f"{measured}; most often confused: {_worst(report['confusion'], names)}"
        return
    yield f"{measured}; right labels in rows, predicted ones in columns:"
    heads = [*names, *(["none"] if any(none) else [])]
    rows = [[*map(str, counts), *([str(n)] if any(none) else [])] for counts, n in zip(report["confusion"], none)]
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows)]
    first = max(map(cell_len, names))
    for name, cells in [("", heads), *zip(names, rows)]:
        aligned = (" " * (width - cell_len(cell)) + cell for cell, width in zip(cells, widths))
        yield "  ".join(["  " + name + " " * (first - cell_len(name)), *aligned])


def _worst(matrix: list[list[int]], names: list[str]) -> str:
    pairs = [(n, names[i], names[j]) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
    ordered = sorted(pairs, key=lambda pair: -pair[0])
    return first_few((f"{right} as {predicted} ({n})" for n, right, predicted in ordered), WORST) or "nothing"

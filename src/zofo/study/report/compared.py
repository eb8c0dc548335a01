"""Several runs on one page: in which order, which of them in detail, and `zofo compare`'s tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from zofo.errors import InputError
from zofo.study.labels import Named
from zofo.study.results import Result


@dataclass(frozen=True)
class Compared:
    """A table: rows of (text, whether it is the best)."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[tuple[str, bool], ...], ...]
    notes: tuple[str, ...]


def in_order(runs: Sequence[Result], called: Mapping[Path, Named]) -> tuple[Result, ...]:
    """A study's other trials behind the runs of chosen settings, each in their order."""
    return tuple(sorted(runs, key=lambda run: called[run.path].unchosen))


def in_detail(runs: Sequence[Result], called: Mapping[Path, Named], most: int) -> list[int]:
    """Of which of these runs predictions and the like are shown, in their order: no trials without a test score, where
    there are others; of too many one of each row and task first."""
    scored = [n for n, run in enumerate(runs) if run.test or not called[run.path].unchosen] or list(range(len(runs)))
    rows = dict[tuple[str, str], list[int]]()
    for number in scored:
        rows.setdefault((called[runs[number].path].row, runs[number].task), []).append(number)
    turns = [number for number in chain.from_iterable(zip_longest(*rows.values())) if number is not None]
    return sorted(turns[:most])


def compared(runs: Sequence[Result]) -> list[Compared]:
    """Means over the seeds, and differences; [] where fewer than two runs have a test score, and where they cannot be
    laid out: scipy is not there, or two runs are the same."""
    scored = [run for run in runs if run.finished and run.test]
    if len(scored) < 2:
        return []
    try:
        from zofo.study.compare import of_runs
        from zofo.study.tables import measured

        found = measured(of_runs(scored))
    except InputError:
        return []
    return [
        Compared(
            table.caption,
            tuple(table.head),
            tuple(tuple((cell.text, cell.best) for cell in row) for row in table.rows),
            tuple(table.notes),
        )
        for table in found
    ]

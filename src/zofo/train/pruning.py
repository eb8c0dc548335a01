"""Which checkpoints and bests of a run stay."""

from __future__ import annotations

from pathlib import Path

from zofo.config.json_text import read_json
from zofo.errors import InputError
from zofo.train.run_dir import RunDir
from zofo.train.selection import Best


def prune(run: RunDir, limit: int | None, best: Best | None, finite: Path | None) -> None:
    """Delete checkpoints beyond the limit, and bests that none of the others refers to.

    limit: `train.save_total_limit`; None: all stay. best: the best so far, which stays. finite: the last checkpoint
    whose weights are finite, which stays beyond the limit.
    """
    present = run.checkpoints()
    for old in present[:-limit] if limit is not None else []:
        if old != finite:
            run.forget(old)
    bests = run.bests()
    referred = {run.best(best.count)} if best else set()
    for directory in run.checkpoints():
        try:
            state = read_json(directory / "state.json")  # and not the tensors beside it
            referred |= {run.best(state["best"]["count"])} if state["best"] else set()
        except (InputError, KeyError, TypeError):  # a damaged one: any best before it may be its own
            referred |= {each for each in bests if number_of(each) <= number_of(directory)}
    for directory in bests:
        if directory not in referred:
            run.forget(directory)


def number_of(directory: Path) -> int:
    """12 of checkpoint-12."""
    return int(directory.name.rpartition("-")[2])

"""Which checkpoints of a run are whole, what goes on from them, and what to do where one is not."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from zofo.errors import InputError
from zofo.models.sealed import verify_tree
from zofo.train.run_dir import RunDir

log = logging.getLogger("zofo")


def going_on(run: Path, checkpoint: str | Path = "latest", again: str = "") -> str:
    """The whole command. again: what no file can ask for, see `asked_again`."""
    return f"zofo train --resume {shlex.quote(str(checkpoint))} --output-dir {shlex.quote(str(run))}{again}"


def in_both(run: Path, again: str) -> str:
    """From the shell and from Python."""
    return f"go on with `{going_on(run, again=again)}`, or resume='latest' in Python"


def left_by_a_stop(run: RunDir, again: str) -> tuple[str, str]:
    """(what a stop at this moment keeps, how it is gone on from)"""
    if present := run.checkpoints():
        return f"what {present[-1].name} holds", in_both(run.root, again)
    anew = f"zofo train {shlex.quote(str(run.config))} --overwrite{again}"
    return "nothing kept, since there is no checkpoint yet", f"start again with `{anew}`"


def newest_whole(run: RunDir, present: list[Path]) -> Path:
    """The newest checkpoint that is not damaged; what is passed over is said. Raises InputError where all are."""
    for path in reversed(present):
        if not (fault := _fault(run, path)):
            return path
        if path == present[0]:
            raise InputError(f"{fault}; {instead_of(run, path, [])}")
        log.warning("%s: passed over, it is damaged (%s)", path, fault)
    raise AssertionError("no checkpoint")


def check_whole(run: RunDir, checkpoint: Path) -> None:
    """Raises InputError for a damaged one, with what to do."""
    if fault := _fault(run, checkpoint):
        raise InputError(f"{fault}; {instead_of(run, checkpoint)}")


def instead_of(run: RunDir, damaged: Path, whole: list[Path] | None = None) -> str:
    """What to do about a checkpoint or a best of the run that is damaged. whole: the checkpoints that are, if known."""
    others = [path for path in (whole_ones(run) if whole is None else whole) if path.resolve() != damaged.resolve()]
    if others:
        return f"put back a copy, or go on from {others[-1].name}, which is whole: {going_on(run.root, others[-1])}"
    if (best := _best(run)) is not None and best.resolve() != damaged.resolve():
        place = shlex.quote(str(run.root))
        return (
            f"put back a copy: no checkpoint is whole, so the run cannot go on, but its best is ({best.name}): `zofo "
            f"eval {place}` and `zofo export {place} OUT` have it; to train, start anew with --overwrite, which "
            f"deletes it, or in another directory"
        )
    return "put back a copy: no checkpoint is whole, so the run cannot go on; start anew with --overwrite"


def whole_ones(run: RunDir) -> list[Path]:
    """The checkpoints that are not damaged, oldest first."""
    return [path for path in run.checkpoints() if not _fault(run, path)]


def _fault(run: RunDir, checkpoint: Path) -> str:
    try:
        run.verify_checkpoint(checkpoint)
    except InputError as error:
        return str(error)
    return ""


def _best(run: RunDir) -> Path | None:
    """Of a finished run, where it is whole: of another no file but a checkpoint says what it is."""
    if not run.finished:
        return None
    try:
        best = run.best(int(run.read_info()["best_step"]))
        verify_tree(best)
    except InputError:
        return None
    return best

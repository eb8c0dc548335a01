"""What a run's adapters began with, kept in the run: it goes on and is checked without where that was read from."""

from __future__ import annotations

from pathlib import Path

from zofo.errors import InputError
from zofo.models.sealed import verify_tree
from zofo.train.ownership import START
from zofo.train.run_dir import RunDir
from zofo.train.setup import Session

COPY = "put back a copy, or start anew (--overwrite)"


def kept_in(run: RunDir) -> Path:
    """A PEFT directory."""
    return run.root / START


def keep(session: Session, run: RunDir) -> None:
    """Write it, where the run began with an adapter."""
    if (start := session.start) is not None:
        run.write_tree(kept_in(run), lambda directory: start.save(directory, session.config.model.name))


def check_kept(run: RunDir) -> Path:
    """Of a run that began with an adapter: where it is kept. Raises InputError where it is missing or damaged."""
    if not (path := kept_in(run)).is_dir():
        raise InputError(f"{path}: missing, which the run's adapters began with; {COPY}")
    verify_tree(path, COPY)
    return path

"""Which state of a run a path means: a finished run's best, one of its checkpoints, or the best so far of one that is
not finished."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zofo.api.standing import gone_on, standing, warn_of_the_end
from zofo.config.instantiate import make_method
from zofo.config.json_text import read_json
from zofo.errors import InputError
from zofo.models.sealed import MANIFEST, verify_tree
from zofo.train import checkpoint
from zofo.train.ending import Ending
from zofo.train.files import MISSING, looks_like_run
from zofo.train.ownership import is_numbered
from zofo.train.run_dir import RunDir
from zofo.train.selection import Best
from zofo.train.whole import going_on, instead_of, newest_whole

log = logging.getLogger("zofo")


@dataclass(frozen=True)
class State:
    """info: the contents of run.json, or of its keys those that a checkpoint knows. directory: of the adapters, and of
    theta where its journal is long. journal: theta is the initial tensors and so many bytes of it."""

    run: RunDir
    info: dict[str, Any]
    directory: Path
    journal: int | None


def is_run(path: Path) -> bool:
    """A finished one."""
    return RunDir(path).finished


def is_state(path: Path) -> bool:
    """Whether a path is meant as a run's directory or a checkpoint's, whatever is to be said of it."""
    return looks_like_run(path) or _is_checkpoint(path)


def run_of(path: Path) -> RunDir:
    """The run of a state."""
    return RunDir(path.parent if _is_checkpoint(path) else path)


def _is_checkpoint(path: Path) -> bool:
    return is_numbered(path.name) and looks_like_run(path.parent) and not looks_like_run(path)


def finished_only(path: Path) -> InputError:
    """What to say where a run that is not finished cannot be used."""
    return InputError(f"{path}: no finished run here{_why(RunDir(path))}")


def _why(run: RunDir) -> str:
    if not run.root.exists():
        return ": no such directory"
    if (run.root / "zofo.json").is_file():
        return "; it is an export already, give the directory of its run"
    if not run.config.is_file():
        return f": {MISSING.format(run.config)}" if looks_like_run(run.root) else " (no run.json)"
    ending, begun = standing(run), bool(run.checkpoints())
    if ending.kind == "going":
        return f"; the run {ending.words()}" + (": wait for its end" if begun else " and has no checkpoint yet: wait")
    why = "its training did not finish" if ending.kind == "cut" else f"the run {ending.words()}"
    if begun:
        return f"; {why}: {going_on(run.root)}"
    why = "its training stopped" if ending.kind == "cut" else why
    return f"; {why} before the first checkpoint: train again with --overwrite"


def state_of(path: Path) -> State:
    """Raises InputError where there is none, or it is damaged or another run's."""
    run = run_of(path)
    if not run.config.is_file():
        raise finished_only(run.root)
    if _is_checkpoint(path):
        return _checkpoint(run, path)
    if run.finished and not _overtaken(run):
        return _finished(run)
    if not run.checkpoints():
        raise finished_only(path)
    ending, directory = standing(run), newest_whole(run, run.checkpoints())
    saved, words = _read(run, directory), ending.words()
    if (best := saved.best) is None:
        log.warning("%s: the run %s; this is its %s", path, words, directory.name)
        return _checkpoint(run, directory, ending)
    log.warning("%s: the run %s; this is the best of its evaluations so far, step %d", path, words, best.count)
    info = _info(run, saved, best.candidate, best.dev, best.count)
    return State(run, info | {"dev": best.dev, "outcome": ending.to_dict()}, run.best(best.count), best.journal)


def info_of(run: RunDir) -> dict[str, Any]:
    """run.json of a finished run. Raises InputError where it is damaged, or not what the run wrote."""
    info = run.read_info()
    if not run.as_written("info", run.info):
        raise InputError(
            f"{run.info}: changed since the run wrote it, or {MANIFEST} was; train again with --resume latest, which "
            f"writes it anew"
        )
    return info


def _overtaken(run: RunDir) -> bool:
    """Whether a run was gone on with since it was at its end, and the best of then has given way to a better one."""
    info = info_of(run)
    return not run.best(info["best_step"]).is_dir() and gone_on(run, Ending.read(info.get("outcome")))


def _finished(run: RunDir) -> State:
    info = info_of(run)
    if info.get("inputs") and not run.manifest:  # runs of before had none
        raise InputError(f"{run.root / MANIFEST}: missing; put back a copy, or train again (--overwrite)")
    best = run.best(info["best_step"])
    if best.is_dir():
        try:
            verify_tree(best)
        except InputError as error:
            raise InputError(f"{error}; nothing of it can be used; {instead_of(run, best)}") from None
    warn_of_the_end(run, info)
    return State(run, info, best, info["journal_position"])


def _checkpoint(run: RunDir, directory: Path, said: Ending | None = None) -> State:
    """As it was then, with the candidate that was the best until then. said: how the run stands, if that was said."""
    known = {path.resolve(): path for path in run.checkpoints()}
    if directory.resolve() not in known:
        names = ", ".join(path.name for path in known.values()) or "no checkpoint"
        raise InputError(f"{directory}: no checkpoint of the run in {run.root}, which has {names}")
    verify_tree(directory, "nothing of it can be used")
    ending = said or standing(run)
    if said is None and ending.failed:
        log.warning("%s: the run %s; this is its %s", run.root, ending.words(), directory.name)
    saved = _read(run, directory)
    names = make_method(run.read_config()).candidates
    chosen, count = saved.best.candidate if saved.best else names[0], int(directory.name.rpartition("-")[2])
    dev = saved.best.dev if saved.best and saved.best.count == count else {}
    info = _info(run, saved, chosen, names, count) | {"dev": dev, "outcome": ending.to_dict()}
    return State(run, info | {"checkpoint": directory.name}, directory, saved.journal)


@dataclass(frozen=True)
class _Saved:
    """Of a checkpoint's state.json what is of use without its run."""

    best: Best | None
    journal: int | None
    base_sha256: str
    tasks: dict[str, list[str]] | None
    zofo: str


def _read(run: RunDir, directory: Path) -> _Saved:
    state = read_json(directory / "state.json")
    if state.get("run") != run.id:
        raise InputError(f"{directory} is another run's")
    with checkpoint.fitting(directory, partial(instead_of, run, directory)):
        best, version = state["best"], state["environment"]["packages"]["zofo"]
        if best:
            best = Best(**{**best, "count": int(best["count"]), "dev": dict(best["dev"])})
        journal = None if state["journal"] is None else int(state["journal"])
        return _Saved(best, journal, str(state["base_sha256"]), state["tasks"], version)


def _info(run: RunDir, saved: _Saved, candidate: str, candidates: Iterable[str], step: int) -> dict[str, Any]:
    """What run.json would have; of the test set there is nothing."""
    config = run.read_config()
    return {
        "zofo": saved.zofo,
        "method": config.names["method"],
        "task": Path(config.task.title).stem,
        "model": config.model.name,
        "seed": config.train.seed,
        "best_step": step,
        "deployed": candidate,
        "test": {name: {} for name in candidates},
        "tasks": saved.tasks,
        "base_sha256": saved.base_sha256,
    }

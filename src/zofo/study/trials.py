"""What optuna keeps of a study: a file to which every worker appends, with one optuna study for each row of the plan.

Who runs what is not decided here: a run's directory and its lock are the truth, and this is told afterwards. All trials
of a row are there from the start, so that their number holds over all workers; number n is the run trial-n.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
import zlib
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.errors import InputError
from zofo.study.plan import Plan, Point, Row

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

NAME = "trials.log"
GRACE = 10  # seconds after which the lock of a worker that died as it wrote is taken away
POINT = "point"  # the one parameter of a row whose trials are written out: which of them
STARTUP = 5  # trials that TPE draws at random, and that a median is of, at most
log = logging.getLogger("zofo")


class Trials:
    """Of the study in a directory, which is there."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        """Raises InputError for a file that is damaged."""
        self.path, self.plan = directory / NAME, plan
        self._optuna = optuna = installed()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _ = self._storage

    @cached_property
    def _storage(self) -> Any:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

        lock = JournalFileSymlinkLock(str(self.path), grace_period=GRACE)
        _mend(self.path, lock)
        try:
            return JournalStorage(JournalFileBackend(str(self.path), lock_obj=lock))
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{self.path}: damaged ({error}); move it away and give the command again: the runs are kept, and are "
                f"told to a new one"
            ) from None

    def _study(self, row: Row, number: int = 0) -> Study:
        """number: of the trial whose draws it makes."""
        optuna, seed = self._optuna, zlib.crc32(f"{self.plan.seed} {row.name} {number}".encode())
        startup = max(2, min(STARTUP, row.trials // 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar is called experimental
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=2 * startup)
            pruner = optuna.pruners.MedianPruner(startup) if self.plan.prune else optuna.pruners.NopPruner()
            return optuna.load_study(study_name=row.name, storage=self._storage, sampler=sampler, pruner=pruner)

    def prepare(self, row: Row) -> None:
        """Every trial of the row is waiting, or further than that. Call it with the row's lock held."""
        if row.name not in self._optuna.get_all_study_names(self._storage):
            self._optuna.create_study(storage=self._storage, study_name=row.name, direction="minimize")
        study = self._study(row)
        for number in range(len(study.get_trials(deepcopy=False)), row.trials):
            study.enqueue_trial(self._fixed(row, number))

    def _fixed(self, row: Row, number: int) -> dict[str, Any]:
        if not row.points:  # TPE's
            return {}
        return dict(row.points[number]) if self._named(row) else {POINT: number}

    def _named(self, row: Row) -> bool:
        """Whether optuna takes the settings by their names: it has numbers and texts, but no lists."""
        plain = all(isinstance(value, (str, int, float, bool)) for point in row.points for value in point.values())
        return bool(row.search) and plain

    def begin(self, row: Row, number: int) -> tuple[Trial | None, Point]:
        """A trial that is under way now, and what it sets. One that was begun has what it had; of one that is over
        there is None in place of the trial, and its settings."""
        study = self._study(row, number)
        known = self._frozen(study, number)
        if known.state.is_finished():
            return None, self.point(row, number)
        with suppress(Exception):  # another state by now
            self._storage.set_trial_state_values(known._trial_id, self._optuna.trial.TrialState.RUNNING)
        trial = self._optuna.trial.Trial(study, known._trial_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn = self._drawn(trial, row)
        return trial, row.points[number] if row.points else drawn

    def _drawn(self, trial: Trial, row: Row) -> dict[str, Any]:
        if row.points and not self._named(row):
            return {POINT: trial.suggest_int(POINT, 0, max(1, row.trials - 1))}
        out = dict[str, Any]()
        for key, space in row.search.items():
            if space.values:
                out[key] = trial.suggest_categorical(key, space.values)
            elif type(space.low) is int and type(space.high) is int:
                out[key] = trial.suggest_int(key, space.low, space.high, log=space.log)
            else:
                out[key] = trial.suggest_float(key, space.low, space.high, log=space.log)
        return out

    def point(self, row: Row, number: int) -> Point:
        """What a trial that was begun sets."""
        if row.points:
            return row.points[number]
        frozen = self._frozen(self._study(row), number)
        if missing := [key for key in row.search if key not in frozen.params]:
            raise InputError(f"{self.path}: does not know {missing[0]} of {row.name}, trial {number}; put back a copy")
        return {key: frozen.params[key] for key in row.search}

    def _frozen(self, study: Study, number: int) -> FrozenTrial:
        return study.get_trials(deepcopy=False)[number]

    def tell(self, row: Row, number: int, state: str, value: float | None = None) -> None:
        """state: complete, pruned or fail. What is told already stays: a directory says what is true."""
        states = self._optuna.trial.TrialState
        trial, _ = self.begin(row, number)
        if trial is None:
            return
        kind = {"complete": states.COMPLETE, "pruned": states.PRUNED, "fail": states.FAIL}[state]
        if kind is states.COMPLETE and (value is None or not math.isfinite(value)):
            kind = states.FAIL  # a NaN never wins
        with suppress(ValueError, RuntimeError):  # told by another in between
            self._study(row).tell(number, value if kind is states.COMPLETE else None, kind)

    def states(self, row: Row) -> list[str]:
        """What optuna knows of each trial: waiting, running, complete, pruned, fail."""
        return [trial.state.name.lower() for trial in self._study(row).get_trials(deepcopy=False)]


def installed() -> Any:
    """optuna. Raises InputError where it is not there."""
    try:
        import optuna
    except ImportError:
        raise InputError('zofo sweep needs optuna, which is not installed: pip install "zofo[study]"') from None
    return optuna


def _mend(path: Path, lock: Any) -> None:
    """A line that a worker did not end, because it died or its disk was full, goes: the next one would be joined to it,
    and the whole file could not be read."""
    if not path.is_file():
        return
    lock.acquire()
    try:
        with path.open("rb+") as file:
            content = file.read()
            end = content.rfind(b"\n") + 1
            if end < len(content):
                log.warning("%s: its last line was not written to its end, and is taken away", path)
                file.truncate(end)
                file.flush()
                os.fsync(file.fileno())
    finally:
        lock.release()

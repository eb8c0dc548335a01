"""The run's files while it trains: journal, checkpoints, the best so far; and the way back from them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerState

from zofo.errors import InputError, during
from zofo.models.load import load
from zofo.models.sealed import MANIFEST, Sums
from zofo.models.sharded import Sharding
from zofo.train import adapter_start, checkpoint, record
from zofo.train.callbacks import read_state
from zofo.train.checkpoint import fitting, journal_header, move_theta
from zofo.train.files import naming
from zofo.train.follower import FollowedJournal
from zofo.train.inputs import check_inputs, check_tasks
from zofo.train.pruning import number_of, prune
from zofo.train.run_dir import RunDir
from zofo.train.selection import Best
from zofo.train.setup import Session
from zofo.train.whole import check_whole, instead_of
from zofo.zo.diagnostics import time_pass
from zofo.zo.journal import Journal, JournalError, Outcome, read_header, scan
from zofo.zo.point import Point
from zofo.zo.replay import check_initial, replay, restore_support

log = logging.getLogger("zofo")
_BACK = {
    "model": "--model says where it is as it was",
    "tokenizer": "--model says where the model's directory is as it was",
    "examples": "--data says where the rows are as they were; a run on others is a new one",
}


@dataclass
class Position:
    """Where a run is: upper-level iterations done, the counted step of the last evaluation, training time, the best."""

    k: int = 0
    evaluated: int = 0
    seconds: float = 0.0
    best: Best | None = None


class CheckpointManager:
    """theta is kept as its journal; a snapshot is added where replaying it would take `max_replay_seconds`."""

    def __init__(self, session: Session, run: RunDir) -> None:
        self.session, self.run, self.config = session, run, session.config.train
        self.journal: Journal | None = None
        self.metrics_position: int | None = None
        self.finite: Path | None = None  # the last checkpoint whose weights are

    @property
    def journal_position(self) -> int | None:
        return self.journal.position if self.journal else None

    def start(self) -> None:
        """A new run: write the journal's header."""
        self.run.sweep()
        self.session.ranks.lead(self._begin)
        if self.session.journals:
            self.journal = self._open(None, None) if self.journal is None else self.journal
            self.session.records.open(self.journal)
        self.metrics_position = 0

    def _begin(self) -> None:
        if self.session.journals:
            with naming(path := self.run.claim(self.run.journal)):
                self.journal = Journal.create(path, journal_header(self.session))
        adapter_start.keep(self.session, self.run)

    def _open(self, position: int | None, crc: int | None) -> Journal:
        """The journal, to go on at its end or at a checkpoint's place; rank 0 alone writes the file."""
        kind = Journal if self.session.ranks.leads else FollowedJournal
        return kind.open(self.run.journal, position, crc)

    @property
    def crc(self) -> int:
        """Of all records so far."""
        return self.journal.crc if self.journal else 0

    def _replay_seconds(self) -> float:
        """Estimated from the time of the fastest update so far; before any, from that of a pass over theta."""
        if self.journal is None:
            return 0.0
        problem = self.session.problem
        assert problem.rule is not None
        if not math.isfinite(problem.rule.seconds):
            problem.rule.seconds = time_pass(problem.theta)
        return problem.rule.seconds * self.journal.number

    def _snapshots(self) -> bool:
        """Whether theta itself is kept: where first-order steps move it, or where its journal takes long to replay."""
        method = self.session.method
        if self.session.ranks.shard > 1:
            return False  # a part of theta would be of no use to other processes, and the journal is of all of it
        long = self.journal is not None and self._replay_seconds() > self.config.max_replay_seconds
        return method.moves == "fo" or (long and method.theta_of == "backbone")

    def _snapshot(self, directory: Path) -> bool:
        """Whether a checkpoint has theta itself, and a rule's numbers, which are of whole tensors, fit what is here."""
        return self.session.ranks.shard == 1 and (directory / "backbone").is_dir()

    def _write_theta(self, directory: Path) -> Sums:
        return checkpoint.save_theta(self.session.problem.theta, directory / "backbone") if self._snapshots() else {}

    @during("saving the best so far")
    def save_best(self, best: Best) -> None:
        """best-N: the adapters as they are now (and theta, where its replay is long)."""
        self.session.ranks.lead(lambda: self._save_best(best))

    def _save_best(self, best: Best) -> None:
        def write(directory: Path) -> Sums:
            return {**self._write_adapters(directory), **self._write_theta(directory)}

        self.run.write_tree(self.run.best(best.count), write)
        if self.journal is not None:
            with naming(self.journal.path):
                self.journal.sync()

    def _write_adapters(self, directory: Path) -> Sums:
        adapters, sums = self.session.problem.adapters, dict[Path, str]()
        for name in self.session.method.adapters_used:
            assert adapters is not None
            sums.update(adapters.save(name, directory / name, self.session.config.model.name))
        return sums

    @during("saving a checkpoint")
    def save(self, at: Position, count: int, metrics_position: int, trainer: TrainerState, finite: bool) -> None:
        """checkpoint-`count`: all that `resume` needs. Older ones, and bests that none refers to, are deleted.

        finite: whether its weights are; the last one of which they are stays.
        """
        self.finite = self.run.checkpoint(count) if finite else self.finite
        self.session.ranks.lead(lambda: self._save(at, count, metrics_position, trainer))

    def _save(self, at: Position, count: int, metrics_position: int, trainer: TrainerState) -> None:
        problem, method, rule = self.session.problem, self.session.method, self.session.rule
        with_state = self._snapshots() or method.theta_of == "adapter"  # else a replay of the journal rebuilds the rule
        state = {
            "k": at.k,
            "evaluated": at.evaluated,
            "seconds": at.seconds,
            "skipped": problem.refusals.total,
            "refusals": problem.refusals.state_dict(),
            "finite": self.finite.name if self.finite else None,
            "best": at.best.to_dict() if at.best else None,
            "streams": {name: stream.state_dict() for name, stream in self.session.streams.items()},
            "meter": problem.loss.meter.state_dict(),
            "method": method.state_dict(),
            # An anchor has theta's bytes, Adam two numbers a weight
            "estimator": problem.estimator.state_dict() if problem.estimator and with_state else {},
            "rule": rule.state_dict() if rule is not None and with_state else {},
            "journal": self.journal_position,
            "journal_crc": self.journal.crc if self.journal else None,
            "run": self.run.id,
            "base_sha256": self.session.base_sha256,
            "metrics": metrics_position,
            "tasks": self.session.tasks,
            "environment": record.environment(),
            "config_hash": self.session.config.hash(),
        }

        def write(directory: Path) -> Sums:
            sums = {**self._write_adapters(directory), **self._write_theta(directory)}
            sums |= checkpoint.save_tree(directory, "state", state)
            trainer.save_to_json(str(directory / "trainer_state.json"))
            return sums

        if self.journal is not None:
            with naming(self.journal.path):
                self.journal.sync()  # the checkpoint refers to its bytes: they must be on the disk before it is
        self.run.write_tree(self.run.checkpoint(count), write)
        self.run.drop_superseded()
        prune(self.run, self.config.save_total_limit, at.best, self.finite)

    @during("going back to a checkpoint")
    def resume(self, directory: Path) -> tuple[Position, TrainerState]:
        """Bring the session back to a checkpoint: what follows has the bytes of a run that was never cut."""
        check_whole(self.run, directory)
        state = checkpoint.read(directory, "state")
        if state.get("run") and not self.run.manifest:
            raise InputError(f"cannot resume: {self.run.root / MANIFEST}: missing; put back a copy")
        if state.get("run") != self.run.id:
            raise InputError(f"cannot resume: {directory} is another run's; --resume takes this run's own checkpoints")
        with fitting(directory, partial(instead_of, self.run, directory)):
            changed = record.differences(dict(state["environment"]), record.environment())
        for line in changed:
            log.warning("resuming in another environment, first-order parts may differ in their last bits: %s", line)
        if state.get("base_sha256") != self.session.base_sha256:
            raise InputError(
                f"cannot resume: the base model {self.session.config.model.name} is not the one this run started from"
            )
        check_tasks(state.get("tasks"), self.session.tasks)
        check_inputs(self.run.inputs, self.session.inputs, "cannot resume", _BACK)
        if self.session.journals:
            self._check_journal(directory, state)
        with fitting(directory, partial(instead_of, self.run, directory)):
            at, trainer = self._restore(directory, state)
        self.session.ranks.lead(lambda: self._go_back(directory, state))  # from here on files change
        if self.session.journals:
            self._resume_theta(directory, state)
        # A kill may have left some, and there may be no further save
        self.session.ranks.lead(lambda: prune(self.run, self.config.save_total_limit, at.best, self.finite))
        return at, trainer

    def _restore(self, directory: Path, state: dict[str, Any]) -> tuple[Position, TrainerState]:
        """All but the journal, and what a replay makes of it. Raises whatever what does not fit this run raises."""
        problem, method, snapshot = self.session.problem, self.session.method, self._snapshot(directory)
        self._restore_adapters(directory)
        if method.moves == "fo" or (self.session.journals and method.theta_of == "backbone" and snapshot):
            checkpoint.load_theta_(problem.theta, directory / "backbone")
        if self.session.journals and (snapshot or method.theta_of != "backbone"):
            assert problem.estimator is not None
            assert self.session.rule is not None
            self.session.rule.load_state_dict(state["rule"])
            problem.estimator.load_state_dict(state["estimator"])
            self.session.rule.fits(problem.theta, problem.estimator.mask is not None)
            problem.estimator.fits(problem.theta)
        for name, stream in self.session.streams.items():
            stream.load_state_dict(state["streams"][name])
        problem.loss.meter.load_state_dict({name: int(value) for name, value in state["meter"].items()})
        method.load_state_dict(state["method"])
        # Of a version that did not count by level: those of a method that has one level are its own
        level = next((name for name, n in method.updates(1).items() if n), "upper")
        skipped = int(state["skipped"])
        problem.refusals.load_state_dict(state.get("refusals", {"skipped": {level: skipped} if skipped else {}}))
        named = state.get("finite", directory.name)
        self.finite = self.run.root / str(named) if named else None
        self.metrics_position = int(state["metrics"])
        best = Best(**state["best"]) if state["best"] else None
        trainer = read_state(directory / "trainer_state.json")
        at = Position(int(state["k"]), int(state["evaluated"]), float(state["seconds"]), best)
        if (step := at.k * self.session.counted_per_step) != number_of(directory):
            raise ValueError(f"state.json is of step {step}")
        return at, trainer

    def _check_journal(self, directory: Path, state: dict[str, Any]) -> None:
        """Before anything is moved or cut. Raises InputError where the journal does not lead to the checkpoint."""
        path = self.run.journal
        try:
            if not isinstance(state["journal"], int):
                raise JournalError(f"{directory}: names no place in {path}; {instead_of(self.run, directory)}")
            for _ in scan(path, state["journal"]):
                pass
            if self.session.method.theta_of == "backbone":
                check_initial(self.session.problem.theta, read_header(path)[0], path, self.session.sums)
        except FileNotFoundError:
            raise InputError(f"cannot resume: {path}: missing; put back a copy of the file") from None
        except (JournalError, OSError) as error:
            raise InputError(f"cannot resume: {error}") from error

    def _go_back(self, directory: Path, state: dict[str, Any]) -> None:
        """What is newer than the checkpoint is out of the way, and not lost, when files are cut."""
        count = number_of(directory)
        used = self.run.best(state["best"]["count"]) if state["best"] else None
        self.run.sweep()
        if newer := self.run.set_aside(count, used):
            log.warning(
                "going back to step %d: what is newer (%s) is kept in %s until the new line has a checkpoint",
                count,
                ", ".join(newer),
                self.run.superseded,
            )

    def _resume_theta(self, directory: Path, state: dict[str, Any]) -> None:
        """Cut the journal at the checkpoint, and do again what the checkpoint does not hold."""
        theta = self.session.problem.theta
        estimator, rule = self.session.problem.estimator, self.session.rule
        assert estimator is not None
        assert rule is not None
        try:
            self.journal = self._open(state["journal"], state.get("journal_crc"))
            if self.session.method.theta_of == "backbone" and not self._snapshot(directory):
                replay(theta, estimator, rule, self.journal.records())
            else:
                for record in self.journal.records():
                    if record.outcome is Outcome.SUPPORT and estimator.mask is not None:
                        restore_support(theta, estimator.mask, record)
        except (JournalError, OSError) as error:
            raise InputError(f"cannot resume: {error}") from error
        self.session.records.open(self.journal)

    def _restore_adapters(self, directory: Path) -> None:
        adapters = self.session.problem.adapters
        for name in self.session.method.adapters_used:
            assert adapters is not None
            try:
                adapters.restore(name, directory / name)
            except (OSError, ValueError) as error:
                raise InputError(f"{directory / name}: {error}") from error

    @during("going back to the best evaluation")
    def restore_best(self, best: Best, k: int) -> None:
        """Bring adapters and theta back to the best evaluation, for the test set and for what is exported."""
        if best.k == k:
            return
        directory = self.run.best(best.count)
        self._restore_adapters(directory)
        if self.session.method.moves == "fo":
            checkpoint.load_theta_(self.session.problem.theta, directory / "backbone")
        elif self.session.journals and self.session.method.theta_of == "backbone":
            ranks = self.session.ranks
            loaded = load(self.session.config.model, sharding=Sharding.of(ranks))
            initial = Point(loaded.model, shards=ranks.shards)
            for name, tensor in self.session.problem.theta.items():
                tensor.copy_(initial[name])
            move_theta(self.session.problem.theta, self.session.config, self.run.journal, best.journal, directory)

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()

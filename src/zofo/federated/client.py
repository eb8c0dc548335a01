"""A client: it holds the model, its rows, its adapters and a copy of the journal, and answers questions.

Its directory is a run's: config.yaml, the journal, checkpoints. `zofo eval`, `export` and `predict` open it as any
other, with this client's own adapters. What is in the newest checkpoint is where a new process goes on; the server is
asked for the part of the journal behind it.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from zofo.config.json_text import dumps
from zofo.data.example import TaskData
from zofo.errors import InputError, NonFiniteError
from zofo.federated import modes, received
from zofo.federated.aggregate import clipped
from zofo.federated.book import info_of
from zofo.federated.messages import Answer, Ask, Digest, End, Hello, Kind, Score, Status, Tensors, Told, reply
from zofo.federated.privacy import noised
from zofo.federated.settings import Settings
from zofo.federated.walk import Asked
from zofo.train.checkpoint import journal_header
from zofo.train.checkpoint_manager import CheckpointManager, Position
from zofo.train.lease import Lease
from zofo.train.run_dir import RunDir
from zofo.train.selection import Best
from zofo.train.setup import Session, audit, build
from zofo.train.whole import newest_whole
from zofo.zo.journal import JournalError
from zofo.zo.replay import check_initial, replay

log = logging.getLogger("zofo")
ENDED = "ended"  # a file: the server has said that all rounds are made
ACTS = ("estimator", "rule", "mask", "seed", "theta")  # of the journal's header, what moves theta


class Refused(Exception):
    """A question that is answered with a status alone."""

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(why)
        self.status = status


class Client:
    """`with Client(...) as client: client(question)`; one process at a time has the directory."""

    def __init__(
        self,
        settings: Settings,
        root: Path,
        name: str = "",
        task: Callable[..., TaskData] | None = None,
        save_every: int = 1,
    ) -> None:
        """name: what the server's log calls it. task: what reads the rows, for a part of them. save_every: estimates
        between two checkpoints, 1 where the process ends with its answer. Raises InputError."""
        self.settings, self.name, self.save_every = settings, name, save_every
        self.mode = modes.load(settings.federation.mode)
        self._place = (0, 0, 0)  # round, slot, local step
        self._stack = ExitStack()
        config = replace(settings.run, train=replace(settings.run.train, output_dir=str(root))).absolute()
        lease = self._stack.enter_context(Lease(root))
        with ExitStack() as undo:
            undo.callback(self._stack.close)
            self.session: Session = build(config, task=task, made=Asked.made(self._seed))
            audit(self.session)
            self.run = RunDir(root, lease.check)
            self.manager = CheckpointManager(self.session, self.run)
            self.k, self.saved = 0, (0, 0)  # estimates so far; with the journal's position, what is in a checkpoint
            self._open()
            undo.pop_all()
        self._stack.callback(self.manager.close)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, raw: bytes) -> bytes:
        """The answer to a question. What goes wrong is said in the log here; the server gets a status."""
        try:
            return reply(self._answer(Ask.unpack(raw)))
        except Refused as refusal:
            log.warning("%s", refusal)
            return reply(refusal.status)
        except (JournalError, InputError, ValueError, OSError, RuntimeError) as error:
            log.error("%s: %s", type(error).__name__, error)
            return reply(Status.FAILED)

    def _answer(self, ask: Ask) -> Told | Status:
        if ask.kind is Kind.HELLO:
            journal = self.manager.journal
            base, place = bytes.fromhex(self.session.base_sha256), (0, 0)
            if journal is not None:
                place = journal.position, journal.crc
            return Hello(base, self.settings.shared(), *place, self.name)
        if ask.kind is Kind.TENSORS:
            return Tensors(dumps(self.session.problem.theta.catalogue(self.session.sums)).encode())
        self._catch_up(ask)
        position = self._position
        if ask.kind is Kind.ESTIMATE:
            return self._estimate(ask, position)
        if self.save_every == 1:  # this process ends, and the next one is to know what it has
            self._save()
        if ask.kind is Kind.EVALUATE:
            return self._evaluate(position)
        if ask.kind is Kind.DIGEST:
            return Digest(bytes.fromhex(self.session.problem.theta.digest()), position)
        self._finish(ask.round)
        self.run.write(ENDED, f"round {ask.round}\n")
        return End(position)

    @property
    def _position(self) -> int:
        return 0 if self.manager.journal is None else self.manager.journal.position

    def _seed(self) -> int:
        """Of the direction that the method draws next."""
        federation = self.settings.federation
        return self.mode.seed(self.session.config.train.seed, *self._place, federation.pool)

    def _open(self) -> None:
        """Where an earlier process was, or a new directory."""
        _ = self.session.base_sha256, self.session.sums  # before theta moves
        if self.run.root.is_dir() and self.run.ours() and (present := self.run.checkpoints()):
            at, _state = self.manager.resume(newest_whole(self.run, present))
            self.k, self.saved = at.k, (at.k, self._position)
            return
        if foreign := self.run.foreign():
            raise InputError(f"{foreign[0]}: not this client's, and in the way of its files; move it away")
        self.run.clear()
        self.run.begin(self.session.inputs)
        config = self.session.config
        self.run.write_config(replace(config, train=replace(config.train, output_dir=".", resume=None)))
        self.run.claim(self.run.journal)

    def _catch_up(self, ask: Ask) -> None:
        """theta <- theta of the journal as the server has it."""
        problem, rule = self.session.problem, self.session.rule
        assert problem.estimator is not None
        assert rule is not None
        if self.manager.journal is None:
            if ask.start:
                raise Refused(Status.BEHIND, "no journal yet, and the question comes without its beginning")
            self.manager.journal = received.begin(self.run.journal, ask.journal)
            self._check_header()
        journal = self.manager.journal
        if ask.start > journal.position:
            raise Refused(Status.BEHIND, f"the journal ends at byte {journal.position}, the question's is {ask.start}")
        replay(problem.theta, problem.estimator, rule, received.go_on(journal, ask.start, ask.journal))

    def _check_header(self) -> None:
        """That the journal is of this base model and these settings. Raises Refused, and forgets the journal."""
        journal, mine = self.manager.journal, journal_header(self.session)
        assert journal is not None
        try:
            check_initial(self.session.problem.theta, journal.header, journal.path, self.session.sums)
        except InputError as error:
            self._forget()
            raise Refused(Status.BASE, str(error)) from error
        for key in ACTS:
            if journal.header.get(key) != mine[key]:
                self._forget()
                raise Refused(
                    Status.SETTINGS, f"{key}: the server has {journal.header.get(key)}, this client {mine[key]}"
                )

    def _forget(self) -> None:
        self.manager.close()
        self.manager.journal = None
        self.run.journal.unlink(missing_ok=True)

    def _estimate(self, ask: Ask, position: int) -> Told | Status:
        """The method's step, once for each local step, whose updates of theta are the answer."""
        problem, federation = self.session.problem, self.settings.federation
        assert isinstance(problem, Asked)
        problem.walk.begin()
        try:
            for step in range(federation.local_steps):
                self._place = (ask.round, ask.slot, step)
                self.session.method.step(ask.round)
        except NonFiniteError as error:
            raise Refused(Status.NONFINITE, str(error)) from error
        finally:
            c = problem.walk.c
            problem.walk.begin()
        self.k += 1
        if self.k - self.saved[0] >= self.save_every:
            self._save()
        if len(c) != self.settings.coefficients:  # one was refused, and the policy is to go on
            return Status.NONFINITE
        sent = [noised(clipped(value, federation.clip), federation.clip, federation.noise) for value in c]
        return Answer(self._rows, position, _as_fp32(sent))

    @property
    def _rows(self) -> int:
        """Examples behind a coefficient."""
        stream = self.session.streams[self.session.method.streams[0]]
        return min(self.session.config.train.batch_size, len(stream.encoded))

    def _evaluate(self, position: int) -> Told:
        """Of dev, with what this client would deploy."""
        encoded, adapters = self.session.encoded["dev"], self.session.problem.adapters
        with ExitStack() as stack:
            if adapters is not None:
                stack.enter_context(adapters.active(self.session.method.candidates[0]))
            values: dict[str, Any] = self.session.evaluator(encoded).values
        n, metric = len(encoded), self.session.data.metric
        return Score(float(values["loss"]) * n, float(values.get(metric, float("nan"))) * n, n, position)

    def _finish(self, rounds: int) -> None:
        """The directory of a finished run, with what this client would deploy."""
        self._save()
        count, candidate = self.k * self.session.counted_per_step, self.session.method.candidates[0]
        self.manager.save_best(Best(count, self.k, candidate, 0.0, self._position, {}))
        info = info_of(self.settings, rounds, count, self._position, self.session.base_sha256, candidate)
        self.run.write_info(info | {"inputs": self.session.inputs})

    def _save(self) -> None:
        if self.manager.journal is None or (self.k, self._position) == self.saved:
            return
        count = self.k * self.session.counted_per_step
        with torch.no_grad():
            self.manager.save(Position(k=self.k), count, 0, TrainerState(), True)
        self.saved = self.k, self._position


def _as_fp32(values: list[float]) -> tuple[float, ...]:
    return struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values))

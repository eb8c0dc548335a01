"""The loop: steps, evaluations, checkpoints, interrupts. It knows no method's algorithm and no model's architecture."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from zofo.config.cadence import rounded
from zofo.config.reward_name import asked_again
from zofo.data.preview import preview, sizes
from zofo.errors import FULL, Interrupted, NonFiniteError, OutOfMemory, RunError, during
from zofo.eval.likelihood import Evaluation
from zofo.train.agreement import same_state
from zofo.train.callbacks import Callbacks
from zofo.train.checkpoint_manager import CheckpointManager, Position
from zofo.train.checks import stretched, trains_metric
from zofo.train.files import naming
from zofo.train.follower import metrics_log
from zofo.train.phases import Phases
from zofo.train.progress import Divergence, Progress, Skips, of_candidate
from zofo.train.realised import realised_shares
from zofo.train.record import peak_bytes
from zofo.train.run_dir import RunDir
from zofo.train.selection import Selection
from zofo.train.setup import Session
from zofo.train.signals import caught
from zofo.train.stopping import Break, Stopping
from zofo.train.weights import advice, blown_up, broken, largest
from zofo.train.whole import left_by_a_stop

if TYPE_CHECKING:
    from transformers import TrainerCallback

log = logging.getLogger("zofo")


class Loop:
    """Runs a session to its last counted step. `at` is where it is; `checkpoints` saves it with the session's state."""

    def __init__(
        self,
        session: Session,
        run: RunDir,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
        began: float | None = None,
    ) -> None:
        """began: see `Phases`."""
        self.session, self.run, self.config, self.ranks = session, run, session.config.train, session.ranks
        self.checkpoints = CheckpointManager(session, run)
        model, loaded = session.problem.loss.scorer.model, session.loaded
        about = (model, loaded.tokenizer, loaded.device, self.ranks.leads)
        self.callbacks = Callbacks(self.config, run.root, callbacks, *about)
        self.callbacks.ask = not self.ranks.every(not self.callbacks.ask)  # some ranks may have none
        self.phases = Phases(lambda: peak_bytes(loaded.device), began)
        # What is trained selects too: a loss would not know of it
        measured = trains_metric(session.config, session.method) or not session.data.answered
        by = "metric" if measured else self.config.select_by
        self.selection = Selection(by, session.data.metric, session.method.deployable)
        every = self.config.eval_candidates == "all"
        self.measured = session.method.candidates if every else self.selection.candidates  # on dev
        self.at, self.saved = Position(), 0
        self.divergence, self.skips = Divergence(), Skips(session.problem.refusals)
        self.before = largest(session)  # weights, while theta is still the base
        self.resumed: Path | None = None  # the checkpoint that the run went on from
        self._again = asked_again(session.config.model.trust_remote_code, session.config.task.metric)
        self.stopping = Stopping(run, self._again, session.method.per_step, self.ranks)
        self.loss: float | None = None  # theta's objective at the last update

    @property
    def count(self) -> int:
        """Updates so far, lower and upper."""
        return self.at.k * self.session.counted_per_step

    @property
    def trained(self) -> bool:
        """Whether no further step fits into max_steps."""
        return self.count + max(1, self.session.counted_per_step) > self.config.max_steps

    def resume(self, checkpoint: Path) -> None:
        """Go back to a checkpoint of this run. Raises InputError where it is damaged."""
        self.at, self.callbacks.state = self.checkpoints.resume(checkpoint)
        self.resumed = checkpoint
        if words := stretched(self.session.method, self.at.k, self.callbacks.state.max_steps, self.config):
            log.warning("%s", words)
        self.callbacks.state.max_steps, self.saved = self.config.max_steps, self.count
        self.callbacks.state.is_world_process_zero = self.ranks.leads

    def fit(self) -> None:
        """Train. Raises RunError, and Interrupted after a save."""
        device = self.session.loaded.device
        self.progress = Progress(
            self.config.max_steps, self.config.logging_steps, lambda: peak_bytes(device), silent=not self.ranks.leads
        )
        try:
            with caught(self._stop), self.progress:
                self.metrics = metrics_log(self.run, self.checkpoints.metrics_position, self.ranks.leads)
                self.callbacks.call("on_train_begin")
                self._say_sizes()
                self._run()
                self.callbacks.call("on_train_end")
        except OutOfMemory as error:
            raise OutOfMemory(f"{error.part} at step {self.count}") from error
        except NonFiniteError as error:
            raise RunError(f"step {self.count}: {error}; {self._advice()}") from error
        except OSError as error:
            if error.errno not in FULL:
                raise
            way = left_by_a_stop(self.run, self._again)[1]
            raise RunError(
                f"no space left on device: {error.filename or self.run.root}; free some, then {way}"
            ) from error
        finally:
            self.checkpoints.close()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """After `fit`: what an interrupt leaves is said."""

        def stop(number: int) -> None:
            left = f"training is done and saved, the test set is not measured; {self.stopping.go_on}"
            self.progress.say(left)
            raise Interrupted(left, number)

        with caught(stop):
            yield

    def _advice(self) -> str:
        finite = None if self.skips.mostly(self.updates) else self.checkpoints.finite  # else it is worth nothing
        return advice(self.session, self.at.k > 0, finite, self.before)

    @property
    def updates(self) -> dict[str, int]:
        """Updates so far that were made or skipped, by level."""
        return self.session.method.updates(self.at.k)

    def _say_sizes(self) -> None:
        """Real sizes, and what was asked for where there are fewer rows."""
        data = self.session.data
        for line in sizes(data, self.session.config.task, selects=self.session.counted_per_step > 0):
            self.progress.say(line)
        for what, names in (self.session.tasks or {}).items():
            self.progress.say(f"{'training' if what == 'train' else 'held-out (dev)'} tasks: {', '.join(names)}")
        for line in preview(data, self.session.encoded) if not self.at.k else ():
            self.progress.say(line)
        for line in self.session.extra_memory():
            self.progress.say(line)
        if self.resumed is not None:
            done = "all is trained" if self.trained else "training goes on"
            self.progress.say(f"from {self.resumed}, step {self.count} of {self.config.max_steps}: {done}")
        method = self.session.method
        said = (*method.remarks, self.session.passes.words(), *rounded(self.config, method.per_step))
        for line in filter(None, said):
            self.progress.say(line)

    def _run(self) -> None:
        try:
            with self.session.problem.theta.deferring():
                self._train()
            if self.at.evaluated != self.count or self.at.best is None:
                self._evaluate()
            self.stopping.agree(self.checkpoints.crc, self.count, self.progress.say)
            if self.at.best is None:
                self._save()
                raise RunError(f"step {self.count}: no dev evaluation of the run was finite; {self._advice()}")
        except Break:
            self._save()
            saved = f"saved in {self.run.checkpoint(self.count)}; {self.stopping.go_on}"
            self.progress.say(saved)
            raise Interrupted(saved, self.stopping.number or self.stopping.asked or signal.SIGINT) from None
        self._save()
        if not self.ranks.alone:
            self.progress.say(f"{self.ranks.words()}; {self.ranks.wire.in_words()}")
        if (skipped := self.skips.words(self.updates)) and not self.skips.mostly(self.updates):  # else it is an error
            self.progress.say(f"warning: {skipped} (train.on_nonfinite={self.config.on_nonfinite})")

    def _train(self) -> None:
        per_step, config = self.session.counted_per_step, self.config
        while True:
            due = self.count // config.eval_steps > self.at.evaluated // config.eval_steps
            if due or self._asked("should_evaluate"):
                self._evaluate()
            due = self.count // config.save_steps > self.saved // config.save_steps
            if due or self._asked("should_save"):
                self._save()
            self.stopping.agree(self.checkpoints.crc, self.count, self.progress.say)
            if not per_step or self.count + per_step > config.max_steps or self._asked("should_training_stop"):
                return
            with self.ranks.counted(steps=1):
                self._step()
            self._compare()

    def _asked(self, flag: str) -> bool:
        """Whether a callback asked for it, on any rank."""
        here = self.callbacks.stopped() if flag == "should_training_stop" else self.callbacks.asked(flag)
        return here if not self.callbacks.ask else bool(self.ranks.highest([float(here)])[0])

    def _compare(self) -> None:
        """Every so many steps: what the ranks hold is the same."""
        every = self.session.config.parallel.check_steps
        if self.count // every > (self.count - self.session.counted_per_step) // every:
            same_state(self.session, self.count)

    def _step(self) -> None:
        self.callbacks.call("on_step_begin")
        start = time.perf_counter()
        refusals = self.session.problem.refusals
        refused = refusals.total
        with self.phases("training"), during("the training step"), naming(self.run.journal):
            values = self.session.method.step(self.at.k)
        # Then every later update would be refused, too
        if refusals.total > refused and not self.ranks.every(not broken(self.session)):
            raise NonFiniteError(refusals.last)
        if self.callbacks.given:  # which may read the model's weights
            self.session.problem.theta.settle()
        self.at.k += 1
        self.at.seconds += time.perf_counter() - start
        self.callbacks.state.global_step, epoch = self.count, self.session.epoch
        if epoch is not None:
            self.callbacks.state.epoch = epoch
        self.progress.step(self.count, values, self.at.seconds / self.count, refusals.total, epoch)
        self.loss = values.get("G", values.get("loss", self.loss))
        mask = self.session.problem.mask
        if mask is not None and (words := mask.words()):
            self.progress.say(words)
        warning = self.divergence.check(values["c"], self._ruined) if "c" in values else None
        if warning:
            self.progress.say(f"warning: step {self.count}: {warning}")
        if skips := self.skips.check(self.updates):
            self.progress.say(f"warning: step {self.count}: {skips}")
        every = self.config.logging_steps
        if self.count // every > (self.count - self.session.counted_per_step) // every:
            logged, rest = {**values, **self.session.method.details}, {"skipped": refusals.total}
            self.metrics.write("train", self.count, **self.updates, **logged, **rest, seconds=self.at.seconds)
            self.callbacks.log(logged)
        self.callbacks.call("on_step_end")

    def evaluate(self, split: str, adapter: str) -> Evaluation:
        """dev or test with one candidate ("theta": no adapter) at the present theta.

        Raises RunError where what is deployed has no prediction for any example of test.
        """
        session = self.session
        encoded = session.encoded[split]

        def progress(done: int) -> None:
            if self.stopping.asked and self.ranks.alone:  # else the others would wait for the rest of it
                raise Break
            self.progress.busy(f"evaluating ({adapter}, {split}): {done}/{len(encoded)}")

        phase = self.phases("test" if split == "test" else "evaluation")
        with phase, during(f"the {split} evaluation"), self._adapted(adapter):
            evaluation = session.evaluator(encoded, progress, split == "test" or self.selection.by == "metric")
        deployed = split == "test" and self.at.best is not None and adapter == self.at.best.candidate
        return evaluation.checked(f"task {session.data.name}, test") if deployed else evaluation

    def _adapted(self, adapter: str) -> AbstractContextManager[None]:
        adapters = self.session.problem.adapters
        if adapters is None:
            return nullcontext()
        return adapters.without() if adapter == "theta" else adapters.active(adapter)

    def _evaluate(self) -> None:
        results = {name: self.evaluate("dev", name) for name in self.measured}
        evaluations = {name: result.values for name, result in results.items()}
        self.at.evaluated = self.count
        for name, values in evaluations.items():
            self.metrics.write("dev", self.count, candidate=name, **values)
        self.progress.say(f"step {self.count} dev | " + " | ".join(of_candidate(n, v) for n, v in evaluations.items()))
        if all(results[name].void for name in self.selection.candidates):
            untrained = "nothing was trained yet: the model is damaged, or overflows in its dtype"
            way = self._advice() if self.count else untrained
            raise RunError(f"step {self.count}: the scores of all dev examples are NaN; {way}")
        self._log_realised()
        logs = self.selection.logs(evaluations)
        self.callbacks.call("on_evaluate", metrics=logs)  # before the best is updated, as early stopping expects
        self.callbacks.log(logs)
        position = self.checkpoints.journal_position
        better = self.selection.better(evaluations, self.at.best, self.count, self.at.k, position)
        names = broken(self.session) if better is not None else []
        if better is not None and not self.ranks.every(not names):  # in a part that dev did not read
            where = names[0] if names else "another rank"
            self.progress.say(f"warning: step {self.count}: not the best, with NaN or infinite weights in {where}")
        elif better is not None:
            self.at.best = better
            with self.phases("saving"):
                self.checkpoints.save_best(better)
            self.callbacks.state.best_metric, self.callbacks.state.best_global_step = logs["eval_loss"], self.count

    def _log_realised(self) -> None:
        """In bf16 and fp16: which share of the wanted shift survives the rounding, per tensor (docs/tour.md, 2)."""
        if (shares := realised_shares(self.session, self.at.k)) is not None:
            self.metrics.write("realised_shift", self.count, shares=shares)

    def _save(self) -> None:
        if self.saved == self.count and self.count:
            return
        self.saved, names = self.count, broken(self.session)
        sound = self.ranks.every(not names and not self._ruined())  # of a model that several hold each knows its part
        same_state(self.session, self.count)  # before anything is written
        with self.phases("saving"):
            self.checkpoints.save(self.at, self.count, self.metrics.sync(), self.callbacks.state, finite=sound)
        if names:
            self.progress.say(f"warning: step {self.count}: saved with NaN or infinite weights, in {names[0]}")
        self.callbacks.call("on_save")

    def _ruined(self) -> str:
        """See `weights.blown_up`; "" where no weight is."""
        return blown_up(self.before, largest(self.session))

    def _stop(self, number: int) -> None:
        self.stopping.signalled(number, f"step {self.count} of {self.config.max_steps}", self.progress.say)

"""A worker of a sweep: takes the next run that nobody has, trains it, goes on, until the study is done.

STUDY/ROW/trial-N are a row's trials, with its first seed; STUDY/ROW/seed-K the chosen settings with each further seed.
All are ordinary runs. A lock beside a run's directory says who is at it; how the directory stands says what is left to
do: nothing of one that is at its end or failed, and of any other what a dead process did not do.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

from zofo.api import finetune
from zofo.config.resolve import Config
from zofo.errors import FULL, InputError, Interrupted, RunError, first_few
from zofo.study.kept_model import KeptModel, Load
from zofo.study.plan import Plan, Point, Row
from zofo.study.plan_check import config_of
from zofo.study.study_dir import patiently
from zofo.study.sweep_jobs import Job, State, left, look, plan_jobs, trials_of
from zofo.study.sweep_view import View
from zofo.study.sweep_watch import Pruned, Watch
from zofo.study.trials import Trials
from zofo.train.lease import Lease, holder
from zofo.train.record import reset_peak
from zofo.train.run_dir import RunDir
from zofo.train.signals import caught

POLL = 2.0  # seconds between two looks at what others are doing


class Worker:
    """Of the plan in a study's directory, which `study_dir.open_study` made or found."""

    def __init__(self, plan: Plan, study: Path, view: View, load: Load | None = None) -> None:
        """load: reads a run's model; one that is kept between the runs if left out."""
        self.load = load or KeptModel()
        self.plan, self.study, self.view = plan, study, view
        self.known: dict[str, State] = {}  # runs that are over
        self.trials = Trials(study, plan)
        with patiently(study):
            for row in plan.rows:
                self.trials.prepare(row)
        for row in plan.rows:
            for job in trials_of(row):
                self._tell(job, look(job, study))  # what a worker did not live to tell

    def run(self) -> list[tuple[Job, State]]:
        """Until nothing is left, here or with others. Returns all runs and how they stand. Raises Interrupted after
        the run that was going on is saved."""
        with caught(_stop):
            while True:
                jobs = self.jobs()
                todo = left(jobs)
                if any(self._take(job) for job in todo):
                    continue
                going = [job.name for job, state in jobs if state.kind == "going"]
                if not going and not todo:
                    return jobs
                if going:
                    self.view.wait(first_few(going))
                time.sleep(POLL)

    def jobs(self) -> list[tuple[Job, State]]:
        return plan_jobs(self.plan, self.study, self.known)

    def _take(self, job: Job) -> bool:
        """Whether it was this worker's to do. Between the look and the lock another may have done it."""
        root = job.directory(self.study)
        if holder(root, inside=False) is not None:
            return False
        try:
            lease = Lease(root, inside=False).__enter__()
        except InputError:  # another was faster
            return False
        try:
            return self._do(job, _under_lock(job, self.study))
        finally:
            lease.__exit__(None, None, None)

    def _do(self, job: Job, state: State) -> bool:
        if state.kind not in ("open", "done") or (state.kind == "done" and not left([(job, state)])):
            return False
        over = sum(each.over for _, each in self.jobs())
        trial, point = self._point(job)
        words = "measures the test set" if state.kind == "done" else "goes on" if state.begun else "trains"
        if not (state.kind == "done" and state.tested):
            self.view.begin(job, point, words, over)
            after = self._run(job, state, point, trial)
            if job.kind == "trial":
                self._tell(job, after)
            self.view.end(after)
            if after.kind != "done":
                if after.over:
                    self.known[job.name] = after
                return after.over
        if job.final:
            self._note(job)
        return True

    def _point(self, job: Job) -> tuple[Any, Point]:
        """(optuna's trial where it is one that is under way, what it sets)."""
        if job.kind == "trial" and job.row.like is None:
            return self.trials.begin(job.row, job.number)
        assert job.chosen is not None
        return None, self.trials.point(self._tuned(job), job.chosen)

    def _tuned(self, job: Job) -> Row:
        """The row whose trials were chosen among."""
        return job.row if job.row.like is None else self.plan.row(job.row.like)

    def _run(self, job: Job, state: State, point: Point, trial: Any) -> State:
        """Train it, or measure its test set; how it stands then. A failure is the run's and not the sweep's."""
        root = job.directory(self.study)
        reset_peak()
        try:
            with self.view.quiet(root.with_name(f"{root.name}.log")):
                if state.kind == "done":
                    finetune.score_test(root, self.load)
                else:
                    config = self._config(job, point, state)
                    finetune.train(config, callbacks=[self._watch(config, trial)], load=self.load)
        except InputError as error:  # of this run alone; what is of all runs was looked at before the first
            if holder(root) is not None:  # somebody goes on with it by hand
                return _under_lock(job, self.study)
            return State("refused", words=" ".join(str(error).split()))
        except (Pruned, RunError) as error:
            if getattr(error.__cause__, "errno", None) in FULL:
                raise
        finally:
            gc.collect()
            free()
        return _under_lock(job, self.study)

    def _config(self, job: Job, point: Point, state: State) -> Config:
        run = RunDir(root := job.directory(self.study))
        resume = "latest" if run.checkpoints() else None
        how = {"resume": resume, "overwrite": resume is None and bool(run.ours()), "score_test": job.final}
        return config_of(self.plan, job.row, point, root, job.seed, **how)

    def _watch(self, config: Config, trial: Any) -> Watch:
        return Watch(config, self.view.step, self.view.dev, trial if self.plan.prune else None)

    def _tell(self, job: Job, state: State) -> None:
        if state.over:
            told = {"done": "complete", "pruned": "pruned"}.get(state.kind, "fail")
            self.trials.tell(job.row, job.number, told, state.value)

    def _note(self, job: Job) -> None:
        """Into run.json of a run of the chosen settings: of which row, and how many trials they are chosen of."""
        row = self._tuned(job)
        facts = {"row": job.row.name, "label": self.plan.label(job.row.name), "trial": job.chosen}
        facts |= {"trials": row.trials, "plan": self.plan.digest()}
        facts |= {"sampler": self.plan.sampler, "search": {key: space.to_json() for key, space in row.search.items()}}
        root = job.directory(self.study)
        with Lease(root) as lease:
            run = RunDir(root, lease.check)
            run.write_info({**run.read_info(), "study": facts})


def _under_lock(job: Job, study: Path) -> State:
    """How it stands to the one who has its lock."""
    return look(job, study, mine=True)


def _stop(number: int) -> None:
    raise Interrupted("", number)


def free() -> None:
    """What the last run's model took of a GPU is there for the next one, and for others."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()

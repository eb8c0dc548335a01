"""The runs of a study and how each stands, as their directories have it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zofo.api.standing import gone_on, standing
from zofo.config.resolve import Config
from zofo.errors import InputError
from zofo.study.plan import Plan, Row
from zofo.train.ending import Ending
from zofo.train.lease import holder
from zofo.train.run_dir import RunDir

PRUNED = "pruned: "  # what the reason of a pruned run begins with
FULL = "no space left"  # and of one that goes on when there is
OVER = ("done", "failed", "pruned", "refused")


@dataclass(frozen=True)
class Job:
    """A run. number: of the trial, or the seed of a further run. chosen: the trial whose settings were chosen and are
    this run's, so that its test set is measured; None for any other trial. Of a row like another: that one's trial."""

    row: Row
    kind: str  # trial or seed
    number: int
    chosen: int | None = None

    @property
    def final(self) -> bool:
        return self.chosen is not None

    @property
    def name(self) -> str:
        return f"{self.row.name}/{self.kind}-{self.number}"

    @property
    def seed(self) -> int:
        return self.row.seeds[0] if self.kind == "trial" else self.number

    def directory(self, study: Path) -> Path:
        return study / self.row.name / f"{self.kind}-{self.number}"


@dataclass(frozen=True)
class State:
    """kind: open (nobody is at it, and it is not over), going, done, failed, pruned, refused. value: on dev, less is
    better. settled: it is at its end, though somebody may be measuring its test set. tested, noted: whether that was
    measured, and run.json says of which study it is. begun: it has a checkpoint."""

    kind: str
    value: float = math.inf
    words: str = ""
    step: int | None = None
    settled: bool = False
    tested: bool = False
    noted: bool = False
    begun: bool = False

    @property
    def over(self) -> bool:
        return self.kind in OVER


def trials_of(row: Row) -> Iterator[Job]:
    for number in range(row.trials):
        yield Job(row, "trial", number)


def look(job: Job, study: Path, mine: bool = False) -> State:
    """How its directory stands. mine: to the one who has the lock beside it. Raises InputError where that cannot be
    read."""
    root = job.directory(study)
    run, who = RunDir(root), (None if mine else holder(root, inside=False)) or holder(root)
    if run.finished:
        info = run.read_info()
        ending = Ending.read(info.get("outcome"))
        if not gone_on(run, ending):
            kind = "going" if who else "failed" if ending.failed else "done"
            tested, noted = any(info.get("test", {}).values()), "study" in info
            value = math.inf if ending.failed else value_of(run, info)
            return State(kind, value, who or ending.reason, ending.step, True, tested, noted, begun=True)
    if who is not None:
        return State("going", words=who)
    ending = standing(run)
    if ending.failed and not ending.reason.startswith(FULL):
        pruned = ending.reason.startswith(PRUNED)
        return State("pruned" if pruned else "failed", words=ending.reason, step=ending.step, begun=True)
    return State("open", step=ending.step, begun=bool(run.checkpoints()))


def by_its_metric(config: Config) -> bool:
    """Whether the metric selects, as in `train.loop`: what is trained selects too."""
    return config.train.select_by == "metric" or config.task.objective == "metric"


def value_of(run: RunDir, info: Mapping[str, Any]) -> float:
    """What the choice goes by, of what the run deploys on dev: its loss, or minus its metric with
    train.select_by=metric. Not finite: infinite."""
    values = info.get("dev", {}).get(info.get("deployed"), {})
    metric = info.get("metric")
    by_metric = "loss" not in values
    with suppress(InputError):
        by_metric = by_metric or by_its_metric(run.read_config())
    value = values.get(metric) if by_metric else values.get("loss")
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if by_metric else value


def chosen(row: Row, states: Mapping[int, State]) -> int | None:
    """The trial with the best dev, the earlier of two alike; None before all are over, and where none has a value."""
    if row.trials == 1:  # there is nothing to choose
        return 0
    if not all(state.over or state.settled for state in states.values()):
        return None
    finite = {number: state.value for number, state in states.items() if state.settled and math.isfinite(state.value)}
    return min(finite, key=lambda number: (finite[number], number), default=None)


def left(jobs: Iterable[tuple[Job, State]]) -> list[Job]:
    """What nobody is at and is not over; what is trained and not measured yet comes last."""
    todo = [each for each in jobs if each[1].kind == "open" or (each[1].kind == "done" and _unmeasured(*each))]
    return [job for job, _ in sorted(todo, key=lambda each: each[1].kind == "done")]


def _unmeasured(job: Job, state: State) -> bool:
    return job.final and not (state.tested and state.noted)


def plan_jobs(plan: Plan, study: Path, known: dict[str, State]) -> list[tuple[Job, State]]:
    """Every run that can be named by now, with how it stands: trials, and what has been chosen. known: of runs that are
    over for this worker, which are looked at no more."""
    out: list[tuple[Job, State]] = []
    choice: dict[str, int | None] = {}
    finals: list[tuple[Job, State]] = []
    for row in plan.rows:
        if row.like is not None and choice[row.like] is None:
            continue
        trials = [(job, _seen(job, study, known)) for job in trials_of(row)]
        best = choice[row.name] = chosen(row, {job.number: state for job, state in trials})
        if best is not None:
            of = best if row.like is None else choice[row.like]
            trials[best] = (replace(trials[best][0], chosen=of), trials[best][1])
            seeds = [Job(row, "seed", seed, of) for seed in row.seeds[1:]]
            finals += [(job, _seen(job, study, known)) for job in seeds]
        out += trials
    return [*out, *finals]


def _seen(job: Job, study: Path, known: dict[str, State]) -> State:
    state = known.get(job.name)
    if state is None:
        state = look(job, study)
        if state.kind in ("failed", "pruned") or (state.kind == "done" and state.tested and state.noted):
            known[job.name] = state
    return state

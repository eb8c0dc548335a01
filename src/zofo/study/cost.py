"""What a plan takes, before it is run: its runs and steps, and the time of a step of each row, measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from zofo.api import finetune
from zofo.config.resolve import Config
from zofo.errors import InputError, RunError
from zofo.study.kept_model import Load
from zofo.study.plan import Plan, Row
from zofo.study.study_dir import patiently
from zofo.study.sweep_jobs import Job, trials_of
from zofo.train.files import make_directory, write_json
from zofo.train.progress import duration, gib
from zofo.train.record import reset_peak
from zofo.train.run_dir import RunDir

NAME = "cost.json"
STEP = "a step at its longest batch"


@dataclass(frozen=True)
class Cost:
    """Of a row. steps: counted ones of a run. scored: examples of dev and test in all its evaluations. seconds: of a
    step, None where none was measured. basis: what it is measured by, or why not."""

    row: Row
    steps: int
    scored: int
    seconds: float | None
    basis: str
    peak: int | None = None

    @property
    def runs(self) -> int:
        return self.row.trials + len(self.row.seeds) - 1

    @property
    def training(self) -> float | None:
        """Seconds of all its runs, without evaluations."""
        return None if self.seconds is None else self.seconds * self.steps * self.runs


def estimate(
    plan: Plan, configs: Mapping[str, Config], study: Path, rehearse: bool = True, load: Load | None = None
) -> list[Cost]:
    """Of each row: by its finished runs in the study, else by one real step of each kind, which is kept in cost.json.
    load: reads the models, see `sweep.Worker`. Raises InputError with what is wrong with any row."""
    kept, faults, costs = _kept(study), [], []
    for row in plan.rows:
        config = configs[row.name]
        done = [info for job in trials_of(row) if (info := _finished(job, study)) is not None]
        rates = [info["seconds_per_step"] for info in done if info.get("seconds_per_step")]
        if not rates and rehearse and row.name not in kept:
            try:
                kept[row.name] = _rehearsed(config, load)
            except InputError as error:
                faults += [f"plan {plan.name}.yaml, row {row.name}: {line}" for line in str(error).split("\n")]
                continue
        costs.append(_cost(row, config, rates, kept.get(row.name, {})))
    if faults:
        raise InputError("\n".join(faults))
    return costs


def keep(costs: list[Cost], study: Path) -> None:
    """For the next worker, which then measures nothing."""
    measured = {
        cost.row.name: {"seconds_per_step": cost.seconds, "peak_bytes": cost.peak, "basis": cost.basis}
        for cost in costs
        if cost.basis != "not measured"
    }
    with patiently(study):
        if (before := _kept(study)) != (after := before | measured):
            make_directory(study)
            write_json(study / NAME, after)


def words(costs: list[Cost]) -> str:
    """A line for the whole plan."""
    runs, steps = sum(cost.runs for cost in costs), sum(cost.steps * cost.runs for cost in costs)
    scored, several = sum(cost.scored * cost.runs for cost in costs), "s" * (len(costs) != 1)
    line = (
        f"{len(costs)} row{several}, {runs} runs, {steps:,} counted steps, {scored:,} examples of dev and test scored"
    )
    known = [cost.training for cost in costs if cost.training is not None]
    if len(known) < len(costs):
        return f"{line}; how long that takes is not known before a run of each row is at its end"
    return (
        f"{line}; training takes about {duration(sum(known))} on this machine with one worker, evaluations not counted"
    )


def table(costs: list[Cost]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, rows)."""
    columns = ("row", "trials", "further seeds", "steps a run", "s a step", "training", "peak memory", "by")
    rows = []
    for cost in costs:
        seconds = "" if cost.seconds is None else f"{cost.seconds:.3g}"
        whole = "" if cost.training is None else duration(cost.training)
        peak = "" if cost.peak is None else gib(cost.peak)
        shape = (str(cost.row.trials), str(len(cost.row.seeds) - 1), str(cost.steps))
        rows.append((cost.row.name, *shape, seconds, whole, peak, cost.basis))
    return columns, rows


def _kept(study: Path) -> dict[str, Any]:
    from zofo.config.json_text import read_json

    try:
        return read_json(study / NAME)
    except InputError:
        return {}


def _finished(job: Job, study: Path) -> dict[str, Any] | None:
    run = RunDir(job.directory(study))
    try:
        return run.read_info() if run.finished else None
    except InputError:
        return None


def _rehearsed(config: Config, load: Load | None) -> dict[str, Any]:
    from zofo.study.sweep import free

    said = StringIO()
    reset_peak()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            info = finetune.train(config, dry_run=True, load=load).info
    except RunError as error:  # such as out of memory: its runs will say so
        return {"seconds_per_step": None, "peak_bytes": None, "basis": str(error).partition(";")[0]}
    finally:
        free()
    return {"seconds_per_step": info.get("seconds_per_step", 0.0), "peak_bytes": info["peak_bytes"], "basis": STEP}


def _cost(row: Row, config: Config, rates: list[float], kept: Mapping[str, Any]) -> Cost:
    train, task = config.train, config.task
    evaluations = 1 + train.max_steps // train.eval_steps
    scored = evaluations * task.dev_examples + task.test_examples * len(row.seeds) // (row.trials + len(row.seeds) - 1)
    if rates:
        basis = f"{len(rates)} finished run{'s' * (len(rates) > 1)}"
        return Cost(row, train.max_steps, scored, statistics.median(rates), basis, kept.get("peak_bytes"))
    basis = str(kept.get("basis", "not measured"))
    return Cost(row, train.max_steps, scored, kept.get("seconds_per_step"), basis, kept.get("peak_bytes"))

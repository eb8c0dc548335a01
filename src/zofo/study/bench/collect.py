"""A contender's entry, from the runs of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zofo.errors import InputError
from zofo.study.bench.entry import Entry, Point, Run, Task, Trial
from zofo.study.bench.plan import Contender, digest
from zofo.study.plan import Plan, Row
from zofo.study.results import Result, read
from zofo.study.sweep_jobs import Job, State, plan_jobs

MACHINE = ("cpu_capability", "device_name", "machine", "python", "threads")
LIBRARIES = ("torch", "transformers", "peft", "zofo")


def entry_of(one: Contender, plan: Plan, study: Path, by: str, code: str, reduced: bool = False) -> Entry:
    """Raises InputError where runs of it are missing."""
    jobs = plan_jobs(plan, study, {})
    tasks, models = dict[str, Task](), dict[str, str]()
    for row in plan.rows:
        task = row.name.removesuffix(f"-{one.name}")
        if task == row.name:
            continue
        own = [(job, state) for job, state in jobs if job.row.name == row.name]
        tasks[task], base = _task(row, own, study)
        models[base] = task
    if len(models) != 1:
        raise InputError(f"{one.name}: its tasks were run with {len(models)} models, {', '.join(models.values())}")
    return Entry(
        name=one.name,
        about=one.about,
        paper=one.paper,
        by=by,
        code=code,
        model=Path(str(plan.rows[0].settings["model.name"])).name,
        base_sha256=next(iter(models)),
        forwards_a_step=one.forwards,
        common=digest(reduced),
        tasks=tasks,
    )


def _task(row: Row, jobs: Sequence[tuple[Job, State]], study: Path) -> tuple[Task, str]:
    finals = {job.seed: job for job, state in jobs if job.final and state.kind == "done" and state.tested}
    if missing := [seed for seed in row.seeds if seed not in finals]:
        raise InputError(f"{row.name}: no run with seed {missing[0]} is at its end; give the command again")
    runs = {seed: read(finals[seed].directory(study)) for seed in row.seeds}
    first = runs[row.seeds[0]]
    tried = [_trial(row, job, state, study) for job, state in jobs if job.kind == "trial"]
    chosen = finals[row.seeds[0]].chosen
    assert chosen is not None
    settings = {key: value for key, value in first.settings.items() if _told(key)}
    task = Task(
        metric=first.metric,
        settings=settings,
        trials=tried,
        chosen=chosen,
        runs=[_run(result) for result in runs.values()],
    )
    return task, str(first.info["base_sha256"])


def _told(key: str) -> bool:
    """Whether a setting is one of the contender, or of the common plan: no paths, nothing of one machine."""
    section, _, name = key.partition(".")
    places = ("name", "data", "train_file", "dev_file", "test_file", "output_dir", "resume", "overwrite", "tracker")
    return section not in ("task", "model", "train") or name not in places


def _trial(row: Row, job: Job, state: State, study: Path) -> Trial:
    point = dict(row.points[job.number]) if row.points else {}
    done = state.kind == "done" and math.isfinite(state.value)
    ending = "finished" if done else f"{state.kind}: {state.words}".strip(": ")[:200]
    loss = read(job.directory(study)).dev.get("loss") if done else None
    return Trial(set=point, dev_loss=loss, ending=ending)


def _run(result: Result) -> Run:
    info, environment = result.info, result.info.get("environment", {})
    rows = {name: part["sha256"] for name, part in info["inputs"]["examples"].items()}
    libraries: dict[str, Any] = environment.get("packages", {})
    told = {key: environment.get(key) for key in MACHINE} | {key: libraries.get(key) for key in LIBRARIES}
    return Run(
        seed=result.seed,
        dev=_curve(result),
        test={key: float(value) for key, value in result.test.items() if key != "n"},
        seconds=float(result.seconds or 0.0),
        peak_bytes=info.get("peak_bytes"),
        rows=rows,
        environment=told,
    )


def _curve(result: Result) -> list[Point]:
    """Forwards are those of the whole run, in proportion to its steps."""
    lines, whole, steps = result.of("dev", result.deployed), result.forward_equivalents, result.counted_steps
    if whole is None or not steps or not lines:
        raise InputError(f"{result.path}: does not say what it cost")
    return [
        Point(
            forwards=whole * int(line["step"]) / steps,
            loss=_finite(line.get("loss")),
            metric=_finite(line.get(result.metric)),
        )
        for line in lines
    ]


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None

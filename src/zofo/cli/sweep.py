"""`zofo sweep`: a plan of methods, adapters, tasks, settings and seeds, by as many workers as are started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zofo.cli.options import option
from zofo.errors import RunError, printable

if TYPE_CHECKING:
    from zofo.study.kept_model import KeptModel
    from zofo.study.plan import Plan
    from zofo.study.sweep_jobs import Job, State


def sweep(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan .yaml (docs/sweep.md), or one of zofo ls plans.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="Settings of every run, over those of the plan."),
    ] = None,
    output_dir: Annotated[str | None, option("Directory of the study; out/PLAN if left out.")] = None,
    model: Annotated[str | None, option("Hub id or directory of the model, in place of the plan's.")] = None,
    data: Annotated[str | None, option("Directory with a folder for each task, or with the one task's rows.")] = None,
    only: Annotated[list[str] | None, option("This row; may be given several times.")] = None,
    reduced: Annotated[bool, option("The plan's short form.", "--reduced")] = False,
    dry_run: Annotated[bool, option("What would run and what it costs, by one step of each row.", "--dry-run")] = False,
    estimate: Annotated[
        bool, option("Measure a step of each row first, for the cost.", "--estimate/--no-estimate")
    ] = True,
) -> None:
    """Run a plan of many runs, tuned on dev.

    Each row's trials come first, then the chosen settings with each seed, on test. Given again, it goes on where it
    was; given twice at once, on one or more machines that share the directory, two work on it.
    """
    from zofo.study.plan_read import read_plan

    read = read_plan(plan, model=model, data=data, overrides=settings or [], reduced=reduced, only=tuple(only or ()))
    study = Path(output_dir or Path("out") / (f"{read.name}-reduced" if reduced else read.name))
    run_plan(read, study, dry_run, estimate)


def run_plan(read: Plan, study: Path, dry_run: bool, estimate: bool) -> None:
    """See `sweep`. Raises InputError before anything runs, and RunError where a row has no result in the end."""
    from zofo.cli.show import table
    from zofo.study import cost, trials
    from zofo.study.kept_model import KeptModel
    from zofo.study.plan_check import check
    from zofo.study.study_dir import check_study, open_study

    check_study(read, study)
    trials.installed()
    configs, load = check(read, study), KeptModel()
    costs = cost.estimate(read, configs, study, rehearse=estimate or dry_run, load=load)
    if dry_run:
        columns, rows = cost.table(costs)
        table(columns, rows, header=True)
        print(cost.words(costs))
        return
    open_study(read, study)
    cost.keep(costs, study)
    typer.echo(f"{study}: {cost.words(costs)}", err=True)
    _print(read, _work(read, study, load), study)


def _work(plan: Plan, study: Path, load: KeptModel) -> list[tuple[Job, State]]:
    from zofo.errors import Interrupted
    from zofo.study.sweep import Worker
    from zofo.study.sweep_view import View

    try:
        with View(plan.runs) as view:
            return Worker(plan, study, view, load).run()
    except Interrupted as stop:
        typer.echo(f"{study}: what was going on is saved; the same command goes on", err=True)
        raise typer.Exit(128 + stop.number) from stop


def _print(plan: Plan, jobs: list[tuple[Job, State]], study: Path) -> None:
    """A line for each row, one for each trial that was chosen among, and what is at the edge of a grid. Raises RunError
    where a row has no result."""
    from zofo.cli.show import table
    from zofo.study.sweep_report import search, summary

    columns, rows, without = summary(plan, jobs, study)
    table(columns, rows, header=True)
    columns, rows, edges = search(plan, jobs, study)
    if rows:
        print()
        table(columns, rows, header=True)
    sys.stdout.flush()
    for line in edges:
        typer.echo(printable(f"warning: {line}"), err=True)
    if without:
        raise RunError("\n".join(printable(line) for line in without))

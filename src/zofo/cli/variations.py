"""`zofo ablate` and `zofo sensitivity`: sweeps of which the plan is made, and not written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from zofo.cli.options import Adapter, Data, Model, Preset, Settings, Task, TrainFile, option, with_rows
from zofo.errors import InputError

Seeds = Annotated[str, option("Seeds of every row, as in 0,1,2.")]
DryRun = Annotated[bool, option("What would run and what it costs.", "--dry-run")]
Estimate = Annotated[bool, option("Measure a step of each row first, for the cost.", "--estimate/--no-estimate")]


def ablate(
    settings: Settings = None,
    model: Model = None,
    task: Task = None,
    data: Data = None,
    train_file: TrainFile = None,
    method: Annotated[str | None, option("A method (zofo ls methods).")] = None,
    adapter: Adapter = None,
    preset: Preset = None,
    vary: Annotated[list[str] | None, option("section.field=value,value; may be given several times.")] = None,
    seeds: Seeds = "0",
    output_dir: Annotated[str, option("Directory of the study.")] = "out/ablation",
    dry_run: DryRun = False,
    estimate: Estimate = True,
) -> None:
    """Change one setting at a time, all else equal.

    Without --vary what is usual for the method: of Bilevel ZOFO lam, T, p's steps, z, the law, eps and q. It is a sweep
    (zofo sweep), which the same command goes on with; zofo compare DIR --against as-it-is says what is noise.
    """
    from zofo.cli.settings import train_config
    from zofo.cli.sweep import run_plan
    from zofo.study.variations import ablation

    rows = with_rows(settings, data, (train_file, None, None), (None, None))
    sections = {"model": model, "task": task, "method": method, "adapter": adapter}
    config = train_config(rows, preset, sections, {"output_dir": output_dir})
    run_plan(ablation(config, vary or [], _seeds(seeds), Path(output_dir).name), Path(output_dir), dry_run, estimate)


def sensitivity(
    settings: Settings = None,
    model: Model = None,
    task: Task = None,
    data: Data = None,
    method: Annotated[list[str] | None, option("A method; several are compared. zero-shot is there anyway.")] = None,
    adapter: Adapter = None,
    template: Annotated[list[str] | None, option("A template of the task; all of them if none is named.")] = None,
    seeds: Seeds = "0",
    output_dir: Annotated[str, option("Directory of the study.")] = "out/sensitivity",
    dry_run: DryRun = False,
    estimate: Estimate = True,
) -> None:
    """Train each method on each of the task's templates: how much hangs on the words of the prompt.

    The papers' Tables 1 and 8. It is a sweep (zofo sweep), which the same command goes on with; of the settings each
    method takes those that it knows.
    """
    from zofo.cli.memory import configs
    from zofo.cli.sweep import run_plan
    from zofo.study.variations import sensitivity as plan_of

    methods = list(dict.fromkeys(["zero-shot", *(method or ["mezo", "bilevel-zofo"])]))
    rows = with_rows(settings, data, (None, None, None), (None, None))
    sections = {"model": model, "task": task, "adapter": adapter}
    each = dict(zip(methods, configs(rows, None, methods, sections, made_up=False)))
    run_plan(plan_of(each, template or [], _seeds(seeds), Path(output_dir).name), Path(output_dir), dry_run, estimate)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(each) for each in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds: expected numbers with commas between them, as in 0,1,2, got {text}") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"--seeds: expected different numbers from 0 on, got {text}")
    return seeds

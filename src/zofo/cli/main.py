"""The command line: verbs and their help, no logic. Torch is imported only by the verbs that compute."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from zofo.cli import process
from zofo.cli.about import env, ls, quickstart, show
from zofo.cli.bench import app as bench_verbs
from zofo.cli.chat import chat
from zofo.cli.check import check
from zofo.cli.compare import compare
from zofo.cli.data import app as data_verbs
from zofo.cli.diff import diff
from zofo.cli.export import export
from zofo.cli.federated import app as federated_verbs
from zofo.cli.generate import generate
from zofo.cli.metatest import meta_test
from zofo.cli.options import (
    ADAPTER_OF,
    Adapter,
    BaseModel,
    Data,
    DevFile,
    LabelColumn,
    Model,
    Preset,
    Settings,
    Task,
    TestFile,
    TextColumn,
    TrainFile,
    option,
    with_rows,
)
from zofo.cli.predict import predict
from zofo.cli.report import report
from zofo.cli.signal import signal
from zofo.cli.sweep import sweep
from zofo.cli.variations import ablate, sensitivity

app = typer.Typer(
    name="zofo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Fine-tune language models in the memory of inference plus a small adapter.",
)
app.add_typer(data_verbs, name="data")
app.add_typer(bench_verbs, name="bench")
app.add_typer(federated_verbs, name="federated")


def _version(value: bool) -> None:
    if value:
        from zofo import __version__

        typer.echo(f"zofo {__version__}")
        raise typer.Exit()


@app.callback()
def _global(
    debug: Annotated[bool, option("Show tracebacks (also ZOFO_DEBUG=1).", "--debug")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def train(
    settings: Settings = None,
    model: Model = None,
    task: Task = None,
    data: Data = None,
    train_file: TrainFile = None,
    dev_file: DevFile = None,
    test_file: TestFile = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    method: Annotated[str | None, option("A method (zofo ls methods).")] = None,
    adapter: Adapter = None,
    preset: Preset = None,
    output_dir: Annotated[str | None, option("Directory of the run.")] = None,
    seed: Annotated[int | None, option("Seed of every random choice.")] = None,
    max_steps: Annotated[int | None, option("Updates in all, lower and upper level counted.")] = None,
    num_train_epochs: Annotated[float | None, option("Passes over the examples, in place of --max-steps.")] = None,
    resume: Annotated[str | None, option("Go on with the run: latest, a checkpoint directory, or auto.")] = None,
    overwrite: Annotated[bool, option("Replace another run in the output directory.", "--overwrite")] = False,
    dry_run: Annotated[bool, option("One real step of each kind: memory, time, prompts.", "--dry-run")] = False,
    threads: Annotated[int | None, option("CPU threads.")] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="Processes on this machine that share the work.")] = None,
) -> None:
    """Fine-tune a model.

    `zofo show bilevel-zofo` prints a method's settings, `zofo validate` a whole configuration.
    """
    from zofo.cli.settings import train_config
    from zofo.data.kept_rows import rows_kept

    with rows_kept():
        config = train_config(
            with_rows(settings, data, (train_file, dev_file, test_file), (text_column, label_column)),
            preset,
            {"model": model, "task": task, "method": method, "adapter": adapter},
            {"output_dir": output_dir, "seed": seed, "max_steps": max_steps, "num_train_epochs": num_train_epochs}
            | {"resume": resume, "threads": threads}
            | ({"overwrite": True} if overwrite else {}),
        )
        if nproc is not None and nproc > 1 and not dry_run:  # what is wrong with the settings was said, once
            from zofo.cli.launch import launch

            raise typer.Exit(launch(nproc, process.given))
        _print_notes(config.notes)
        with process.libraries():
            from zofo.api import finetune
        from zofo.cli.show import print_run
        from zofo.errors import Interrupted

        try:
            finished = finetune.train(config, dry_run)
        except Interrupted as stop:
            raise typer.Exit(128 + stop.number) from stop
    if not dry_run and process.rank() == 0:  # of several processes one says it
        print_run(finished)


@app.command("eval")
def evaluate(
    target: Annotated[str, typer.Argument(help="A run, a checkpoint of one, an export, a PEFT directory, or a model.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[task.key=value] [model.key=value]...", help="Other changes (zofo show task, model)."),
    ] = None,
    model: BaseModel = None,
    task: Annotated[str | None, option("Task or file, where it is not the run's or the export's.")] = None,
    data: Data = None,
    train_file: TrainFile = None,
    dev_file: DevFile = None,
    test_file: TestFile = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    template: Annotated[str | None, option("The task's template.")] = None,
    num_fewshot: Annotated[int | None, option("Answered examples before each prompt.")] = None,
    apply_chat_template: Annotated[
        bool | None, typer.Option("--apply-chat-template/--no-chat-template", help="The model's chat template.")
    ] = None,
    system: Annotated[str | None, option("Text of a system turn.")] = None,
    split: Annotated[str, option("train, dev or test.")] = "test",
    adapter: Annotated[str | None, ADAPTER_OF] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many examples.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Examples at once; 32, or the run's.")] = None,
    seed: Annotated[int | None, option("Seed of sample, demonstrations and texts; 0, or the run's.")] = None,
    output: Annotated[str | None, option("A directory for all, or a .jsonl, .json, .csv, .tsv or .parquet.")] = None,
    run_generated_code: Annotated[
        bool, option("Run the programs the model writes, in a sandbox (pass@k).", "--run-generated-code")
    ] = False,
) -> None:
    """Score a run, an export or a plain model."""
    with process.libraries():
        from zofo.api import finetune
    from zofo.cli.show import print_result

    result = finetune.evaluate(
        target,
        model=model,
        task=task,
        data=data,
        template=template,
        apply_chat_template=apply_chat_template,
        system=system,
        split=split,
        adapter=adapter,
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        output=output,
        num_fewshot=num_fewshot,
        run_generated_code=run_generated_code or None,
        train_file=train_file,
        dev_file=dev_file,
        test_file=test_file,
        text_column=text_column,
        label_column=label_column,
        overrides=settings or [],
    )
    if process.rank() == 0:
        print_result(result)


for verb in (sweep, generate, chat, predict, report, export, ls, show):
    app.command()(verb)
app.command("meta-test")(meta_test)


@app.command()
def validate(
    settings: Settings = None,
    model: Model = None,
    task: Task = None,
    data: Data = None,
    train_file: TrainFile = None,
    dev_file: DevFile = None,
    test_file: TestFile = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    method: Annotated[str | None, option("A method (zofo ls methods).")] = None,
    adapter: Adapter = None,
    preset: Preset = None,
    output_dir: Annotated[str | None, option("Directory of the run.")] = None,
    seed: Annotated[int | None, option("Seed of every random choice.")] = None,
    max_steps: Annotated[int | None, option("Updates in all, lower and upper level counted.")] = None,
    num_train_epochs: Annotated[float | None, option("Passes over the examples, in place of --max-steps.")] = None,
    threads: Annotated[int | None, option("CPU threads.")] = None,
) -> None:
    """Check a configuration and print it whole, or check a run (RUN [--model DIR] [--data FILE]) file by file.

    Each value is followed by its reason: preset, file, command line or default. Of a run every fault is a line, and the
    exit code then is 2.
    """
    from zofo.cli.settings import run_among, train_config

    train = {"output_dir": output_dir, "seed": seed, "max_steps": max_steps, "threads": threads}
    train["num_train_epochs"] = num_train_epochs
    others = {"task": task, "method": method, "adapter": adapter, "preset": preset}
    if (run_given := run_among(settings or [], others | train)) is not None:
        from zofo.cli.show import print_checks

        return print_checks(run_given[0], model, run_given[1], data)
    sections = {"model": model, "task": task, "method": method, "adapter": adapter}
    from zofo.api.configure import rows_looked_at
    from zofo.config.cadence import rounded
    from zofo.config.instantiate import make_method

    config = train_config(
        with_rows(settings, data, (train_file, dev_file, test_file), (text_column, label_column)),
        preset,
        sections,
        train,
    )
    notes = [*config.notes, *rounded(config.train, make_method(config).per_step), *rows_looked_at(config)]
    _print_notes(notes)
    typer.echo(config.to_yaml(reasons=True), nl=False)


@app.command()
def memory(
    settings: Settings = None,
    model: Model = None,
    task: Task = None,
    data: Data = None,
    train_file: TrainFile = None,
    dev_file: DevFile = None,
    test_file: TestFile = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    method: Annotated[list[str] | None, option("A method; several are compared, and five if none is named.")] = None,
    adapter: Adapter = None,
    preset: Preset = None,
    length: Annotated[int | None, typer.Option(min=2, help="Tokens of a row, in place of the task's data.")] = None,
    options: Annotated[int | None, typer.Option(min=1, help="Answers with rows of their own (with --length).")] = None,
    answer: Annotated[int | None, typer.Option(min=1, help="Tokens of an answer (with --length).")] = None,
    measure: Annotated[bool, option("Load the model too, and count in real steps.", "--measure")] = False,
    fits: Annotated[str | None, option("What fits into so many GiB (24, 24GB, 8,16,24): a table of methods.")] = None,
    plan: Annotated[str | None, option("DIR on a disk: whether memory holds the model, or that disk must.")] = None,
    as_json: Annotated[bool, option("JSON, in bytes.", "--json")] = False,
) -> None:
    """Predict what training needs in memory, part by part, without the model's weights (docs/memory.md)."""
    from zofo.cli.fits import run as run_fits
    from zofo.cli.memory import run as run_memory
    from zofo.cli.plan import run as run_plan

    given = with_rows(settings, data, (train_file, dev_file, test_file), (text_column, label_column))
    asked = given, preset, method, (model, task, adapter), (length, options, answer), as_json
    if plan is not None:
        return run_plan(plan, fits, *asked, measure)
    return run_memory(*asked, measure) if fits is None else run_fits(fits, *asked, measure)


for verb in (compare, diff, ablate, sensitivity, signal, check, env, quickstart):
    app.command()(verb)


def _print_notes(notes: Sequence[str]) -> None:
    """Of several processes one says them."""
    for note in notes if process.rank() == 0 else ():
        typer.echo(f"note: {note}", err=True)


def run(args: Sequence[str]) -> int:
    """Runs one command line and returns its exit code, see `process.run`."""
    return process.run(app, args)


def main() -> None:
    # An OpenMP thread that spins while it waits starves the others when anything else runs on the machine. A short spin
    # costs nothing on a quiet one and made products beside one busy process 1.5 to 9 times faster (docs/log.md)
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.exit(process.guarded(app, sys.argv[1:]))


if __name__ == "__main__":
    main()

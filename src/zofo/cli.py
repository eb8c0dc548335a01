"""The command line: verbs and their help, no logic. Torch is imported only by the verbs that compute."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from zofo.errors import InputError, RunError, ZofoError

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it: 128 + SIGINT

app = typer.Typer(
    name="zofo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Fine-tune language models in the memory of inference plus a small adapter.",
)


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help)


def _version(value: bool) -> None:
    if value:
        from zofo import __version__

        typer.echo(f"zofo {__version__}")
        raise typer.Exit()


@app.callback()
def _global(
    debug: Annotated[bool, _option("Show tracebacks (also ZOFO_DEBUG=1).", "--debug")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def train(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG.yaml] [section.key=value]...", help="A YAML file, then changes to it."),
    ] = None,
    model: Annotated[str | None, _option("Hub id or directory of a causal LM.")] = None,
    task: Annotated[str | None, _option("A task (zofo ls tasks) or a .jsonl, .csv or .parquet file.")] = None,
    method: Annotated[str | None, _option("A method (zofo ls methods).")] = None,
    adapter: Annotated[str | None, _option("An adapter (zofo ls adapters).")] = None,
    preset: Annotated[str | None, _option("Start from a preset (zofo ls presets).")] = None,
    output_dir: Annotated[str | None, _option("Directory of the run.")] = None,
    seed: Annotated[int | None, _option("Seed of every random choice.")] = None,
    max_steps: Annotated[int | None, _option("Updates in all, lower and upper level counted.")] = None,
    resume: Annotated[str | None, _option("Go on with the run: latest, or a checkpoint directory.")] = None,
    overwrite: Annotated[bool, _option("Replace another run in the output directory.", "--overwrite")] = False,
    dry_run: Annotated[
        bool, _option("One real step of each kind: peak memory, ETA, three rendered prompts.", "--dry-run")
    ] = False,
    threads: Annotated[int | None, _option("CPU threads.")] = None,
) -> None:
    """Fine-tune a model.

    `zofo show bilevel-zofo` prints a method's settings, `zofo validate` a whole configuration.
    """
    from zofo import _cli_config

    config = _cli_config.train_config(
        settings or [],
        preset,
        {"model": model, "task": task, "method": method, "adapter": adapter},
        {"output_dir": output_dir, "seed": seed, "max_steps": max_steps, "resume": resume, "threads": threads}
        | ({"overwrite": True} if overwrite else {}),
    )
    _print_notes(config.notes)
    from zofo import _cli_show, api

    finished = api.train(config, dry_run)
    if not dry_run:
        _cli_show.print_run(finished)


@app.command("eval")
def evaluate(
    target: Annotated[str, typer.Argument(help="A run's directory, an export, or a model.")],
    task: Annotated[str | None, _option("Task or file, where it is not the run's.")] = None,
    data: Annotated[str | None, _option("Directory or file with the task's data.")] = None,
    template: Annotated[str | None, _option("The task's template.")] = None,
    split: Annotated[str, _option("train, dev or test.")] = "test",
    adapter: Annotated[
        str | None, _option("Which of the run's adapters: p or s; the deployed one if left out.")
    ] = None,
    limit: Annotated[int | None, _option("Only so many examples.")] = None,
    output: Annotated[str | None, _option("Write predictions to this .jsonl file.")] = None,
) -> None:
    """Score a run, an export or a plain model."""
    from zofo import _cli_show, api

    result = api.evaluate(
        target, task=task, data=data, template=template, split=split, adapter=adapter, limit=limit, output=output
    )
    _cli_show.print_result(result)


@app.command()
def export(
    run_dir: Annotated[str, typer.Argument(help="A run's directory.")],
    output_dir: Annotated[str, typer.Argument(help="Where to write the model.")],
    merge: Annotated[bool, _option("Merge the adapter into the weights.", "--merge")] = False,
    adapter: Annotated[str | None, _option("p or s; the deployed one if left out.")] = None,
    overwrite: Annotated[bool, _option("Replace a directory that exists.", "--overwrite")] = False,
) -> None:
    """Write a model for plain transformers and peft."""
    from zofo import api

    typer.echo(str(api.export(run_dir, output_dir, merge=merge, adapter=adapter, overwrite=overwrite)))


@app.command()
def ls(
    kind: Annotated[
        str | None, typer.Argument(help="methods, adapters, estimators, rules, tasks or presets; all if left out.")
    ] = None,
) -> None:
    """List what there is, one line each."""
    from zofo import _cli_show

    _cli_show.print_names(kind)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A method, adapter, task, preset, ..., or model, task, train.")],
) -> None:
    """Settings of a method, adapter, task, ...

    Fields, types, defaults and their places in the paper; a task's source, templates and answers.
    """
    from zofo import _cli_show

    _cli_show.print_entry(name)


@app.command()
def validate(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG.yaml] [section.key=value]...", help="A YAML file, then changes to it."),
    ] = None,
    model: Annotated[str | None, _option("Hub id or directory of a causal LM.")] = None,
    task: Annotated[str | None, _option("A task (zofo ls tasks) or a .jsonl, .csv or .parquet file.")] = None,
    method: Annotated[str | None, _option("A method (zofo ls methods).")] = None,
    adapter: Annotated[str | None, _option("An adapter (zofo ls adapters).")] = None,
    preset: Annotated[str | None, _option("Start from a preset (zofo ls presets).")] = None,
    output_dir: Annotated[str | None, _option("Directory of the run.")] = None,
) -> None:
    """Check a configuration and print it whole.

    Each value is followed by its reason: preset, file, command line or default.
    """
    from zofo import _cli_config

    sections = {"model": model, "task": task, "method": method, "adapter": adapter}
    config = _cli_config.train_config(settings or [], preset, sections, {"output_dir": output_dir})
    _print_notes(config.notes)
    typer.echo(config.to_yaml(reasons=True), nl=False)


@app.command()
def env(
    full: Annotated[bool, _option("Also CUDA devices and torch's build (imports torch).", "--full")] = False,
) -> None:
    """Versions and hardware, for a bug report."""
    from zofo import _cli_show

    _cli_show.print_environment(full)


@app.command()
def quickstart(
    cache_dir: Annotated[str, _option("Where model and data are kept.")] = ".cache/quickstart",
    output_dir: Annotated[str, _option("Directory of the run.")] = "out/quickstart",
    steps: Annotated[int | None, _option("Fewer or more steps than the preset's.")] = None,
) -> None:
    """A real fine-tune on the CPU, in minutes.

    SmolLM2-135M on movie-review sentences with Bilevel ZOFO and LoRA, model and data included.
    """
    from zofo import quickstart as module

    module.run(cache_dir, output_dir, steps)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def _click_exception() -> type[Exception]:
    """Base of usage errors: click's, or the copy of click that newer versions of typer bring."""
    return next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")  # type: ignore[return-value]


def _failure(error: BaseException) -> tuple[list[str], int]:
    """(lines for the user, exit code) of whatever a verb raised."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    if isinstance(error, ZofoError):
        return str(error).splitlines(), error.exit_code
    for link in chain:  # safetensors and torch wrap ENOSPC in errors of their own
        if getattr(link, "errno", None) == errno.ENOSPC or "no space left on device" in str(link).lower():
            return [f"no space left on device: {_place(link)}, free some and use --resume latest"], RunError.exit_code
    if isinstance(error, _click_exception()):
        return [" ".join(error.format_message().split())], InputError.exit_code  # type: ignore[attr-defined]
    if isinstance(error, OSError) and error.filename is not None:
        wrong = isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError))
        code = InputError.exit_code if wrong else RunError.exit_code
        return [f"{error.filename}: {(error.strerror or type(error).__name__).lower()}"], code
    text = " ".join(str(error).split()) or "no message"
    return [f"{type(error).__name__}: {text} (this is a bug or a missing check: --debug shows where)"], 1


def _place(error: BaseException) -> str:
    return str(getattr(error, "filename", None) or "the output directory's disk is full")


def run(args: Sequence[str]) -> int:
    """Runs one command line and returns its exit code: 0, 1 failed, 2 wrong input, 130 interrupted."""
    debug = "--debug" in args or os.environ.get("ZOFO_DEBUG", "") not in ("", "0")
    try:
        code = app([a for a in args if a != "--debug"] or ["--help"], prog_name="zofo", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # newer versions of typer turn Ctrl-C into this code, older ones into Abort
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as stop:  # `zofo ls | head`: the reader has seen enough
        if not isinstance(stop, BrokenPipeError) and not isinstance(stop.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        lines, code = _failure(error)
        for line in lines:
            typer.echo(f"error: {line}", err=True)
        return code


def main() -> None:
    # An OpenMP thread that spins while it waits starves the others when anything else runs on the machine. A short spin
    # costs nothing on a quiet one and made products beside one busy process 1.5 to 9 times faster (docs/log.md)
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

"""A command line as a process: its errors in a line each, its exit code, its output that may go away."""

from __future__ import annotations

import functools
import gc
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from zofo.cli.errors import failure
from zofo.cli.streams import Guarded, occupied
from zofo.errors import InputError, RunError, said_once

given: Sequence[str] = ()  # the command line that is run
SHARED = ("train", "eval", "predict")  # verbs that several processes do together
INTERRUPTED, PIPE = 130, 141  # exit codes as shells have them: 128 + SIGINT, 128 + SIGPIPE


@contextmanager
def libraries() -> Iterator[None]:
    """While the large ones are imported no garbage is looked for: they make a million objects that stay, of which each
    look goes through all, and hardly one that does not. What there is by then is not looked at again."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def rank() -> int:
    """Of this process among those that a launcher started; 0 where it is alone."""
    number = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"
    return int(number) if number.isdigit() else 0


@functools.cache
def command(app: typer.Typer) -> Any:
    """Of all verbs with their options, 20 ms: once for a process that runs several command lines."""
    return typer.main.get_command(app)


def _check_processes(args: Sequence[str]) -> None:
    """Raises InputError for a verb that would do the same thing in each of several processes."""
    several, verb = os.environ.get("WORLD_SIZE", "1"), next((arg for arg in args if not arg.startswith("-")), "")
    if several.isdigit() and int(several) > 1 and verb not in (*SHARED, ""):
        raise InputError(
            f"{several} processes: zofo {verb} runs in one; start it without torchrun or accelerate launch (those that "
            f"share their work: {', '.join(SHARED)})"
        )


def run(app: typer.Typer, args: Sequence[str]) -> int:
    """Runs one command line and returns its exit code: 0, 1 failed, 2 wrong input, 128 + a signal's number."""
    global given
    given = args
    debug = "--debug" in args or os.environ.get("ZOFO_DEBUG", "") not in ("", "0")
    try:
        with said_once():
            _check_processes(args)
            given = [a for a in args if a != "--debug"] or ["--help"]
            code = command(app)(given, prog_name="zofo", standalone_mode=False)
        sys.stdout.flush()
        if code in (INTERRUPTED, *range(129, 160)):  # typer's newer versions turn Ctrl-C into a code, older into Abort
            typer.echo("interrupted", err=True)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as stop:  # `zofo ls | head`: the reader has seen enough
        if not isinstance(stop, BrokenPipeError) and not isinstance(stop.__context__, BrokenPipeError):
            raise
        return PIPE
    except Exception as error:
        if debug:
            traceback.print_exc()
        lines, code = failure(error, args)
        for line in lines:
            typer.echo(f"{f'rank {rank()}: ' if rank() else ''}error: {line}", err=True)
        return code


def guarded(app: typer.Typer, args: Sequence[str]) -> int:
    """`run` as a process's own: its output may go away. What trains goes on then; what prints its result stops."""
    trains = next((arg for arg in args if not arg.startswith("-")), "") in ("train", "sweep", "quickstart", "meta-test")

    def stop(error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise error
        raise RunError(f"standard output: {(error.strerror or str(error)).lower()}, so the result is shown nowhere")

    occupied()
    sys.stdout = Guarded(sys.stdout, None if trains else stop)  # type: ignore[assignment]
    sys.stderr = Guarded(sys.stderr, bars=True)  # type: ignore[assignment]
    code = run(app, args)
    if sys.stdout.lost or sys.stderr.lost:  # type: ignore[union-attr]
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)  # Python writes them once more as it ends
    return code

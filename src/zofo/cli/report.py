"""`zofo report`: runs as one page that opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zofo.cli.options import option
from zofo.errors import InputError, printable


def report(
    paths: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, directories of runs, kept files, or meta-tests.")
    ],
    output: Annotated[str | None, option("The page; report.html in the run or directory of runs if left out.")] = None,
    title: Annotated[str | None, option("Its title; the run's name if left out.")] = None,
    watch: Annotated[bool, option("Write it anew every few seconds until the runs have ended.", "--watch")] = False,
    keep: Annotated[
        str | None, option("Also the small file of each run, to commit or send: FILE.json, or a directory.")
    ] = None,
) -> None:
    """Write what runs did into one HTML file: numbers, curves, time and memory, errors first.

    The page opens without a network and shows several runs over one another.
    """
    from zofo.study.report.page import find
    from zofo.study.report.write import keep as keep_files
    from zofo.study.report.write import report as write
    from zofo.study.report.write import watch as write_again

    if watch and keep is not None:
        raise InputError("--keep: of a run at its end; leave out --watch")
    if keep is not None:
        for file in keep_files(find(paths), Path(keep)):
            print(printable(f"kept {file}"))
    if watch:
        write_again(paths, output, title, lambda page: print(printable(f"writing {page} until the end"), flush=True))
        return
    print(printable(f"wrote {write(paths, output, title)}"))


def after_quick_start(directory: str) -> None:
    """The quick start's own page, which it is no failure to do without."""
    from zofo.study.report.write import report as write

    runs = [Path(directory) / name for name in ("bilevel-zofo", "zero-shot")]
    try:
        page = write(runs, Path(directory) / "report.html", "zofo quick start")
    except (InputError, OSError) as error:
        print(printable(f"no report: {error}"), flush=True)
        return
    print(printable(f"report in {page}: open it in a browser"), flush=True)

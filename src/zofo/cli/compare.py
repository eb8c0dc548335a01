"""`zofo compare`: runs as a paper's table, with what is noise marked as noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zofo.cli.options import option
from zofo.config.json_text import dumps
from zofo.errors import InputError, did_you_mean, first_few, printable

if TYPE_CHECKING:
    from zofo.study.tables import Table

FORMATS = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, directories of runs, kept files.")],
    against: Annotated[str | None, option("The row that the others are compared with; the first if left out.")] = None,
    metric: Annotated[str | None, option("What is compared; each task's own if left out. loss: the loss.")] = None,
    layout: Annotated[
        str | None, option("A paper's layout: modes, prompts, stages, seconds, memory, parameters.")
    ] = None,
    split: Annotated[str, option("test or dev.")] = "test",
    form: Annotated[str | None, option("markdown, csv, latex or json.", "--format")] = None,
    output: Annotated[str | None, option("A file for it: .md, .csv, .tex or .json.")] = None,
    overwrite: Annotated[bool, option("Replace the output.", "--overwrite")] = False,
) -> None:
    """Lay runs beside each other: mean and standard deviation over seeds, cost, and which differences are noise.

    Runs that differ in their seed alone are one row. Differences have Student's interval over the seeds and a paired
    bootstrap over test examples, and p adjusted for all of them by Holm's rule (docs/compare.md).
    """
    chosen = _format(form, output)
    _check_words(split, layout)
    if output is not None and Path(output).exists() and not overwrite:
        raise InputError(f"{output}: is there already; give --overwrite to replace it, or another name")
    from zofo.study import tables
    from zofo.study.meta_tests import is_meta_test

    if all(is_meta_test(Path(run)) for run in runs):
        parts, content = _meta_tests(runs, {"--against": against, "--metric": metric, "--layout": layout})
    else:
        parts, content = _runs(runs, against, metric, layout, split)
    text = dumps(content, indent=2) + "\n" if chosen == "json" else getattr(tables, chosen)(parts)
    if output is None:
        print(printable(text, plain="\n\t"), end="")
        return
    from zofo.train.files import write_text

    write_text(Path(output), text)
    typer.echo(f"saved in {output}", err=True)


def _check_words(split: str, layout: str | None) -> None:
    """Before any run is read. Raises InputError."""
    from zofo.study.compare import SPLITS
    from zofo.study.layouts import check_name

    if split not in SPLITS:
        raise InputError(f'--split: expected test or dev, got "{split}"{did_you_mean(split, SPLITS)}')
    if layout is not None:
        check_name(layout)


def _runs(
    runs: list[str], against: str | None, metric: str | None, layout: str | None, split: str
) -> tuple[list[Table], dict[str, Any]]:
    """(tables, what JSON has)."""
    from zofo.study.compare import compare as lay_out
    from zofo.study.labels import short
    from zofo.study.layouts import lay_out as by_name
    from zofo.study.tables import plain, tables

    found = lay_out(runs, against=against, metric=metric, split=split)  # type: ignore[arg-type]
    out = [f"{short(path)} ({why})" for path, why in found.left_out.items()]
    if found.unchosen:
        several = "s" * (found.unchosen != 1)
        out.append(f"{found.unchosen} trial{several} that dev did not choose{' (--split dev)' * (split == 'test')}")
    if found.further:
        out.append(f"{found.further} run{'s' * (found.further != 1)} of further seeds, which the trials do not have")
    if out:
        typer.echo(printable(f"left out: {first_few(out)}"), err=True)
    if layout is None:
        return tables(found), found.to_dict()
    table = by_name(found, layout)
    return [table], {"layout": layout, **plain(table)}


def _meta_tests(runs: list[str], given: dict[str, str | None]) -> tuple[list[Table], dict[str, Any]]:
    """(tables, what JSON has)."""
    from zofo.study.meta_tests import table
    from zofo.study.tables import plain

    for option_, value in given.items():
        if value is not None:
            raise InputError(f"{option_}: is for runs; meta-tests have one table")
    found = table([Path(run) for run in runs])
    return [found], plain(found)


def _format(form: str | None, output: str | None) -> str:
    """By --format, else by the output's suffix. Raises InputError."""
    if form is not None:
        if form not in FORMATS.values():
            known = ", ".join(FORMATS.values())
            raise InputError(f'--format: unknown "{form}"{did_you_mean(form, FORMATS.values())}; known: {known}')
        return form
    if output is None:
        return "markdown"
    suffix = Path(output).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"--output {output}: expected a name that ends in {', '.join(FORMATS)}, or give --format")
    return FORMATS[suffix]

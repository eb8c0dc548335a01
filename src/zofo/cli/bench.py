"""`zofo bench run | check | table`: contenders at equal forwards and equal trials (docs/leaderboard.md)."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zofo.cli.options import group, option
from zofo.errors import InputError, printable

if TYPE_CHECKING:
    from zofo.study.bench.entry import Entry

app = group("Zeroth-order methods at equal forwards and equal trials: a leaderboard.")

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Entries (.json), or a directory of them.")]


@app.command()
def run(
    contenders: Annotated[
        list[str],
        typer.Argument(metavar="CONTENDER...", help="Names (zofo ls contenders), or your own .yaml files."),
    ],
    output_dir: Annotated[str, option("Directory of the study and of the entries.")] = "out/leaderboard",
    model: Annotated[str | None, option("Hub id or directory of the same model.")] = None,
    data: Annotated[str | None, option("Directory with a folder for each task; the hub's rows if left out.")] = None,
    task: Annotated[list[str] | None, option("This task alone; may be given several times.")] = None,
    by: Annotated[str, option("Who runs it, as the entry says.")] = "",
    code: Annotated[str, option("Where what is run can be had; this version of zofo if left out.")] = "",
    reduced: Annotated[bool, option("A short form, to try it: no entry of the leaderboard.", "--reduced")] = False,
    dry_run: Annotated[bool, option("What would run and what it costs, by one step of each row.", "--dry-run")] = False,
    estimate: Annotated[
        bool, option("Measure a step of each row first, for the cost.", "--estimate/--no-estimate")
    ] = True,
) -> None:
    """Tune each contender on dev and run it with each seed; writes OUTPUT_DIR/CONTENDER.json. Goes on where it was."""
    from zofo import __version__
    from zofo.cli.sweep import run_plan
    from zofo.study.bench import collect
    from zofo.study.bench.plan import contender, plan_for

    chosen = [contender(one) for one in contenders]
    if twice := [one.name for one in chosen if [other.name for other in chosen].count(one.name) > 1]:
        raise InputError(f"{printable(twice[0], 60)} is given twice")
    plans = [plan_for([one], model, data, reduced, tuple(task or ())) for one in chosen]  # all faults before a run
    root = Path(output_dir)
    for one, plan in zip(chosen, plans):  # a study each, since any may be added later
        run_plan(plan, study := root / "study" / one.name, dry_run, estimate)
        if not dry_run:
            entry = collect.entry_of(one, plan, study, by or "not said", code or f"zofo {__version__}", reduced)
            typer.echo(f"{_write(entry, root / f'{one.name}.json')}: {printable(one.about)}", err=True)


@app.command()
def check(files: Files) -> None:
    """Whether entries may stand on the leaderboard: their form, equal forwards, trials, rows and model."""
    from zofo.study.bench.check import faults

    entries = _entries(files)
    found = [f"{name}.json: {fault}" for name, entry in entries.items() for fault in faults(entry, entries)]
    if found:
        raise InputError("\n".join(printable(line, 300) for line in found))
    typer.echo(f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}: in order")


@app.command()
def table(files: Files) -> None:
    """Forwards to MeZO's best dev loss, beside it the losses, seconds and peak bytes, over all tasks and for each."""
    from zofo.cli.show import table as columns
    from zofo.study.bench.table import tables

    for number, (heading, lines) in enumerate(tables(_entries(files))):
        print("\n" * (number > 0) + f"{heading}:")
        columns(tuple(lines[0]), [tuple(line) for line in lines[1:]], header=True)
    sys.stdout.flush()


def _entries(files: Iterable[str]) -> dict[str, Entry]:
    """By name. Raises InputError for what is none, and where a file is not called as its entry."""
    from zofo.study.bench.entry import read_entry

    paths = [path for file in files for path in _paths(Path(file))]
    out: dict[str, Entry] = {}
    for path in paths:
        entry = read_entry(path)
        if entry.name != path.stem:
            raise InputError(f"{path}: is the entry {entry.name}, whose file is {entry.name}.json")
        out[entry.name] = entry
    return out


def _paths(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path}: no such file or directory")
    if path.is_file():
        return [path]
    found = [one for one in sorted(path.glob("*.json")) if one.name != "schema.json"]
    if not found:
        raise InputError(f"{path}: no entries (.json) in it")
    return found


def _write(entry: Entry, path: Path) -> Path:
    from zofo.config.json_text import dumps
    from zofo.train.files import write_text

    write_text(path, dumps(entry.model_dump(mode="json"), indent=1) + "\n")
    return path

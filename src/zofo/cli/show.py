"""What `ls`, `show`, `env` and `eval` print: tables on a terminal, tab-separated lines or JSON elsewhere."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shlex
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.config import registry
from zofo.config.json_text import dumps
from zofo.errors import InputError, RunError, did_you_mean, printable
from zofo.models import versions
from zofo.train import replayed

if TYPE_CHECKING:
    from zofo.api.finetune import Run
    from zofo.config.places import Place


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], header: bool = False) -> None:
    """A rich table on a terminal, else one tab-separated line a row; header: with one for the columns, too."""
    if not sys.stdout.isatty():
        if header:
            print("\t".join(columns))
        for row in rows:
            print("\t".join(" ".join(cell.split()) for cell in row).rstrip("\t"))
        return
    from rich.table import Table
    from rich.text import Text

    from zofo.train.progress import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell, plain="\n\t")) for cell in row))
    console(sys.stdout).print(table)


def print_result(result: dict[str, Any]) -> None:
    """The result of an evaluation: a table on a terminal, one line of JSON elsewhere."""
    if sys.stdout.isatty():
        table(("what", "value"), [(str(k), v if isinstance(v, str) else dumps(v)) for k, v in result.items()])
    else:
        print(dumps(result, default=str))


def print_run(run: Run) -> None:
    """A finished run: what each candidate reached on test, or on dev where test was left alone, and where it is."""
    tested = any(run.test_by_candidate.values())
    split, measured = ("test", run.test_by_candidate) if tested else ("dev", run.info["dev"])
    for name, values in measured.items():
        what = "theta" if name == "theta" else f"(theta, {name})"
        numbers = "  ".join(f"{key} {value:.4f}" for key, value in values.items() if key != "n")
        note = "  deployed" if name == run.deployed and len(measured) > 1 else ""
        print(f"{split}, {int(values['n'])} examples  {what:<11} {numbers}{note}")
    print(f"saved in {run.path}")
    place = shlex.quote(str(run.path))
    print(f"next: zofo report {place}  (its numbers, curves and errors as one page)")
    print(f"      zofo predict {place} --file ROWS.csv --output ANSWERED.csv  (rows without an answer)")


def print_checks(path: str, model: str | None, overrides: Sequence[str], data: str | None) -> None:
    """`validate RUN`: a line for each thing that was checked. Raises InputError with a line a fault, and RunError for a
    run that is whole and failed."""
    from zofo.api.check_run import check_run
    from zofo.api.standing import standing
    from zofo.train.lease import holder
    from zofo.train.run_dir import RunDir
    from zofo.train.whole import going_on

    results = check_run(path, model, overrides, data)
    run, who = RunDir(path), holder(Path(path))
    if faults := [fault for _, fault in results if fault]:
        live = (
            [f"{path}: in use by {who}, who may have written since: wait for it to end, and look again"] if who else []
        )
        raise InputError("\n".join([*live, *faults]))
    ending = standing(run)
    for what, _ in results:
        if not what.startswith("outcome: "):
            print(what if "not checked" in what else f"{what}: yes")
        elif not ending.words():  # else the last line says it
            print(what)
    gone = any("is not a place here" in what for what, _ in results)
    places = f" --model {model}" if model else ""
    places += f" --data {data or 'FILE'}" if data or gone else ""
    some = ", as far as it was checked" if any("not checked" in what for what, _ in results) else ""
    if ending.failed:
        fix = ending.fix or (f"`{going_on(run.root)}{places}` goes on" if run.checkpoints() else "start it again")
        raise RunError(f"{path}: its files are whole{some}, and the run {ending.words()}; {fix}")
    if who:
        print(f"the run is whole{some}, and {ending.words()}: wait for its end")
    elif run.info.exists() and not ending.words():
        print(
            f"the run is whole{some}: `zofo eval {path}{places}` measures it, `zofo export {path} OUT` writes its model"
        )
    elif run.checkpoints():
        print(f"the run is whole{some}, and {ending.words()}: `{going_on(run.root)}{places}` goes on")
    else:
        print("the run has no checkpoint yet, and no process is at it: train it again with --overwrite")


def print_names(kind: str | None) -> None:
    """`ls`: name and one line of a kind's entries, or of all kinds."""
    if kind is None:
        rows = [(k, n, registry.describe(k, n)) for k in registry.KINDS for n in registry.names(k)]
        table(("kind", "name", "what"), rows)
        return
    plural = kind if kind in registry.KINDS else f"{kind}s"
    if plural not in registry.KINDS:
        hint = did_you_mean(kind, registry.KINDS) or ";"
        raise InputError(f'unknown kind "{kind}"{hint} known: {", ".join(registry.KINDS)}')
    table(("name", "what"), [(n, registry.describe(plural, n)) for n in registry.names(plural)])


def print_entry(name: str, template: str | None = None, data: str | None = None) -> None:
    """`show`: every entry of that name (`methods/mezo` picks one), a task file, a section every run has, or a field.

    template, data: of a task, see `cli.show_task`.
    """
    from zofo.config.resolve import CORE
    from zofo.federated.sections import Federation, Simulation

    sections = {**CORE, "federation": Federation, "simulate": Simulation}
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return _print_task(Path(name).stem, Path(name), template, data)  # or a setting, by what is in it
    kind, slash, short = name.rpartition("/")
    entries = [
        (entry_kind, entry)
        for entry_kind in registry.KINDS
        for entry in registry.names(entry_kind)
        if registry.canonical(short) == entry and (not slash or kind in (entry_kind, registry.singular(entry_kind)))
    ]
    if not entries and name not in sections:
        from zofo.config.places import answer, every_place, listed, meant

        places = every_place()
        if fields := [each for each in places if name.replace("-", "_") in (each.name, each.path)]:
            return _print_places(fields)
        known = [*sections, *(n for k in registry.KINDS for n in registry.names(k)), *(each.name for each in places)]
        moved = meant(name.rpartition(".")[2], dict.fromkeys(each.path for each in places)) if "." in name else []
        near = answer(name.rpartition(".")[2].replace("-", "_"), [each.path for each in places])
        near = near or (f"; did you mean {listed(moved)}?" if moved else did_you_mean(short, known) or ";")
        raise InputError(f'nothing is called "{printable(name)}"{near} zofo ls prints all names')
    kinds = {entry_kind for entry_kind, _ in entries}
    if (template and "tasks" not in kinds) or (data and not kinds & {"tasks", "settings"}):
        raise InputError(f"--template is for tasks, --data for tasks and settings, and {name} is none")
    for entry_kind, entry in entries:
        if entry_kind in ("tasks", "settings"):
            _print_task(entry, registry.load(entry_kind, entry), template, data)
        else:
            _print_one(entry_kind, entry)
    if name in sections:
        print(f"section {name}: {(sections[name].__doc__ or '').strip()}\n")
        _print_fields(name, sections[name])


def _print_task(name: str, path: Path, template: str | None, data: str | None) -> None:
    from zofo.cli.show_task import print_setting, print_task
    from zofo.data.multitask.setting import find_setting

    if find_setting(str(path)) is not None:
        print_setting(str(path), data)
    else:
        print_task(name, path, template, data)


def _print_one(kind: str, name: str) -> None:
    print(f"{registry.singular(kind)} {name}\n")
    loaded = registry.load(kind, name)
    if isinstance(loaded, Path):
        print(loaded.read_text("utf-8").rstrip())
        return
    print(registry.docstring(kind, name) or (loaded.__doc__ or "").strip(), end="\n\n")
    if kind == "methods":
        from zofo.config.layers import DEFAULT_NAMES

        needs, optional = sorted(loaded.Method.needs), sorted(getattr(loaded.Method, "optional", ()))
        needs = [f"{section} ({DEFAULT_NAMES[section]} unless named)" for section in needs]
        also = f"; if asked for: {', '.join(optional)}" if optional else ""
        print(f"sections: {', '.join(['method', *needs])}{also}\n")
    if hasattr(loaded, "Config"):
        _print_fields(registry.singular(kind), loaded.Config)


def _print_places(places: Sequence[Place]) -> None:
    """A field: the sections that have it, and how it is set."""
    for number, each in enumerate(places):
        of = f", of {', '.join(each.entries)}" if each.entries else ""
        print(f"{chr(10) * (number > 0)}field {each.name} of section {each.section}{of}\n")
        _print_fields(each.section, each.config, each.name)
        if number + 1 == len(places) or places[number + 1].path != each.path:
            where = f"as {each.name} below {each.section} in a YAML file"
            print(f"\nset it with {each.path}=VALUE on a command line, or {where}")


def _print_fields(section: str, cls: type, only: str | None = None) -> None:
    """only: that field alone."""
    from zofo.config.typed import BOUNDS, show, type_name

    hints, rows = typing.get_type_hints(cls), []
    for spec in dataclasses.fields(cls):
        if only not in (None, spec.name):
            continue
        if spec.default_factory is not dataclasses.MISSING:
            default = show(spec.default_factory())
        else:
            default = "required" if spec.default is dataclasses.MISSING else _plain_default(spec.default, show)
        meta = spec.metadata
        bounds = [f"{sign} {meta[key]}" for key, (sign, _) in BOUNDS.items() if key in meta]
        kind = type_name(hints[spec.name]) + (f", {' and '.join(bounds)}" if bounds else "")
        rows.append((f"{section}.{spec.name}", kind, default, meta.get("help", ""), meta.get("paper", "")))
    if rows:
        table(("field", "type", "default", "what it does", "in the paper"), rows)
    else:
        print("no settings")


def _plain_default(value: Any, show: Callable[[Any], str]) -> str:
    if isinstance(value, float):  # 1e-06 -> 1e-6, as one would type it
        return re.sub(r"e([+-]?)0+(\d)", r"e\1\2", repr(value))
    return show(value)


def print_environment(full: bool) -> None:
    """`env`: versions from the installed metadata, CPU and memory; with `full` also what torch says."""
    import psutil

    rows = [("python", platform.python_version()), ("platform", platform.platform())]
    rows.append(("zofo", versions.installed("zofo") or "not installed"))
    rows += [(each.name, each.installed or "not installed") for each in versions.libraries()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    rows.append(("cpu", versions.processor()))
    rows.append(("cores", f"{cores} usable, {os.cpu_count()} in all"))
    rows.append(("memory", f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available"))
    rows.append(("theta kept in", _kept()))
    tested = {"python": ", ".join(versions.pythons())} | {each.name: each.span for each in versions.libraries()}
    rows += _torch_rows() if full else []
    table(("what", "value", "tested with"), [(*row, tested.get(row[0], "")) for row in rows])
    for warning in versions.warnings():
        print(f"warning: {warning}", file=sys.stderr)


def _kept() -> str:
    """Where replays of long runs are kept, and how much is there."""
    root = replayed.folder()
    if root is None:
        return f"nowhere ({replayed.VARIABLE})"
    size = sum(path.stat().st_size for entry in replayed.kept(root) for path in entry.rglob("*") if path.is_file())
    return f"{root}, {size / 2**30:.1f} of at most {replayed.LIMIT / 2**30:.0f} GiB ({replayed.VARIABLE})"


def _torch_rows() -> list[tuple[str, str]]:
    import torch

    rows = [("torch threads", str(torch.get_num_threads())), ("torch cuda build", torch.version.cuda or "none")]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(number)
        rows.append((f"cuda:{number}", f"{device.name}, {device.total_memory / 2**30:.1f} GiB"))
    return rows if len(rows) > 2 else [*rows, ("cuda devices", "none")]

"""`zofo memory`: one method by phase and part, or several methods side by side; the same as JSON."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.api.configure import resolve
from zofo.cli.settings import split_settings
from zofo.config import registry
from zofo.config.epochs import refused as without_epochs
from zofo.config.json_text import dumps
from zofo.config.resolve import Config
from zofo.config.sections import SPLIT_FIELDS
from zofo.config.yaml_reader import read_yaml
from zofo.errors import InputError

if TYPE_CHECKING:
    from zofo.api.memory.footprint import Footprint, Rows

COMPARED = ("zero-shot", "mezo", "bilevel-zofo", "fo-peft", "fo-ft")
MIB = 2**20


def run(
    settings: Sequence[str] | None,
    preset: str | None,
    methods: Sequence[str] | None,
    sections: Sequence[str | None],
    rows: Sequence[int | None],
    as_json: bool = False,
    real: bool = False,
) -> None:
    """Print what each method needs. sections: model, task and adapter; rows: length, options and answer of made-up
    rows; None where not given. real: load the model and count while it makes real steps, too. Raises InputError."""
    from zofo.api.memory.named_shapes import hinted, place

    named: dict[str, Any] = dict(zip(("model", "task", "adapter"), sections))
    if rows[0] is None:  # a shape has no tokenizer
        return _print(settings, preset, methods, named, rows, as_json, real)
    with hinted(named["model"]):
        _print(settings, preset, methods, {**named, "model": place(named["model"])}, rows, as_json, real)


def _print(
    settings: Sequence[str] | None,
    preset: str | None,
    methods: Sequence[str] | None,
    named: dict[str, Any],
    rows: Sequence[int | None],
    as_json: bool,
    real: bool,
) -> None:
    """See `run`. named: the model by its place, the task and the adapter."""
    resolved = configs(settings or (), preset, methods or (), named, made_up=rows[0] is not None)
    if rows[0] is None and any(rows):
        raise InputError("--options and --answer are for made-up rows: give --length TOKENS too, or leave them out")
    process = process_bytes()  # before a prediction has loaded what a run does not need

    from zofo.api.memory.footprint import Rows, measure, predict

    kind = None if rows[0] is None else Rows(rows[0], rows[1] or 1, rows[2] or 1)
    # Measured first: a prediction imports what a run does not, and the process's peak would hold it
    kinds = {**({"measured": measure} if real else {}), "predicted": predict}
    results = {}
    for name, make in kinds.items():
        try:
            results[name] = [make(config, kind) for config in resolved]
        except InputError as error:
            if not results:
                raise
            print(f"not {name}: {error}", file=sys.stderr)
    if as_json:
        plain = {name: [each.to_dict() for each in footprints] for name, footprints in results.items()}
        print(dumps({**plain, "process_bytes": process}))
        return
    for name, footprints in results.items():
        print("\n".join(_one(footprints[0], name) if len(footprints) == 1 else _several(footprints, name)))
    _print_rest(process, kind)


def configs(
    settings: Sequence[str],
    preset: str | None,
    methods: Sequence[str],
    sections: dict[str, Any],
    made_up: bool,
    each: bool = False,
) -> list[Config]:
    """One for each method; where none is named, for those of COMPARED. made_up: the task is not looked at. each: also
    a single method takes of the settings those that it knows.

    Raises InputError as `zofo validate` does, and where there is neither a task nor made-up rows.
    """
    file, overrides = split_settings(settings)
    data = read_yaml(Path(file), "config file") if file else {}
    base = preset or data.get("preset")
    if base is not None:
        if registry.canonical(str(base)) not in registry.names("presets"):
            return [_resolve(file, overrides, preset, {**sections, "method": next(iter(methods), None)})]  # says so
        data = {**read_yaml(registry.load("presets", str(base)), "preset"), **data}
    given = {name for part in (data, sections) for name, value in part.items() if value is not None}
    asked = {text.partition("=")[0].removesuffix(".name") for text in overrides}
    given |= asked | ({"task"} if asked & {f"task.{key}" for key in SPLIT_FIELDS.values()} else set())
    if "task" not in given:
        if not made_up:
            raise InputError("no data: give --task, --train-file, or --length TOKENS of a row")
        sections = {**sections, "task": "sst2"}  # any will do, it is not read
    files = not made_up
    if not methods and "method" in given:
        return [_resolve(file, overrides, preset, sections, files)]
    if len(methods) == 1 and not each:
        return [_resolve(file, overrides, preset, {**sections, "method": methods[0]}, files)]
    adapted = each and sections.get("adapter") is not None
    return [_for_method(name, file, overrides, preset, sections, files, adapted) for name in methods or COMPARED]


def _resolve(
    file: str | None, overrides: Sequence[str], preset: str | None, sections: dict[str, Any], files: bool = True
) -> Config:
    """files: whether those that the configuration names are looked at."""
    return resolve(file, overrides, preset, files=files, train={"output_dir": "unused"}, **sections)


def _for_method(
    name: str,
    file: str | None,
    overrides: Sequence[str],
    preset: str | None,
    sections: dict[str, Any],
    files: bool,
    adapted: bool = False,
) -> Config:
    """Of several methods each takes the settings that it knows. adapted: and the adapter, where it may have one."""
    module = registry.load("methods", name)
    taken = module.Method.optional & ({"mask", "adapter"} if adapted else {"mask"})
    unused = {"adapter", "estimator", "mask", "rule"} - module.Method.needs - taken
    fields = {field.name for field in dataclasses.fields(module.Config)}

    def fits(text: str) -> bool:
        section, _, key = text.partition("=")[0].partition(".")
        return section not in unused and (section != "method" or key in fields)

    sections = {section: value for section, value in sections.items() if section not in unused}
    overrides = [text for text in overrides if fits(text)]
    if without_epochs(name, module.Method):
        overrides.append("train.num_train_epochs=null")
    return _resolve(file, overrides, preset, {**sections, "method": name}, files)


def process_bytes() -> int:
    """The resident memory of this process with all that training imports, compiled kernels included, and no model."""
    import psutil
    import torch

    from zofo.train import setup  # noqa: F401  (transformers, peft, accelerate)
    from zofo.zo import kernels

    kernels.add(torch.zeros(1), torch.zeros(1), [(1, 0.0)], 0)
    return psutil.Process().memory_info().rss


def _one(footprint: Footprint, kind: str) -> list[str]:
    """A line for each phase, its parts side by side."""
    batches = ", ".join(f"{name} {rows} x {tokens}" for name, (_, rows, tokens) in footprint.batches.items())
    used = [part for part in next(iter(footprint.peaks)).parts if any(peak.parts[part] for peak in footprint.peaks)]
    rows = []
    for peak in footprint.peaks:
        cells = [_mib(peak.parts[part]) for part in used]
        rows.append([peak.phase, *cells, _mib(peak.total), "<" if peak is footprint.peak else ""])
    adapter = f" with {footprint.adapter}" if footprint.adapter else ""
    held = ""
    if footprint.process is not None:
        before, most = (size(n) for n in footprint.process)
        held = f"; the process held {before} before these steps and {most} at most in them"
    return [
        f"{kind}: {footprint.method}{adapter} on {footprint.model}, {footprint.dtype}; rows x tokens: {batches}",
        *aligned([[f"MiB at the peak of the {'phase':<5}", *used, "total", ""], *rows]),
        f"peak of all tensors: {size(footprint.peak.total)}, in the {footprint.peak.phase}{held}",
    ]


def _several(footprints: Sequence[Footprint], kind: str) -> list[str]:
    """A line for each method, at the fullest phase."""
    used = [part for part in footprints[0].peak.parts if any(each.peak.parts[part] for each in footprints)]
    rows = []
    for each in footprints:
        name = f"{each.method} ({each.adapter})" if each.adapter else each.method
        cells = [_mib(each.peak.parts[part]) for part in used]
        rows.append([name, *cells, _mib(each.peak.total), f"  {each.peak.phase}"])
    return [
        f"{kind}: {footprints[0].model}, {footprints[0].dtype}",
        *aligned([["MiB at the peak", *used, "total", "  in the"], *rows]),
    ]


def _print_rest(process: int, kind: Rows | None) -> None:
    where = "made-up rows" if kind is not None else "the longest batches of the data"
    print(f"The tensors of steps on {where}. A process has more: Python, torch and compiled kernels, {size(process)}")
    print("(measured: this process, before the above), and what operations take within themselves (docs/memory.md).")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width, the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *middle, last in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(middle, widths[1:-1])), last]
        lines.append("  ".join(cells).rstrip())
    return lines


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f}" if size else "-"


def size(n: int) -> str:
    """Bytes in MiB, from 10 GiB on in GiB."""
    return f"{n / 2**30:,.1f} GiB" if n >= 10 * 2**30 else f"{n / MIB:,.0f} MiB"

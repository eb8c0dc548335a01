"""`zofo memory --fits GB`: what fits on a card, or in a machine's memory, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zofo.cli.memory import aligned, configs
from zofo.config.json_text import dumps
from zofo.config.resolve import Config
from zofo.errors import InputError, printable

if TYPE_CHECKING:
    from zofo.api.memory.fits import Cell, Way
    from zofo.api.memory.rows import Rows

# The ways that are compared where no method is named
WAYS = (
    *(("mezo", None), ("mezo", "lora"), ("sparse-mezo", None)),
    *(("bilevel-zofo", "lora"), ("fo-peft", "lora"), ("fo-ft", None)),
)


UNITS = {"": 2**30, "gib": 2**30, "gb": 10**9, "mib": 2**20, "mb": 10**6}
NAMES = {"": "GiB", "gib": "GiB", "gb": "GB", "mib": "MiB", "mb": "MB"}


def run(
    fits: str,
    settings: Sequence[str] | None,
    preset: str | None,
    methods: Sequence[str] | None,
    sections: Sequence[str | None],
    rows: Sequence[int | None],
    as_json: bool = False,
    real: bool = False,
) -> None:
    """Print what fits into these sizes. The rest as `cli.memory.run` takes it. Raises InputError."""
    sizes, named = sizes_of(fits), dict[str, Any](zip(("model", "task", "adapter"), sections))
    if real:
        raise InputError("--fits: is predicted, for what need not be here; leave --measure out")
    if named["task"] is not None:
        raise InputError("--fits: is asked of rows of given lengths, not of a task's; leave --task out, or --fits")
    from zofo.api.memory.named_shapes import hinted, place

    with hinted(named["model"]):
        configs = _configs(settings or (), preset, methods or (), {**named, "model": place(named["model"])})
        _print(configs, sizes, rows, as_json)


def _print(configs: list[Config], sizes: dict[str, int], rows: Sequence[int | None], as_json: bool) -> None:
    from zofo.api.memory.fits import BATCHES, LENGTHS, Way, allowance
    from zofo.api.memory.hollow import settings_of
    from zofo.api.memory.rows import Rows

    model = configs[0].model
    found, dtype = settings_of(model)
    limit = getattr(found, "max_position_embeddings", None) or max(LENGTHS)
    lengths = (rows[0],) if rows[0] is not None else tuple(n for n in LENGTHS if n <= limit) or (limit,)
    batches = (configs[0].train.batch_size,) if _given(configs[0], "train.batch_size") else BATCHES
    beside, kind = allowance(model.device), Rows(lengths[0], rows[1] or 1, rows[2] or 1)
    followed = not _given(configs[0], "train.eval_batch_size")
    ways, largest = _predicted({_name(c): Way(c, beside, kind, followed) for c in configs}, lengths, batches, sizes)
    if as_json:
        plain = {"model": _shown(model.name), "dtype": str(dtype)[6:], "device": model.device}
        chosen = [cell.to_dict() for way in largest for cells in way for cell in cells]
        asked = [cell.to_dict() for way in ways for size in sizes.values() for cell in way.asked(size)]
        print(dumps({**plain, "sizes": list(sizes.values()), "largest": chosen, "cells": asked}))
        return
    where = "in RAM, on the CPU" if model.device == "cpu" else "on a card"
    head = f"{_shown(model.name)}, {str(dtype)[6:]}, "
    print("\n".join(_tables(head, where, lengths, list(sizes), largest)))
    every = [cell for way in largest for cells in way for cell in cells]
    print(_rest(every, batches, followed, kind, beside.words))
    if model.device == "cpu" and dtype.itemsize == 2:
        print("16-bit weights on a CPU may need twice that: what its products take is not counted (docs/memory.md).")


def sizes_of(text: str) -> dict[str, int]:
    """{as it is shown: bytes} of "24", "24GB" or "8,16,24GiB"; a number alone is in GiB. Raises InputError."""
    sizes = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-zA-Z]*)\s*", part)
        unit = UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None or not 0 < float(match[1]) * unit < 2**63:
            raise InputError(
                f"--fits: expected the card's memory in GiB, more than 0, such as 24, 24GB (10^9 bytes), 24GiB or "
                f"8,16,24; got {printable(text, 60)!r}"
            )
        size = int(float(match[1]) * unit)
        plain = f"{float(match[1]):g} {NAMES[match[2].lower()]}"
        sizes[plain if unit == 2**30 else f"{plain} ({size / 2**30:.1f} GiB)"] = size
    return sizes


def _predicted(
    ways: dict[str, Way], lengths: Sequence[int], batches: Sequence[int], sizes: dict[str, int]
) -> tuple[list[Way], list[list[list[Cell]]]]:
    """(the ways that can be predicted, for each and each size a cell a length). The others are named and left out.

    Raises InputError where none can.
    """
    from zofo.train.progress import counter

    known, rows, faults = list[Any](), list[Any](), dict[str, str]()
    with counter("predicting what fits", len(ways)) as (_, show):
        for done, (name, way) in enumerate(ways.items()):
            show(done)
            try:
                rows.append([way.row(lengths, batches, size) for size in sizes.values()])
                known.append(way)
            except InputError as error:
                if len(ways) == 1 or str(error).startswith("--"):
                    raise
                faults[name] = str(error)
    if not known and len(set(faults.values())) == 1:
        raise InputError(next(iter(faults.values())))
    for name, fault in faults.items():
        print(f"left out: {name}: {fault}", file=sys.stderr)
    if not known:
        raise InputError("nothing could be predicted; the lines above say why")
    return known, rows


def _tables(
    head: str, where: str, lengths: Sequence[int], sizes: Sequence[str], largest: Sequence[Sequence[Sequence[Cell]]]
) -> list[str]:
    """A column for each length, a table for each size; of one length a table with a column for each size."""
    what = "the largest batch that fits, and what it needs in GiB"
    if len(lengths) == 1 and len(sizes) > 1:
        rows = [_row([cells[0] for cells in way]) for way in largest]
        return [f"{head}{lengths[0]:,} tokens, {where}: {what}", *aligned([["", *sizes, ""], *rows])]
    lines = []
    for i, size in enumerate(sizes):
        names = ["", *(f"{n:,} tokens" for n in lengths), ""]
        lines += [f"{head}{size} {where}: {what}", *aligned([names, *(_row(way[i]) for way in largest)])]
    return lines


def _configs(
    settings: Sequence[str], preset: str | None, methods: Sequence[str], sections: dict[str, Any]
) -> list[Config]:
    """One for each row of the table; those that a setting rules out are named and left out."""
    adapter = sections["adapter"]
    wanted = [(m, adapter) for m in methods] or [(m, adapter if a and adapter else a) for m, a in WAYS]
    made, faults = list[Config](), list[str]()
    for method, with_adapter in dict.fromkeys(wanted):
        try:
            named = {**sections, "adapter": with_adapter}
            (config,) = configs(settings, preset, [method], named, made_up=True, each=True)
        except InputError as error:
            faults.append(str(error))
            if len(wanted) > 1:
                continue
            raise
        made.append(_on_a_card(config))
    if not made:
        raise InputError(faults[0])
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    return made


def _on_a_card(config: Config) -> Config:
    """Where no device is named a card is meant, whatever there is here."""
    if config.model.device != "auto":
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, device="cuda"))


def _given(config: Config, field: str) -> bool:
    return not config.reasons.get(field, "default").startswith("default")


def _name(config: Config) -> str:
    adapter = config.names.get("adapter")
    return config.names["method"] + (f" ({adapter})" if adapter else "")


def _shown(name: str) -> str:
    """A shape by its name, anything else as it was given."""
    from zofo.api.memory.named_shapes import FOLDER

    return f"the shape of {Path(name).stem}" if Path(name).parent == FOLDER else name


def _row(cells: Sequence[Cell]) -> list[str]:
    first = cells[0]
    name = f"{first.method} ({first.adapter})" if first.adapter else first.method
    return [name, *(_cell(cell) for cell in cells), ""]


def _cell(cell: Cell) -> str:
    needs = f"{cell.needs / 2**30:,.1f}"
    return f"{cell.batch_size}: {needs}" if cell.fits else f"no ({cell.batch_size}: {needs})"


def _rest(cells: Sequence[Cell], batches: Sequence[int], followed: bool, kind: Rows, words: str) -> str:
    of = ", ".join(map(str, batches))
    options = f"; {kind.options} answers with rows of their own" if kind.options > 1 else ""
    evaluated = "; evaluations take as many at once" if followed else ""
    over = next((cell for cell in cells if not cell.fits), None)
    legend = ""
    if over is not None:
        size, needs = over.batch_size, f"{over.needs / 2**30:,.1f}"
        legend = f" {_cell(over)}: not even a batch of {size}, the smallest, fits: it needs {needs} GiB."
    return (
        f"Batches tried: {of}{evaluated}{options}.{legend}\n"
        f"Predicted without weights (zofo memory), and beside the tensors {words}."
    )

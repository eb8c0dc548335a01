"""`zofo memory --plan FOLDER`: whether this machine's memory holds a model or its disk must, and what a step costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zofo.cli.memory import aligned, configs, size
from zofo.config.json_text import dumps
from zofo.config.resolve import Config
from zofo.errors import InputError


def run(
    folder: str,
    fits: str | None,
    settings: Sequence[str] | None,
    preset: str | None,
    methods: Sequence[str] | None,
    sections: Sequence[str | None],
    rows: Sequence[int | None],
    as_json: bool = False,
    real: bool = False,
) -> None:
    """Print the plan. folder: on the disk that would hold the weights. The rest as `cli.memory.run` takes it; without
    a method it is MeZO's. Raises InputError."""
    from zofo.api.memory.named_shapes import hinted, place
    from zofo.cli.fits import sizes_of

    sizes = {} if fits is None else sizes_of(fits)
    if real:
        raise InputError("--plan: is predicted, for a model that memory may not hold; leave --measure out")
    named: dict[str, Any] = dict(zip(("model", "task", "adapter"), sections))
    with hinted(named["model"]):
        resolved = configs(
            settings or (),
            preset,
            methods or ("mezo",),
            {**named, "model": place(named["model"]) if rows[0] is not None else named["model"]},
            made_up=rows[0] is not None,
        )
        _print(resolved, Path(folder), sizes, rows, as_json)


def _print(
    resolved: Sequence[Any], folder: Path, sizes: dict[str, int], rows: Sequence[int | None], as_json: bool
) -> None:
    from zofo.api.memory.footprint import Rows, predict
    from zofo.api.memory.plan import disk_of, over_devices, ways
    from zofo.models.room import of_machine

    kind = None if rows[0] is None else Rows(rows[0], rows[1] or 1, rows[2] or 1)
    free, disk = of_machine().free, disk_of(folder)
    in_memory = {config.names["method"]: (config, predict(_in_memory(config), kind)) for config in resolved}
    plans = {name: ways(*known, folder, disk, free) for name, known in in_memory.items()}
    cards = {text: {name: over_devices(*known, n) for name, known in in_memory.items()} for text, n in sizes.items()}
    if as_json:
        of_cards = {text: {m: [way.to_dict() for way in plan] for m, plan in of.items()} for text, of in cards.items()}
        told = {name: [way.to_dict() for way in plan] for name, plan in plans.items()}
        print(dumps({"free": free, "disk": vars(disk), "methods": told, "devices": of_cards}))
        return
    print(
        f"free memory {size(free)}; {folder} reads {disk.reads / 1e9:.1f} and writes {disk.writes / 1e9:.1f} GB a "
        f"second (measured with 256 MiB)"
    )
    table = [["", "needs", "", "seconds a step to read", "to write", ""]]
    for name, plan in plans.items():
        for way in plan:
            if way.needs is None:
                table.append([f"{name}, {way.name}", "-", "refused", "", "", f"  {way.why}"])
                continue
            seconds = [f"{each:.1f}" if way.setting else "-" for each in (way.read, way.written)]
            fits = "fits" if way.fits else "does not fit"
            table.append([f"{name}, {way.name}", size(way.needs), fits, *seconds, f"  {way.setting}"])
    print("\n".join(aligned(table)))
    print("The disk works beside computing: of a step it adds what it takes longer than that (docs/scale.md).")
    for text, plans in cards.items():
        print("\n".join(_of_cards(text, plans)))


def _in_memory(config: Config) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, offload_folder=None))


def _of_cards(text: str, plans: dict[str, list[Any]]) -> list[str]:
    """A line for each way to cut the model over devices of one size."""
    table = [[f"on devices of {text}", "devices", "each needs", "GiB sent a step", "seconds", ""]]
    for name, plan in plans.items():
        for way in plan:
            if way.needs is None:
                table.append([f"{name}, {way.name}", "-", "refused", "", "", f"  {way.why}"])
                continue
            count = str(way.devices) if way.fits else f"over {way.devices}"
            sent, seconds = f"{way.exchanged / 2**30:.2f}", f"{way.sending:.2f}"
            table.append([f"{name}, {way.name}", count, size(way.needs), sent, seconds, f"  {way.setting}"])
    return [
        *aligned(table),
        "An estimate, and on the large side, with 25 GB a second between devices: not measured (docs/scale.md).",
    ]

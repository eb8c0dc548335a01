"""`zofo memory --plan FOLDER`: whether this machine's memory holds a model or its disk must, and what a step costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zofo.cli.memory import aligned, configs, size
from zofo.config.json_text import dumps
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

    if fits is not None:
        raise InputError("--plan: is of this machine, and --fits of sizes; give one of them")
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
        _print(resolved, Path(folder), rows, as_json)


def _print(resolved: Sequence[Any], folder: Path, rows: Sequence[int | None], as_json: bool) -> None:
    from zofo.api.memory.footprint import Rows
    from zofo.api.memory.plan import disk_of, ways
    from zofo.models.room import of_machine

    kind = None if rows[0] is None else Rows(rows[0], rows[1] or 1, rows[2] or 1)
    free, disk = of_machine().free, disk_of(folder)
    plans = {config.names["method"]: ways(config, folder, disk, free, kind) for config in resolved}
    if as_json:
        told = {name: [way.to_dict() for way in plan] for name, plan in plans.items()}
        print(dumps({"free": free, "disk": vars(disk), "methods": told}))
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

"""A plan's runs as configurations: each resolved as `zofo train` does, all that is wrong said before the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from zofo.api.configure import resolve
from zofo.config.paths import located
from zofo.config.resolve import Config
from zofo.errors import InputError, first_few
from zofo.study.plan import Plan, Point, Row

MOST = 64  # points of a row that are checked


def config_of(plan: Plan, row: Row, point: Point, out: Path, seed: int, files: bool = False, **train: Any) -> Config:
    """Of a run in `out`. files: whether model and rows are looked at. train: further settings. Raises InputError."""
    nested: dict[str, dict[str, Any]] = {}
    own = {"output_dir": str(out), "seed": seed, **train}
    settings = {**settings_of_row(plan, row, point), **{f"train.{key}": value for key, value in own.items()}}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    return resolve(None, (), plan.preset, source="plan", files=files, **located(nested, plan.folder))


def settings_of_row(plan: Plan, row: Row, point: Point) -> dict[str, Any]:
    """With a point of its own, or of the row that it is like, over which goes what it has otherwise."""
    if row.like is None:
        return {**row.settings, **point}
    return {**settings_of_row(plan, plan.row(row.like), point), **row.settings}


def check(plan: Plan, study: Path) -> dict[str, Config]:
    """{row: the configuration of its first run}. Raises InputError with a line for each fault and the rows that have
    it."""
    faults: dict[str, list[str]] = {}
    configs: dict[str, Config] = {}
    for row in plan.rows:
        for number, point in enumerate(_points(plan, row)):
            try:
                out = study / row.name / "trial-0"
                config = config_of(plan, row, point, out, row.seeds[0], files=not number)
                configs.setdefault(row.name, config)
            except InputError as error:
                for line in str(error).split("\n"):
                    faults.setdefault(line, []).append(row.name)
    if faults:
        lines = [f"plan {plan.name}.yaml, {_rows(names, plan)}: {line}" for line, names in faults.items()]
        raise InputError("\n".join(lines))
    return configs


def _rows(names: list[str], plan: Plan) -> str:
    named = list(dict.fromkeys(names))
    if len(named) == len(plan.rows) > 1:
        return "every row"
    return f"row{'s' * (len(named) > 1)} {first_few(named)}"


def _points(plan: Plan, row: Row) -> Iterator[Point]:
    """Those that stand for all: with each value once, and of a row whose points are chosen as it goes the ends of what
    is searched."""
    if row.like is not None:
        yield next(_points(plan, plan.row(row.like)))
        return
    if row.points:
        seen: set[str] = set()
        for point in row.points:
            new = {repr(each) for each in point.items()} - seen
            if (new or not seen) and len(seen) < MOST:
                seen |= new or {""}
                yield point
        return
    ends: Mapping[str, tuple[Any, ...]] = {key: space.ends() for key, space in row.search.items()}
    for number, values in enumerate(product(*ends.values())):
        if number == MOST:
            return
        yield dict(zip(ends, values))

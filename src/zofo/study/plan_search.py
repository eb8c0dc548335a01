"""What a row searches, and the points of its trials: a grid, a list, or draws of the plan's seed."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from zofo.config.layers import brief
from zofo.study.plan import Point, Row, Space, settings_of

MOST = 10_000  # trials of a row


def row_of(
    name: str, settings: Point, search: Any, spec: Mapping[str, Any], data: Mapping[str, Any], faults: list[str]
) -> Row:
    seeds = seeds_of(f"{name}.seeds" if "seeds" in spec else "seeds", spec.get("seeds", data.get("seeds", [0])), faults)
    trials = spec.get("trials", data.get("trials"))
    if isinstance(trials, list):  # written out
        points = tuple(settings_of(f"{name}.trials", point or {}, faults) for point in trials if _is_point(point))
        if len(points) < len(trials) or not points:
            faults.append(f'{name}.trials: expected mappings of "section.field: value", one a trial')
        return Row(name, settings, len(points), points, {}, seeds)
    spaces = _spaces(name, search, faults)
    sampler = data.get("sampler", "grid")
    if trials is not None and (type(trials) is not int or not 1 <= trials <= MOST):
        faults.append(f"trials: expected a number from 1 to {MOST}, got {brief(trials)}")
        return Row(name, settings)
    if not spaces:
        return Row(name, settings, seeds=seeds)
    if sampler == "grid":
        return _grid(name, settings, spaces, trials, seeds, faults)
    if trials is None:
        faults.append(f"trials: sampler {sampler} needs how many, as in trials: 10")
        return Row(name, settings)
    if sampler == "tpe":
        return Row(name, settings, trials, (), spaces, seeds)
    points = _random(spaces, trials, (int(data.get("seed", 0)), zlib.crc32(name.encode())))
    return Row(name, settings, len(points), points, spaces, seeds)


def _is_point(point: object) -> bool:
    return point is None or isinstance(point, Mapping)


def seeds_of(key: str, seeds: Any, faults: list[str]) -> tuple[int, ...]:
    if type(seeds) is int:
        seeds = [seeds]
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or len(set(seeds)) < len(seeds):
        faults.append(f"{key}: expected different whole numbers, such as [0, 1, 2], got {brief(seeds)}")
        return (0,)
    return tuple(seeds)


def _spaces(name: str, search: Any, faults: list[str]) -> dict[str, Space]:
    if not isinstance(search or {}, Mapping):
        faults.append(f'{name}.search: expected a mapping of "section.field: [values]", got {brief(search)}')
        return {}
    spaces = {}
    for key, given in (search or {}).items():
        settings_of(f"{name}.search", {key: None}, faults)
        if isinstance(given, list) and given:
            spaces[key] = Space(tuple(given))
        elif isinstance(given, Mapping) and {"low", "high"} <= set(given) <= {"low", "high", "log"}:
            low, high, log = given["low"], given["high"], given.get("log", False)
            numbers = all(type(end) in (int, float) and math.isfinite(end) for end in (low, high))
            if not numbers or not low < high or type(log) is not bool or (log and low <= 0):
                faults.append(f"search.{key}: expected low below high, both above 0 where log: true")
                continue
            spaces[key] = Space((), low, high, log)
        elif isinstance(given, (Mapping, list)):
            faults.append(f"search.{key}: expected [values], or {{low: 1e-6, high: 1e-2, log: true}}")
        else:
            spaces[key] = Space((given,))
    return spaces


def _grid(
    name: str,
    settings: Point,
    spaces: Mapping[str, Space],
    trials: int | None,
    seeds: tuple[int, ...],
    faults: list[str],
) -> Row:
    if ranges := [key for key, space in spaces.items() if not space.values]:
        faults.append(f"search.{ranges[0]}: a grid needs [values]; a range is for sampler: random or tpe")
        return Row(name, settings)
    size = math.prod(len(space.values) for space in spaces.values())
    if trials is not None and trials != size:
        faults.append(f"trials: {trials}, and the grid of {name} has {size} points; leave it out, or sampler: random")
    if size > MOST:
        faults.append(f"search: the grid of {name} has {size} points, more than {MOST}")
        return Row(name, settings)
    points = tuple(_product(spaces))
    return Row(name, settings, len(points), points, spaces, seeds)


def _product(spaces: Mapping[str, Space]) -> Iterator[Point]:
    for values in itertools.product(*(space.values for space in spaces.values())):
        yield dict(zip(spaces, values))


def _random(spaces: Mapping[str, Space], trials: int, key: tuple[int, int]) -> tuple[Point, ...]:
    """Trial n's point is of the plan's seed, the row's name and n alone. Of values alone no point comes twice."""
    if all(space.values for space in spaces.values()):
        grid = list(itertools.islice(_product(spaces), MOST))
        order = np.random.Generator(np.random.PCG64(key)).permutation(len(grid))
        return tuple(grid[i] for i in order[:trials])
    points = []
    for number in range(trials):
        draw = np.random.Generator(np.random.PCG64((*key, number)))
        points.append({name: _drawn(space, draw) for name, space in spaces.items()})
    return tuple(points)


def _drawn(space: Space, draw: np.random.Generator) -> Any:
    if space.values:
        return space.values[int(draw.integers(len(space.values)))]
    low, high = (math.log(space.low), math.log(space.high)) if space.log else (space.low, space.high)
    at = low + (high - low) * draw.random()
    return float(f"{math.exp(at) if space.log else at:.6g}")

"""What differs between two runs: settings, inputs, versions, and the numbers they came to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config.resolve import Config
from zofo.study.results import Result, read

SECTIONS = ("settings", "inputs", "environment", "numbers")
NO_DIFFERENCE = {"settings.train.output_dir"}  # where a run lies is not what it is
NUMBERS = ("best_step", "deployed", "seconds", "peak_bytes", "forwards", "backward_passes", "examples_seen", "tokens")


@dataclass(frozen=True)
class Line:
    """One thing that differs. first, second: None where a run has no such thing."""

    section: str
    name: str
    first: Any
    second: Any


def diff(first: str | Path, second: str | Path) -> list[Line]:
    """Of two runs or kept files, in the order settings, inputs, environment, numbers; [] where nothing differs.

    A setting that one run's version did not have yet has there what it is by default. Raises InputError.
    """
    one, other = read(first), read(second)
    lines = []
    for section in SECTIONS:
        ours, theirs = (dict(_facts(section, run)) for run in (one, other))
        for name in dict.fromkeys([*ours, *theirs]):
            values = ours.get(name), theirs.get(name)
            if f"{section}.{name}" not in NO_DIFFERENCE and not _same(*values):
                lines.append(Line(section, name, *values))
    return [*lines, *_examples(one, other)]


def _facts(section: str, run: Result) -> Iterator[tuple[str, Any]]:
    if section == "settings":
        yield from _settings(run).items()
    elif section == "numbers":
        yield from ((name, run.info.get(name)) for name in NUMBERS)
        yield "counted steps", run.counted_steps
        for split in ("dev", "test"):
            for candidate, values in run.info.get(split, {}).items():
                yield from ((f"{split} ({candidate}) {name}", value) for name, value in values.items())
        yield "how it stands", run.ending.words() or "at its end"
    else:
        yield from _flat(run.info.get(section, {}))


def _settings(run: Result) -> Mapping[str, Any]:
    """With the defaults of fields that are newer than the run."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in run.settings.items():
        section, _, field = key.partition(".")
        if field:
            sections.setdefault(section, {})[field] = value
    return dict(run.settings) | _defaults(sections, run.settings)


def _defaults(sections: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    from zofo.config.resolve import from_dict
    from zofo.errors import InputError

    try:
        whole: Config = from_dict({name: dict(fields) for name, fields in sections.items()})
    except (InputError, TypeError, KeyError):  # a kept file of before has not all of them, another version other ones
        return {}
    every = {f"{name}.{key}": value for name, fields in whole.to_dict().items() for key, value in _items(fields)}
    return {key: value for key, value in every.items() if key not in given}


def _items(fields: Any) -> Iterator[tuple[str, Any]]:
    yield from fields.items() if isinstance(fields, Mapping) else ()


def _flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _examples(one: Result, other: Result) -> Iterator[Line]:
    """How many test examples each run does better on; of scores that are right or wrong, has right alone."""
    ours, theirs = ({each.id: each.score for each in run.outcomes()} for run in (one, other))
    shared = [name for name in ours if name in theirs]
    if not shared:
        return
    better = sum((ours[name] or 0) > (theirs[name] or 0) for name in shared)
    worse = sum((ours[name] or 0) < (theirs[name] or 0) for name in shared)
    if better or worse:
        plain = {run[name] for run in (ours, theirs) for name in shared} <= {0.0, 1.0, None}
        how = "that this run alone gets right" if plain else f"where this run alone has the better {one.metric}"
        yield Line("numbers", f"test examples {how} (of {len(shared)} in both)", better, worse)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return one == other and isinstance(one, bool) == isinstance(other, bool)

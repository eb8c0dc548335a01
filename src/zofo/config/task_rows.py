"""Where the rows of a task are: `task.name` itself, `task.data`, or a file for each split; which of them was given
last, and where they are now."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.config.layers import Merged, Value
from zofo.config.sections import SPLIT_FIELDS, TaskConfig, exists, kind_of_task
from zofo.errors import InputError, printable


def settle(merged: Merged) -> None:
    """Of `task.name`, `task.data` and the files of the splits, what a later source names takes the place of what an
    earlier one did, with a note: `--preset P --train-file mine.csv` trains on mine.csv. Together in one source they are
    an error, which the section says of itself."""
    given = merged.values.get("task", {})
    files = {key: given[key] for key in SPLIT_FIELDS.values() if key in given and given[key].value is not None}
    if not files:
        return
    last = max(files.values(), key=lambda value: value.layer)
    name, data = given.get("name"), given.get("data")
    if name is not None and name.value and name.layer > last.layer:
        for key, value in files.items():
            merged.notes.append(f"task.{key}: {value.value} ({value.source}) gives way to task.name, {name.source}")
            del given[key]
        return
    if data is not None and data.value is not None and data.layer < last.layer:
        merged.notes.append(f"task.data: {data.value} ({data.source}) gives way to task.{next(iter(files))}")
        del given["data"]
    if name is not None and name.value and name.layer < last.layer:
        rows = isinstance(name.value, str) and kind_of_task(name.value) == "rows"
        if not rows and not name.source.startswith("preset "):  # then they are rows of that task
            return
        merged.notes.append(f"task.name: {name.value} ({name.source}) gives way to task.{next(iter(files))}")
        name = None
    if name is None:
        given["name"] = Value("", f"task.{next(iter(files))}", last.layer)


def field_of_rows(cfg: TaskConfig) -> str:
    """Which field of the task section says where the rows are: of a file of one's own it is `name` itself."""
    if cfg.files:
        return SPLIT_FIELDS[next(iter(cfg.files))]
    return "name" if kind_of_task(cfg.name) == "rows" else "data"


def field_of_line(cfg: TaskConfig, line: str) -> str:
    """Which of them an error is about, by the file that it begins with."""
    named = (
        SPLIT_FIELDS[split] for split, path in cfg.files.items() if line.startswith((os.path.basename(path), path))
    )
    return next(named, field_of_rows(cfg))


def fields_of_rows(cfg: TaskConfig) -> dict[str, Any]:
    """All fields that say where the rows are."""
    return {key: getattr(cfg, key) for key in ("name", "data", *SPLIT_FIELDS.values())}


def moved(cfg: TaskConfig, place: str) -> dict[str, str | None]:
    """The fields that say where the rows are, where they are at `place` now: what --data means beside a run.

    Of a run with a file for each split that is the folder that holds them all, by their names; of one file it may be
    the file. Raises InputError.
    """
    if not cfg.files:
        return {"name": place, "data": None} if field_of_rows(cfg) == "name" else {"data": place}
    fields = {SPLIT_FIELDS[split]: os.path.basename(path) for split, path in cfg.files.items()}
    if not os.path.isdir(place):
        if len(fields) == 1:
            return dict.fromkeys(fields, place)
        raise InputError(
            f"task.data: {printable(place, 300)}: the run has {', '.join(f'task.{field}' for field in fields)}: give "
            f"the directory that holds {', '.join(fields.values())}"
        )
    if len(set(fields.values())) < len(fields):
        raise InputError(
            f"task.data: {place}: the run's {' and '.join(f'task.{field}' for field in fields)} have one name, so one "
            f"directory cannot hold them"
        )
    return {field: str(Path(place) / name) for field, name in fields.items()}


def moved_overrides(cfg: TaskConfig, overrides: Sequence[str]) -> list[str]:
    """Overrides of a run's own configuration, with the place of its rows in place of `task.data=...`."""
    changed: list[str] = []
    for text in overrides:
        if text.startswith(DATA):
            places = moved(cfg, text.removeprefix(DATA))
            changed += [f"task.{field}={place}" for field, place in places.items() if place is not None]
        else:
            changed.append(text)
    return changed


DATA = "task.data="  # what --data is, see `cli.options.with_rows`


def rows_are_there(cfg: TaskConfig) -> bool:
    """Whether there is something at every place that the section names."""
    return all(exists(place) for place in (cfg.files or {"": cfg.data or cfg.name}).values())


def names_files(changes: Mapping[str, Any], overrides: Sequence[str]) -> bool:
    """Whether an evaluation's changes name a file of rows."""
    keys = SPLIT_FIELDS.values()
    asked = [text.partition("=") for text in overrides]
    return any(changes.get(key) is not None for key in keys) or any(
        path.strip().removeprefix("task.") in keys and value.strip() != "null" for path, _, value in asked
    )

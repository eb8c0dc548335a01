"""A run's configuration as a caller gives it, with the files that it names looked at."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from zofo.config import resolve as config
from zofo.config.instantiate import make_method
from zofo.config.sections import ModelConfig, TaskConfig, field_of_rows
from zofo.data.heads import MOST, check_rows, files_of_rows, missing_files, size_of
from zofo.errors import InputError, unheard


def resolve(
    file: str | None = None,
    overrides: Iterable[str] = (),
    preset: str | None = None,
    *,
    source: str = "command line",
    files: bool = True,
    **sections: Any,
) -> config.Config:
    """`zofo.config.resolve.resolve`; where `files` is true, a model's directory and a task's files must be there, and
    the rows of local ones be such as a run can use, see `rows_looked_at`; nothing is said of what is odd about them.

    Raises InputError with one line per problem.
    """
    look = partial(named_files, trains=True) if files else None
    resolved = config.resolve(file, overrides, preset, source=source, files=look, **sections)
    if files:
        with unheard():
            rows_looked_at(resolved)
    return resolved


def rows_looked_at(resolved: config.Config) -> str:
    """Looks at the local rows as the run will, and says what is odd about them. Returns what was not looked at, see
    `check_rows`. Raises InputError."""
    task = resolved.task
    try:
        return check_rows(task, resolved.train.seed, demonstrates=make_method(resolved).demonstrates)
    except InputError as error:
        at = f"task.{field_of_rows(task.name)}: "
        lines = (line if line.startswith(("task.", "method.")) else at + line for line in str(error).split("\n"))
        raise InputError("\n".join(lines)) from None


def named_files(section: object, trains: bool = False) -> list[str]:
    """What is wrong with the files that a section names, each line "field: message". trains: they hold rows for it."""
    if isinstance(section, ModelConfig):
        return section.files()
    if not isinstance(section, TaskConfig):
        return []
    # The rows of what is small are looked at as a whole after this, with the run's seed
    return missing_files(section, trains, rows=not trains or size_of(files_of_rows(section)) > MOST)

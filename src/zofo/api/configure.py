"""A run's configuration as a caller gives it, with the files that it names looked at."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from zofo.config import resolve as config
from zofo.config.sections import ModelConfig, TaskConfig
from zofo.data.heads import missing_files


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
    the first rows of local ones have the columns that are read.

    Raises InputError with one line per problem.
    """
    look = partial(named_files, trains=True) if files else None
    return config.resolve(file, overrides, preset, source=source, files=look, **sections)


def named_files(section: object, trains: bool = False) -> list[str]:
    """What is wrong with the files that a section names, each line "field: message". trains: they hold rows for it."""
    if isinstance(section, ModelConfig):
        return section.files()
    return missing_files(section, trains) if isinstance(section, TaskConfig) else []

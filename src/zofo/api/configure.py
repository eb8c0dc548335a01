"""A run's configuration as a caller gives it, with the files that it names looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from zofo.api import adapter_start
from zofo.config import resolve as config
from zofo.config.adapter_start import Trained
from zofo.config.epochs import Passes
from zofo.config.instantiate import make_method
from zofo.config.reward_name import reward_name
from zofo.config.sections import ModelConfig, TaskConfig
from zofo.config.task_rows import field_of_line
from zofo.data.example import TaskData
from zofo.data.heads import MOST, files_of_rows, missing_files, rows_of, size_of
from zofo.data.rewards import load_reward, name_given
from zofo.errors import InputError, unheard
from zofo.methods._base import Base as Method


def resolve(
    file: str | None = None,
    overrides: Iterable[str] = (),
    preset: str | None = None,
    *,
    source: str = "command line",
    files: bool = True,
    metric: Callable[..., Any] | None = None,
    **sections: Any,
) -> config.Config:
    """`zofo.config.resolve.resolve`; where `files` is true, a model's directory and a task's files must be there, and
    the rows of local ones be such as a run can use; nothing is said of what is odd about them.
    metric: a reward, in place of a name in the task section (docs/rewards.md).

    Raises InputError with one line per problem.
    """
    if metric is not None:
        task = sections.get("task") or {}
        task = {"name": os.fspath(task)} if isinstance(task, (str, os.PathLike)) else dict(task)
        sections["task"] = task | {"metric": name_given(metric)}
    look = partial(named_files, trains=True) if files else None
    resolved = config.resolve(file, overrides, preset, source=source, files=look, find=_find, **sections)
    if files:
        with unheard():
            return _looked(resolved, metric)[0]
    return resolved


def _find(place: str, resume: str | None, output_dir: str) -> Trained:
    """What is odd about the adapter is said when it is looked at."""
    with unheard():
        return adapter_start.find(place, resume, output_dir)


def rows_looked_at(resolved: config.Config, metric: Callable[..., Any] | None = None) -> list[str]:
    """Looks at the local rows as the run will, and says what is odd about them; a reward is tried on them. Returns
    lines: how many steps the passes over them are, and what was not looked at. metric: the function, where a call in
    Python gave it. Raises InputError."""
    return [line for line in _looked(resolved, metric)[1:] if line]


def _looked(resolved: config.Config, metric: Callable[..., Any] | None = None) -> tuple[config.Config, str, str]:
    """With the max_steps of its num_train_epochs; how many they are, in words; what was not looked at."""
    adapter_start.look(resolved)
    method, train = make_method(resolved), resolved.train
    unseen, data = _rows(resolved, method, metric)
    if train.num_train_epochs is None:
        return resolved, "", unseen
    if data is None:
        sizes = method.sizes(resolved.task.train_examples, resolved.task.dev_examples)
    else:
        sizes = {name: len(examples) for name, examples in method.split(data, train.seed).items()}
    passes = Passes(train, method, resolved.estimator, sizes, at_most=data is None)
    return resolved.counted(passes), passes.words(), unseen


def _rows(resolved: config.Config, method: Method, metric: Callable[..., Any] | None) -> tuple[str, TaskData | None]:
    """See `rows_of`."""
    task = resolved.task
    reward = None if reward_name(task.metric) is None else load_reward(str(task.metric), metric)
    try:
        return rows_of(task, resolved.train.seed, demonstrates=method.demonstrates, reward=reward)
    except InputError as error:
        lines = str(error).split("\n")
        lines = [x if x.startswith(("task.", "method.")) else f"task.{field_of_line(task, x)}: {x}" for x in lines]
        raise InputError("\n".join(lines)) from None


def named_files(section: object, trains: bool = False) -> list[str]:
    """What is wrong with the files that a section names, each line "field: message". trains: they hold rows for it."""
    if isinstance(section, ModelConfig):
        return section.files()
    if not isinstance(section, TaskConfig):
        return []
    # The rows of what is small are looked at as a whole after this, with the run's seed
    return missing_files(section, trains, rows=not trains or size_of(files_of_rows(section)) > MOST)

"""Paths in a configuration: relative to the file that holds them, or absolute, so that a run's file can be moved."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.reward_name import reward_name
from zofo.config.sections import SPLIT_FIELDS, exists

_FILES = tuple(SPLIT_FIELDS.values())
_OF_ROWS = (("task", "name"), ("task", "data"), *(("task", key) for key in _FILES))
_INPUTS = (("model", "name"), *_OF_ROWS, ("adapter", "start"))
PLACED = ("model", "task", "adapter")  # the sections that name places; a run may have no adapter


def located(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The sections of a file in `folder` with its paths as seen from here.

    What is beside the file, or below it, is meant; else a path is taken from the working directory, and a name that is
    no path at all, such as a hub id or a task, stays. `train.output_dir: .` is the folder itself, as a run writes it.
    """
    sections = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    for section, key in _INPUTS:
        content = sections.get(section)
        if isinstance(content, dict) and _is_beside(content.get(key), section, key, folder):
            content[key] = str(folder / content[key])
        elif key == "name" and _is_beside(content, section, key, folder):
            sections[section] = str(folder / str(content))
    train = sections.get("train")
    if isinstance(train, dict) and train.get("output_dir") == ".":
        train["output_dir"] = str(folder)
    return sections


def _is_beside(value: object, section: str, key: str, folder: Path) -> bool:
    if not isinstance(value, str) or not value or os.path.isabs(value) or "\0" in value:
        return False
    return not _is_task(section, key, value) and exists(folder / value)


def _is_task(section: str, key: str, value: str) -> bool:
    """A known task's or setting's name goes before a file of that name."""
    known = (*registry.names("tasks"), *registry.names("settings"))
    return (section, key) == ("task", "name") and registry.canonical(value) in known


def absolute(section: Any, name: str) -> Any:
    """A section with absolute paths of what is on this machine: the model, the task, the data, a reward's file, the
    adapter that is started from, the folder for weights."""
    changes = {
        key: os.path.abspath(value)
        for owner, key, value in _named(section, name)
        if not _is_task(owner, key, value) and exists(value)
    }
    if name == "model" and section.offload_folder is not None:  # which need not be there yet
        changes["offload_folder"] = os.path.abspath(section.offload_folder)
    named = reward_name(section.metric) if name == "task" else None
    if named is not None and named.file is not None:
        changes["metric"] = f"{os.path.abspath(named.file)}:{named.function}"
    return dataclasses.replace(section, **changes) if changes else section


def _named(section: Any, name: str) -> list[tuple[str, str, str]]:
    """(section, key, value) of the places that it names. section: None where the run has none."""
    held = {} if section is None else {spec.name: getattr(section, spec.name) for spec in dataclasses.fields(section)}
    return [(owner, key, held[key]) for owner, key in _INPUTS if owner == name and held.get(key)]


def bare(section: Any, name: str) -> Any:
    """A section for somebody else: of the model, the task, the data, a reward's file and the adapter that is started
    from, as far as they are on this machine, the names alone."""
    changes: dict[str, Any] = {}
    for owner, key, value in _named(section, name):
        if not _is_task(owner, key, value) and (owner in ("task", "adapter") or is_local(value)):
            changes[key] = f"./{own_name(value)}"  # with the dot it is no hub id and no known task
    if name == "task":
        changes["metric"] = bare_metric(section.metric)
    if name == "model":
        changes["offload_folder"] = None
    return dataclasses.replace(section, **changes) if changes else section


def bare_metric(metric: str | None) -> str | None:
    """A metric for somebody else: of a reward's file the name alone."""
    named = reward_name(metric)
    return metric if named is None or named.file is None else f"{own_name(named.file)}:{named.function}"


def is_local(model: str) -> bool:
    """Whether a model's name is a directory's, and no hub id."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or exists(model)


def own_name(path: str) -> str:
    """A file's or directory's own name, without the way to it."""
    return os.path.basename(os.path.abspath(os.path.expanduser(path)))

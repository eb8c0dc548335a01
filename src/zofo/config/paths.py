"""Paths in a configuration: relative to the file that holds them, or absolute, so that a run's file can be moved."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.sections import exists

_INPUTS = (("model", "name"), ("task", "name"), ("task", "data"))


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
    """A section with absolute paths of what is on this machine: the model, the task, the data."""
    changes = {
        key: os.path.abspath(value)
        for owner, key in _INPUTS
        if owner == name and (value := getattr(section, key)) and not _is_task(owner, key, value) and exists(value)
    }
    return dataclasses.replace(section, **changes)

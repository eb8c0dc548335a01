"""A folder is the registry: `methods/bilevel_zofo.py` is `bilevel-zofo` on the command line."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any

from zofo.config.known_words import NAMES
from zofo.errors import InputError, did_you_mean, printable

# Where the entries of each kind are, from the package's root. A plug-in's entry-point group is `zofo.<kind>`.
FOLDERS = {
    "methods": "methods",
    "adapters": "models/adapters",
    "objectives": "objectives",
    "estimators": "zo/estimators",
    "masks": "zo/masks",
    "rules": "zo/rules",
    "tasks": "data/tasks",
    "settings": "data/settings",
    "presets": "config/presets",
    "plans": "study/plans",
    "contenders": "study/contenders",
}
KINDS = tuple(FOLDERS)
ROOT = Path(__file__).parents[1]


def canonical(name: str) -> str:
    return name.replace("_", "-")


def singular(kind: str) -> str:
    return kind.removesuffix("s")


@functools.cache
def _installed() -> Any:  # EntryPoints; before Python 3.12 a class of its own with the same select
    """Once in a process: it opens the metadata of every installed package, 7 ms of each look-up."""
    return importlib.metadata.entry_points()


@functools.cache
def entry_points(group: str) -> EntryPoints:
    """Once for each group: every entry of every installed package is looked through, 3 ms of a look-up."""
    return _installed().select(group=group)


def _entries(kind: str) -> dict[str, Path | EntryPoint]:
    """Own files first, so that a plug-in (entry point group `zofo.<kind>`) cannot replace one silently."""
    entries: dict[str, Path | EntryPoint] = {canonical(e.name): e for e in entry_points(group=f"zofo.{kind}")}
    for path in (ROOT / FOLDERS[kind]).glob("*"):
        if path.suffix in (".py", ".yaml") and not path.name.startswith("_"):
            entries[canonical(path.stem)] = path
    return dict(sorted(entries.items()))


def names(kind: str) -> list[str]:
    """Names of all entries of a kind, with dashes, sorted. Imports nothing."""
    return list(_entries(kind))


def find(kind: str, name: str) -> Path | EntryPoint:
    """Where an entry lives; accepts `-` and `_`. Raises InputError with the nearest name and all known ones."""
    entries = _entries(kind)
    if canonical(name) not in entries:
        known = ", ".join(entries) or "none"
        hint = _elsewhere(kind, name) or did_you_mean(canonical(name), entries) or ";"
        raise InputError(f'unknown {singular(kind)} "{printable(name)}"{hint} known: {known}')
    return entries[canonical(name)]


def _elsewhere(kind: str, name: str) -> str:
    """What is said to a name that others use, such as the method lora; "" for any other."""
    found = NAMES.get(kind, {}).get(canonical(name).lower())
    if found is None:
        return ""
    settings, why = found
    return f"; give {settings}{f' ({why})' if why else ''};" if settings else f"; zofo has none: {why};"


def load(kind: str, name: str) -> Any:
    """The module of a Python entry, the Path of a YAML entry (a plug-in's entry point may load to either)."""
    entry = find(kind, name)
    if isinstance(entry, EntryPoint):
        return entry.load()
    folder = FOLDERS[kind].replace("/", ".")
    return entry if entry.suffix == ".yaml" else importlib.import_module(f"zofo.{folder}.{entry.stem}")


def docstring(kind: str, name: str) -> str:
    """A Python entry's docstring, read without importing it where it is a file; "" for YAML."""
    entry = find(kind, name)
    if isinstance(entry, Path):
        return (ast.get_docstring(ast.parse(entry.read_text("utf-8"))) or "") if entry.suffix == ".py" else ""
    loaded = entry.load()
    return (loaded.__doc__ or "").strip() if isinstance(loaded, ModuleType) else ""


def describe(kind: str, name: str) -> str:
    """One line for `ls`: a docstring's first line, a task's `description`, a preset's or a plan's first comment."""
    entry = find(kind, name)
    path = entry if isinstance(entry, Path) else entry.load()
    if not (isinstance(path, Path) and path.suffix == ".yaml"):
        return docstring(kind, name).partition("\n")[0]
    for line in path.read_text("utf-8").splitlines():
        key, _, value = line.partition(":")
        if key == "description" and value.strip():
            return value.strip().strip("'\"")
        if kind in ("presets", "plans", "contenders") and line.startswith("#"):
            return line.lstrip("# ").strip()
    return ""

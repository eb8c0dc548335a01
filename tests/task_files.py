"""Every file of src/zofo/data/tasks: its name, its spec, and its own demonstrations as examples."""

from __future__ import annotations

from functools import cache

from zofo.config import registry
from zofo.data import Example
from zofo.data.files import Record
from zofo.data.spec import TaskSpec, load_spec, maker

NAMES = registry.names("tasks")
FOLDERS = {"aqua": "aqua_rat"}  # of the shared extracts, where the name differs


@cache
def spec_of(name: str) -> TaskSpec:
    """Read once. Do not change it."""
    return load_spec(registry.load("tasks", name))


def shown(spec: TaskSpec, template: str) -> list[Example]:
    make = maker(spec, template)
    return [make(Record(str(i), spec.file, row)) for i, row in enumerate(spec.demonstrations)]

"""In which sections a field is: what is given in a wrong place, or with dashes, is answered with the right one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zofo.config import registry
from zofo.config.layers import MODULE_SECTIONS
from zofo.config.sections import ModelConfig, TaskConfig, TrainConfig
from zofo.errors import nearest

NAMED = 3  # fields in a hint
ALIASES = {"learning_rate": "lr", "max_seq_length": "max_length", "torch_dtype": "dtype"}  # as other trainers have it


@dataclass
class Place:
    """A field of a section; entries: those of the section's kind that have it, where not all runs do."""

    section: str
    name: str
    config: type
    entries: list[str] = dataclasses.field(default_factory=list)

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"


def every_place() -> list[Place]:
    """Of the sections that all runs have, then of those of the registry's entries, a place for each field: one for
    entries in which it is the same, default and all."""
    core: dict[str, type] = {"model": ModelConfig, "task": TaskConfig, "train": TrainConfig}
    places = [Place(section, spec.name, cls) for section, cls in core.items() for spec in dataclasses.fields(cls)]
    for section in MODULE_SECTIONS:
        alike: dict[str, Place] = {}
        for entry in registry.names(f"{section}s"):
            config = getattr(registry.load(f"{section}s", entry), "Config", None)
            if config is None:
                continue
            for spec in dataclasses.fields(config):
                key = f"{spec.name} {spec.type} {spec.default} {spec.metadata}"
                alike.setdefault(key, Place(section, spec.name, config)).entries.append(entry)
        places += alike.values()
    return places


def meant(key: str, paths: Iterable[str]) -> list[str]:
    """Which of the paths `section.field` a key stands for: those with that field, or with one that is made of it, as
    lr_theta of lr. No more than NAMED."""
    key, paths = ALIASES.get(key, key), list(paths)
    exact = [path for path in paths if path.partition(".")[2] == key]
    parts = [path for path in paths if key in path.partition(".")[2].split("_")]
    return (exact or parts)[:NAMED]


def somewhere_else(line: str, classes: Mapping[str, type]) -> str:
    """An error of an unknown field, with the section of the run that has it; any other line as it is."""
    match = re.match(r"(\w+)\.([\w-]+): unknown field; (did you mean|known: )", line)
    if match is None or match[1] not in classes:
        return line
    section, key = match[1], match[2].replace("-", "_")
    paths = [f"{other}.{spec.name}" for other, cls in classes.items() for spec in dataclasses.fields(cls)]
    paths.sort(key=lambda path: (not path.startswith("method."), path.startswith("train.")))
    found = meant(key, paths)
    exact = bool(found) and found[0].partition(".")[2] == ALIASES.get(key, key)
    if not found and (near := nearest(key, [path.partition(".")[2] for path in paths])) is not None:
        found = meant(near, paths)
    if not found or (match[3] == "did you mean" and not exact):
        return line
    return f"{section}.{match[2]}: unknown field; did you mean {listed(found)}?"


def listed(paths: list[str]) -> str:
    quoted = [f'"{path}"' for path in paths]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def of_an_option(option: str, sections: Sequence[str], exactly: bool) -> str:
    """What to write in place of an unknown option such as --lr: a setting of one of these sections, "" for none.

    exactly: by that name, or one that is made of it, and not by the nearest.
    """
    path = re.sub(r"^-+", "", option).replace("-", "_")
    key = path.rpartition(".")[2]
    paths = list(dict.fromkeys(place.path for place in every_place() if place.section in sections))
    found = [path] if path in paths else meant(key, paths)
    if not found and not exactly:
        near = nearest(key, [path.partition(".")[2] for path in paths])
        found = meant(near, paths) if near is not None else []
    return f"; settings have no dashes: {' or '.join(f'{path}=VALUE' for path in found)}" if found else ""

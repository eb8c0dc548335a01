"""Layers -> merged values of a configuration: files, presets, `section.key=value`. Types are checked later."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zofo.config import registry
from zofo.config.yaml_reader import scalar
from zofo.errors import printable

SECTIONS = ("model", "task", "method", "adapter", "estimator", "mask", "rule", "train", "parallel")
UNNAMED = ("train", "parallel")
MODULE_SECTIONS = ("method", "adapter", "estimator", "mask", "rule")
DEFAULT_NAMES = {"adapter": "lora", "estimator": "spsa", "mask": "magnitude", "rule": "sgd"}


@dataclass(frozen=True)
class Value:
    """A value as given: what it is, who gave it (`layer` orders the sources), its text on the command line."""

    value: Any
    source: str
    layer: int = 0
    raw: str | None = None


@dataclass
class Layer:
    """One source of values: a preset, a file, the command line, a caller."""

    source: str
    sections: dict[str, dict[str, Value]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)  # keys that are no section, reported when all fields are known

    def put(self, section: str, key: str, value: Any, raw: str | None = None) -> None:
        self.sections.setdefault(section, {})[key] = Value(value, self.source, raw=raw)

    def add(self, sections: Mapping[str, Any], errors: list[str]) -> Layer:
        """Adds nested sections; `method: mezo` equals `method: {name: mezo}`, None is an empty section."""
        for section, content in sections.items():
            if dataclasses.is_dataclass(content) and not isinstance(content, type):
                content = dataclasses.asdict(content)
            if section not in SECTIONS:
                self.unknown.append(section)
            elif isinstance(content, Mapping):
                self.sections.setdefault(section, {})
                for key, value in content.items():
                    self.put(section, str(key), value)
            elif isinstance(content, (str, os.PathLike)) and section not in UNNAMED:
                self.put(section, "name", os.fspath(content))
            elif content is not None:
                errors.append(f"{section}: expected {_expected(section)}, got {brief(content)} ({self.source})")
        return self

    def add_overrides(self, overrides: Iterable[str], errors: list[str]) -> Layer:
        """Adds `section.key=value` texts (and `method=mezo`); values are YAML scalars or lists."""
        for text in overrides:
            path, equals, raw = text.partition("=")
            section, dot, key = path.strip().partition(".")
            shown = printable(text, 100)
            if not equals or not section:
                errors.append(f'{shown}: expected "section.key=value"')
            elif section not in SECTIONS:
                self.unknown.append(path.strip())
            elif not dot and section in UNNAMED:
                errors.append(f'{shown}: expected "train.key=value"')
            else:
                self.put(section, key if dot else "name", scalar(raw), raw)
        return self


def _expected(section: str) -> str:
    if section == "model":
        return "a hub id, a directory (save_pretrained writes one) or a mapping of fields"
    return "a mapping of fields" + (" or a name" if section not in UNNAMED else "")


def brief(value: object) -> str:
    """A value in an error: as it is where it is short and plain, else its type. A model's own text is a page."""
    plain = isinstance(value, (str, int, float, bool, list, tuple, dict))
    try:
        text = repr(value) if plain else ""
    except (ValueError, RecursionError):  # digits without end, a list within lists
        text = ""
    return text if text and len(text) <= 60 and "\n" not in text else f"an object of type {type(value).__name__}"


@dataclass
class Merged:
    values: dict[str, dict[str, Value]]
    unknown: list[tuple[str, str]]  # (key, source)
    notes: list[str]
    method_layer: int  # the layer that chose the method


def merge(layers: list[Layer]) -> Merged:
    """Later layers win, key by key. A layer that names another module drops what earlier layers set for the old one."""
    merged = Merged({}, [], [], 0)
    for number, layer in enumerate(layers):
        merged.unknown += [(key, layer.source) for key in layer.unknown]
        for section, given in layer.sections.items():
            values = merged.values.setdefault(section, {})
            if section in MODULE_SECTIONS and "name" in given and _renamed(section, values, given["name"].value):
                dropped = [key for key in values if key != "name"]
                if dropped:
                    merged.notes.append(
                        f"{section}: {_before(section, values)} is replaced by {given['name'].value} "
                        f"({layer.source}), and its settings are left out: {', '.join(dropped)}"
                    )
                values.clear()
                merged.method_layer = number if section == "method" else merged.method_layer
            values.update({key: dataclasses.replace(value, layer=number) for key, value in given.items()})
    return merged


def _before(section: str, values: dict[str, Value]) -> Any:
    """The name that the earlier layers gave, or the usual one."""
    return values["name"].value if "name" in values else DEFAULT_NAMES.get(section)


def _renamed(section: str, values: dict[str, Value], name: object) -> bool:
    before = _before(section, values)
    return before is not None and registry.canonical(str(before)) != registry.canonical(str(name))

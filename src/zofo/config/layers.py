"""Text -> layers -> merged values of a configuration: YAML, presets, `section.key=value`. Types are checked later."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from zofo.config import registry
from zofo.errors import InputError

SECTIONS = ("model", "task", "method", "adapter", "estimator", "mask", "rule", "train")
MODULE_SECTIONS = ("method", "adapter", "estimator", "mask", "rule")
DEFAULT_NAMES = {"adapter": "lora", "estimator": "spsa", "mask": "magnitude", "rule": "sgd"}

_FLOAT = (
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)


class Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: `1e-3` is a number, `yes` and `no` are words (labels!). A key given twice is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own class attribute)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise yaml.MarkedYAMLError(problem=f'key "{key}" is given twice', problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as something else."""


for _tag, _pattern, _first in _RESOLVERS:
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def dump(data: Any) -> str:
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML file whose top level is a mapping. Raises InputError naming file, line and fault."""
    try:
        data = yaml.load(path.read_text("utf-8"), Loader)
    except FileNotFoundError:
        raise InputError(f"{what} {path}: no such file") from None
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{what} {path}{line}: {getattr(error, 'problem', None) or 'not valid YAML'}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(
            f'{what} {path}: expected sections such as "method:" at the top level, got {type(data).__name__}'
        )
    return {str(key): value for key, value in data.items()}


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
            elif isinstance(content, (str, os.PathLike)) and section != "train":
                self.put(section, "name", os.fspath(content))
            elif content is not None:
                errors.append(f"{section}: expected {_expected(section)}, got {brief(content)} ({self.source})")
        return self

    def add_overrides(self, overrides: Iterable[str], errors: list[str]) -> Layer:
        """Adds `section.key=value` texts (and `method=mezo`); values are YAML scalars or lists."""
        for text in overrides:
            path, equals, raw = text.partition("=")
            section, dot, key = path.strip().partition(".")
            if not equals:
                errors.append(f'{text}: expected "section.key=value"')
            elif section not in SECTIONS:
                self.unknown.append(path.strip())
            elif not dot and section == "train":
                errors.append(f'{text}: expected "train.key=value"')
            else:
                self.put(section, key if dot else "name", _scalar(raw), raw)
        return self


def _expected(section: str) -> str:
    if section == "model":
        return "a hub id, a directory (save_pretrained writes one) or a mapping of fields"
    return "a mapping of fields" + (" or a name" if section != "train" else "")


def brief(value: Any) -> str:
    """A value in an error: as it is where it is short and plain, else its type. A model's own text is a page."""
    plain = isinstance(value, (str, int, float, bool, list, tuple, dict))
    text = repr(value) if plain else ""
    return text if text and len(text) <= 60 and "\n" not in text else f"an object of type {type(value).__name__}"


def _scalar(raw: str) -> Any:
    try:
        return yaml.load(raw, Loader)
    except yaml.YAMLError:  # a template's braces, a lone colon: then it is meant as text
        return raw


def texts(raw: str) -> Any:
    """The value with every scalar as text: `[0, 1]` are the labels "0" and "1" where texts are expected."""
    try:
        return yaml.load(raw, yaml.BaseLoader)
    except yaml.YAMLError:
        return raw


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
                        f"{section}: now {given['name'].value}; left out of the earlier {section}: {', '.join(dropped)}"
                    )
                values.clear()
                merged.method_layer = number if section == "method" else merged.method_layer
            values.update({key: dataclasses.replace(value, layer=number) for key, value in given.items()})
    return merged


def _renamed(section: str, values: dict[str, Value], name: Any) -> bool:
    before = values["name"].value if "name" in values else DEFAULT_NAMES.get(section)
    return before is not None and registry.canonical(str(before)) != registry.canonical(str(name))

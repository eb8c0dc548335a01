"""The one YAML reader: configurations, presets, task files, settings, plans of experiments.

PyYAML reads YAML 1.1, where `no` is False and 1e-3 a text; its tags are replaced by those of YAML 1.2's core schema.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from zofo.errors import InputError

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


MERGE = "tag:yaml.org,2002:merge"


class Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: `1e-3` is a number, `yes` and `no` are words (labels!). A key given twice is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own class attribute)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:  # what another mapping has; own keys go before
                continue
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


Loader.add_implicit_resolver(MERGE, re.compile("^<<$"), ["<"])


def dump(data: object) -> str:
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


def read_yaml(path: Path, what: str, such_as: str = 'sections such as "method:"') -> dict[str, Any]:
    """A YAML file whose top level is a mapping; an empty one is an empty mapping.

    what: the file's kind, and such_as: what it should hold, in an error. Raises InputError naming file, line and fault.
    """
    place = f"{what} {path}".strip()
    try:
        data = yaml.load(path.read_text("utf-8"), Loader)
    except FileNotFoundError:
        raise InputError(f"{place}: no such file") from None
    except OSError as error:
        raise InputError(f"{place}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 ({error.reason} in byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{place}{line}: {getattr(error, 'problem', None) or 'not valid YAML'}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(f"{place}: expected {such_as} at the top level, got {type(data).__name__}")
    return {str(key): value for key, value in data.items()}


def scalar(raw: str) -> Any:
    """A value of the command line; what is no YAML, such as a template's braces, is meant as text."""
    try:
        return yaml.load(raw, Loader)
    except yaml.YAMLError:
        return raw


def texts(raw: str) -> Any:
    """The value with every scalar as text: `[0, 1]` are the labels "0" and "1" where texts are expected."""
    try:
        return yaml.load(raw, yaml.BaseLoader)
    except yaml.YAMLError:
        return raw

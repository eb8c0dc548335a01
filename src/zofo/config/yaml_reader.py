"""The one YAML reader: configurations, presets, task files, settings, plans of experiments.

PyYAML reads YAML 1.1, where `no` is False and 1e-3 a text; its tags are replaced by those of YAML 1.2's core schema.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Hashable
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from zofo.errors import InputError, printable

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
DEEPEST = 100  # levels of lists and mappings: a reader that calls itself at each must not run out of stack
MOST = 200_000  # values that a text may stand for, aliases unfolded


class _Bounded(yaml.SafeLoader):
    """What one text may stand for has a bound: depth, aliases that hold each other, digits of a number.

    Everything wrong is a MarkedYAMLError.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own class attribute)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise _fault(f"more than {DEEPEST} levels deep", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        try:
            node = super().get_single_node()
        except yaml.MarkedYAMLError as error:
            if error.context == "expected a single document in the stream":
                raise _fault("a second document; one file holds one", error.problem_mark) from None
            raise
        if node is not None:
            _unfolded(node, {})
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        try:
            return super().construct_yaml_int(node)
        except ValueError:  # Python's own bound, against numbers that take minutes to read
            raise _fault(f"a number of {len(node.value)} digits", node.start_mark) from None


def _fault(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _unfolded(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """How many values a node stands for, aliases unfolded. Raises MarkedYAMLError where that has no end or is too much.

    sizes: of the nodes done, by their identity; None while one is being counted: then it holds itself.
    """
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise _fault("an alias of what holds it; write the value out", node.start_mark)
        return size
    sizes[id(node)] = None
    inner = node.value if isinstance(node, yaml.CollectionNode) else []
    nodes = chain.from_iterable(inner) if isinstance(node, yaml.MappingNode) else inner
    size = sizes[id(node)] = 1 + sum(_unfolded(each, sizes) for each in nodes)
    if size > MOST:
        raise _fault(f"aliases that unfold to more than {MOST} values", node.start_mark)
    return size


class Loader(_Bounded):
    """YAML 1.2 scalars: `1e-3` is a number, `yes` and `no` are words (labels!). A key given twice is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own class attribute)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:  # what another mapping has; own keys go before
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise _fault(f'key "{printable(str(key), 60)}" is given twice', key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Texts(_Bounded):
    """Every scalar is the text that stands there."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own class attribute)


class Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as something else."""


for _tag, _pattern, _first in _RESOLVERS:
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
Loader.add_implicit_resolver(MERGE, re.compile("^<<$"), ["<"])


def dump(data: object) -> str:
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


def read_yaml(path: Path, what: str, such_as: str = 'sections such as "method:"') -> dict[str, Any]:
    """A YAML file whose top level is a mapping; an empty one is an empty mapping.

    what: the file's kind, and such_as: what it should hold, in an error. Raises InputError naming file, line and fault.
    """
    place = f"{what} {path}".strip()
    try:
        data = copy.deepcopy(_parsed(path.read_text("utf-8")))
    except FileNotFoundError:
        raise InputError(f"{place}: no such file") from None
    except OSError as error:
        raise InputError(f"{place}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 ({error.reason} in byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{place}{line}: {printable(_problem(error), 200)}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(f"{place}: expected {such_as} at the top level, got {type(data).__name__}")
    return {str(key): value for key, value in data.items()}


@functools.lru_cache(32)
def _parsed(text: str) -> Any:
    """A verb reads a run's config.yaml, and the same presets and tasks, several times over."""
    return yaml.load(text, Loader)


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character #x{int(error.character):04x} is none of YAML's ({error.reason}); remove it"
    return getattr(error, "problem", None) or "not valid YAML"


def scalar(raw: str) -> Any:
    """A value of the command line; what is no YAML, such as a template's braces, is meant as text."""
    try:
        return yaml.load(raw, Loader)
    except yaml.YAMLError:
        return raw


def texts(raw: str) -> Any:
    """The value with every scalar as text: `[0, 1]` are the labels "0" and "1" where texts are expected."""
    try:
        return yaml.load(raw, _Texts)
    except yaml.YAMLError:
        return raw

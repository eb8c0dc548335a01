"""Values -> a typed dataclass: a configuration's section, a task's file, a setting's. The one validator.

Unknown and missing fields, types, bounds, dataclasses within dataclasses: every fault is one line in a list.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, cast

from zofo.config.known_words import VALUES
from zofo.config.layers import Value
from zofo.config.yaml_reader import scalar, texts
from zofo.errors import did_you_mean, nearest, printable

Files = Callable[[Any], list[str]]  # a section -> what is wrong with the files that it names, "field: message"

BOUNDS = {"ge": (">=", lambda v, b: v >= b), "gt": (">", lambda v, b: v > b)} | {
    "le": ("<=", lambda v, b: v <= b),
    "lt": ("<", lambda v, b: v < b),
}
_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false", type(None): "null"}
_PLURALS = {int: "integers", float: "numbers", str: "strings"}


def build(at: str, cls: type, given: Mapping[str, Any], errors: list[str], files: Files | None = None) -> Any | None:
    """An instance of the dataclass `cls` from `given`, values or `Value`s; None if there were errors.

    at: what stands before a field's name in an error: "train.", "tickets.yaml: ". Errors are appended, a line each.
    A field may be a dataclass, or a mapping of names to one. Fields may carry metadata ge, gt, le, lt (of a number, and
    of each in a list), help, paper, flag, `separated` (a list that may be a text with commas), `missing` (what one
    gives, said where it is required and absent). A class may have `problems() -> list[str]` ("field: message") for what
    involves several fields. files: see `resolve`.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    required = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    before, whole, values = len(errors), True, {}
    given = _as_meant(at, fields, required, given, errors)
    hints = _hints(cls)
    for name, spec in fields.items():
        if name in given:
            value = given[name] if isinstance(given[name], Value) else Value(given[name], "file")
            values[name], faults = _field(f"{at}{name}", hints[name], spec.metadata, value)
            errors += faults
            whole = whole and not faults
        elif name in required:
            errors.append(f"{at}{name}: required{_how_given(f'{at}{name}', spec.metadata)}")
            whole = False
        elif spec.default is not dataclasses.MISSING:  # alpha: float = 16 is 16.0, as it is when read from a saved file
            value, faults = _typed(hints[name], spec.default)
            values[name] = spec.default if faults else value
    if not whole:
        return None
    try:
        built = cls(**values)
    except ValueError as error:  # a dataclass that checks itself in __post_init__
        errors.append(f"{at.rstrip('.: ')}: {error}")
        return None
    problems = built.problems() if hasattr(built, "problems") else []
    problems += files(built) if files is not None else []
    errors += [printable(f"{at}{problem}") for problem in problems]  # a line each, whatever a value holds
    return built if len(errors) == before else None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Once for a class: every annotation is compiled and evaluated each time."""
    return typing.get_type_hints(cls)


def _as_meant(
    at: str, fields: Mapping[str, Any], required: list[str], given: Mapping[str, Any], errors: list[str]
) -> dict[str, Any]:
    """What is known of `given`. A required field misspelt is not missing too: it is read as the one that was meant."""
    known, content = ", ".join(fields) or f"{at.rstrip('.: ')} has no fields", {}
    for key, value in given.items():
        if key not in fields:
            errors.append(
                f"{at}{printable(str(key), 60)}: unknown field{did_you_mean(str(key), fields) or f'; known: {known}'}"
            )
            key = nearest(str(key), [name for name in required if name not in given])
        if key is not None:
            content[key] = value
    return content


def _how_given(field: str, metadata: Mapping[str, Any]) -> str:
    if "missing" in metadata:
        return f": {metadata['missing']}"
    if ": " in field:  # of a file
        return ""
    return f"; give {metadata['flag'] + ' or ' if 'flag' in metadata else ''}{field}=..."


def _field(at: str, hint: Any, metadata: Mapping[str, Any], given: Value) -> tuple[Any, list[str]]:
    """(a field's value, nothing), or (None, what is wrong with it, a line each)."""
    members = [member for member in _members(hint) if member is not type(None)]
    args, content = typing.get_args(members[0]), given.value
    nested = members[0] if len(members) == 1 else None
    of_each = args[1] if typing.get_origin(nested) is dict and dataclasses.is_dataclass(args[1]) else None
    if not (dataclasses.is_dataclass(nested) or of_each) or (content is None and len(_members(hint)) > 1):
        value, faults = check(hint, metadata, given)
        return value, [f"{at}{fault}" for fault in faults]
    errors: list[str] = []
    if not isinstance(content, Mapping):
        return None, [f"{at}: expected a mapping of fields, got {show(content)}"]
    if of_each is None:
        return build(f"{at}.", cast("type", nested), content, errors), errors
    built = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            built[str(name)] = build(f"{at}.{name}.", cast("type", of_each), value, errors)
        else:
            errors.append(f"{at}.{name}: expected a mapping of fields, got {show(value)}")
    return built, errors


def check(hint: Any, metadata: Mapping[str, Any], given: Value) -> tuple[Any, list[str]]:
    """(value of type `hint`, nothing), or (None, what is wrong with it: ": message", or ".2: message" of an item)."""
    value = given.value if given.raw is None else _as_typed_in(hint, given.raw)
    separated = given.raw is not None or "separated" in metadata
    if isinstance(value, str) and separated and _has_list(hint) and str not in _members(hint):
        value = [part.strip() for part in value.split(",") if part.strip()]  # report_to=wandb,tensorboard
    value, faults = _typed(hint, value)
    if faults:
        return None, faults if faults[0] else [f": expected {type_name(hint)}, got {_shown(hint, given.value)}"]
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, str) and "\0" in number:
            return None, [f": holds a NUL character, got {show(given.value)}"]
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if isinstance(number, int) and abs(number) >= 2**63:
            return None, [f": must be below 2^63, got {show(given.value)}"]
        if not math.isfinite(number):
            return None, [f": expected a finite number, got {number}"]
        bounds = [(sign, metadata[key], holds) for key, (sign, holds) in BOUNDS.items() if key in metadata]
        if not all(holds(number, bound) for _, bound, holds in bounds):
            wanted = " and ".join(f"{sign} {bound}" for sign, bound, _ in bounds)
            return None, [f": must be {wanted}, got {show(given.value)}"]
    return value, []


def _as_typed_in(hint: Any, raw: str) -> Any:
    """What a text of the command line stands for. Where a text is expected it is one as it is, `Rate it, # of 5` and
    `0123` too, but for quotes around the whole, and null where there may be none. All else is YAML."""
    value = scalar(raw)
    if _has_list(hint):
        return texts(raw) if isinstance(value, list) and _typed(hint, value)[1] else value
    quoted = isinstance(value, str) and raw.strip()[:1] in ("'", '"') and raw.strip()[-1:] == raw.strip()[:1]
    if str not in _members(hint) or quoted or (value is None and type(None) in _members(hint)):
        return value
    return raw


def _typed(hint: Any, value: Any) -> tuple[Any, list[str]]:
    """(value, nothing) or (None, faults: of single items where it is a list of the right length, else [""])."""
    from pydantic import ValidationError

    try:
        # JSON mode: strict about numbers, texts and booleans, yet a YAML list may become a tuple.
        return _adapter(hint).validate_json(json.dumps(value, default=os.fspath), strict=True), []
    except (TypeError, ValueError, RecursionError) as error:
        found = error.errors(include_url=False) if isinstance(error, ValidationError) else []
    if not isinstance(value, (list, tuple)):
        return None, [""]
    places = {place[0]: each for each in found if (place := [n for n in each["loc"] if isinstance(n, int)])}
    items = [arg for member in _members(hint) if _has_list(member) for arg in typing.get_args(member)[:1]]
    if not items or any(n >= len(value) or each["type"] == "missing" for n, each in places.items()):
        return None, [""]
    return None, [f".{n}: expected {type_name(items[0])}, got {_shown(items[0], value[n])}" for n in places] or [""]


def _shown(hint: Any, value: Any) -> str:
    """A value in an error, with what was probably meant."""
    if str in _members(hint) and isinstance(value, (bool, int, float)):
        return f"{show(value)}; quote it"
    meant = str(value) if isinstance(value, (str, int, float)) else ""
    choices = [str(choice) for choice in _choices(hint)]
    known = VALUES.get(meant.lower())
    return (
        f'{show(value)}; did you mean "{known}"?'
        if known in choices
        else f"{show(value)}{did_you_mean(meant[:60], choices)}"
    )


@functools.cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _has_list(hint: Any) -> bool:
    return any((typing.get_origin(member) or member) in (list, tuple) for member in _members(hint))


def _choices(hint: Any) -> list[Any]:
    return [choice for m in _members(hint) if typing.get_origin(m) is typing.Literal for choice in typing.get_args(m)]


def type_name(hint: Any) -> str:
    """A type in words: "an integer", 'one of "auto", "float32"', "a list of strings or null"."""
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(show(choice) for choice in typing.get_args(hint))
    if len(_members(hint)) > 1:
        return " or ".join(type_name(member) for member in _members(hint))
    if (typing.get_origin(hint) or hint) in (list, tuple):
        args = [arg for arg in typing.get_args(hint) if arg is not Ellipsis]
        count = f"{len(args)} " if len(args) > 1 else ""  # tuple[float, float]
        return f"a list of {count}{_PLURALS.get(args[0], 'values')}" if args else "a list"
    return _NAMES.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def show(value: object) -> str:
    """A value as it reads in YAML, at most about 60 characters."""
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):  # a caller's value that holds itself, or digits without end
        return f"a {type(value).__name__}"
    return printable(text if len(text) <= 60 else text[:57] + "...")

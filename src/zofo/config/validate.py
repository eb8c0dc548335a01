"""Values -> a typed dataclass: unknown and missing fields, types, bounds; every fault is one line in a list."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from zofo.config import registry
from zofo.config.layers import Value
from zofo.config.sections import ModelConfig
from zofo.config.yaml_reader import texts
from zofo.errors import did_you_mean

Files = Callable[[Any], list[str]]  # a section -> what is wrong with the files that it names, "field: message"

_BOUNDS = {"ge": (">=", lambda v, b: v >= b), "gt": (">", lambda v, b: v > b)} | {
    "le": ("<=", lambda v, b: v <= b),
    "lt": ("<", lambda v, b: v < b),
}
_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false", type(None): "null"}
_PLURALS = {int: "integers", float: "numbers", str: "strings"}


def build(
    section: str, cls: type, given: Mapping[str, Value], errors: list[str], files: Files | None = None
) -> Any | None:
    """An instance of the dataclass `cls` from `given`; None if there were errors, which are appended as
    `section.field: what is wrong`. Fields may carry metadata ge, gt, le, lt, help, paper, flag; a class may have
    `problems() -> list[str]` ("field: message") for what involves several fields. files: see `resolve`."""
    before, values = len(errors), {}
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls)
    for key in given:
        if key not in fields:
            known = ", ".join(fields) or f"{section} has no fields"
            errors.append(f"{section}.{key}: unknown field{did_you_mean(key, fields) or f'; known: {known}'}")
    for name, spec in fields.items():
        if name in given:
            values[name], fault = check(hints[name], spec.metadata, given[name])
            if fault:
                errors.append(f"{section}.{name}: {fault}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            flag = f"{spec.metadata['flag']} or " if "flag" in spec.metadata else ""
            errors.append(f"{section}.{name}: required; give {flag}{section}.{name}=...")
        elif spec.default is not dataclasses.MISSING:  # alpha: float = 16 is 16.0, as it is when read from a saved file
            value, ok = _typed(hints[name], spec.default)
            values[name] = value if ok else spec.default
    if len(errors) > before:
        return None
    try:
        built = cls(**values)
    except ValueError as error:  # a dataclass that checks itself in __post_init__
        errors.append(f"{section}: {error}")
        return None
    problems = built.problems() if hasattr(built, "problems") else []
    problems += files(built) if files is not None else []
    errors += [f"{section}.{problem}" for problem in problems]
    return None if problems else built


def together(parts: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Settings that are each right and do not go together. What a model or the data decide is checked with them."""
    train, config = parts["train"], parts["method"]
    method = registry.load("methods", names["method"]).Method(config, parts.get("adapter") is not None)
    steps, faults = train.max_steps, method.faults(parts)
    if parts["model"].quantization and (fault := refused(parts["model"], names["method"], method)):
        faults.append(fault)
    for part in parts.values():
        faults += part.faults(parts) if hasattr(part, "faults") else []
    if train.count == "all" and 0 < steps < method.shortest:  # it would leave that out, without a word
        faults.append(
            f"train.max_steps: {steps} is less than the {method.shortest} counted steps that one iteration, or one "
            f"zeroth-order step, takes; give at least {method.shortest}, or a smaller method.inner_steps"
        )
    if train.count == "outer" and not method.iterates:
        faults.append(f"train.count: outer counts iterations, and method {names['method']} has stages; leave it at all")
    if parts.get("estimator") is not None and parts["estimator"].shift == "inplace" and train.on_nonfinite == "skip":
        faults.append("train.on_nonfinite: skip needs estimator.shift=layer: a skipped estimate in place is not undone")
    if train.gradient_checkpointing and names.get("adapter") == "prefix":
        faults.append(
            "train.gradient_checkpointing: a prefix is read from a cache, which a layer computed again would fill "
            "twice; use lora or prompt, or a smaller train.micro_batch_size"
        )
    if method.apart:
        start = getattr(registry.load("adapters", names["adapter"]).Adapter, "fixed_start", None)
        if start:
            faults.append(
                f"method.apart: adapter {names['adapter']} starts from {start}, nothing is drawn; leave it false, or "
                f"use lora or dept"
            )
    return faults


def check(hint: Any, metadata: Mapping[str, Any], given: Value) -> tuple[Any, str]:
    """(value of type `hint`, "") or (None, what is wrong with it)."""
    value, ok = _typed(hint, given.value)
    if not ok and given.raw is not None:  # revision=0123 and name=true are text where text is expected
        value, ok = _typed(hint, texts(given.raw) if _has_list(hint) else given.raw)
    if not ok:
        return None, f"expected {type_name(hint)}, got {show(given.value)}{_literal_hint(hint, given.value)}"
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if not math.isfinite(number):
            return None, f"expected a finite number, got {number}"
        for key, (sign, holds) in _BOUNDS.items():
            if key in metadata and not holds(number, metadata[key]):
                return None, f"must be {sign} {metadata[key]}, got {show(given.value)}"
    return value, ""


def _typed(hint: Any, value: Any) -> tuple[Any, bool]:
    from pydantic import ValidationError

    if isinstance(value, str) and _has_list(hint) and not _has_str(hint):  # report_to=wandb,tensorboard
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        # JSON mode: strict about numbers, texts and booleans, yet a YAML list may become a tuple.
        return _adapter(hint).validate_json(json.dumps(value, default=os.fspath), strict=True), True
    except (ValidationError, TypeError):
        return None, False


@functools.cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _has_list(hint: Any) -> bool:
    return any((typing.get_origin(member) or member) in (list, tuple) for member in _members(hint))


def _has_str(hint: Any) -> bool:
    return any(member is str or typing.get_origin(member) is typing.Literal for member in _members(hint))


def _choices(hint: Any) -> list[Any]:
    return [choice for m in _members(hint) if typing.get_origin(m) is typing.Literal for choice in typing.get_args(m)]


def _literal_hint(hint: Any, value: object) -> str:
    return did_you_mean(str(value), [str(choice) for choice in _choices(hint)])


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
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def refused(config: ModelConfig, name: str, method: Any) -> str:
    """Why a method, called `name`, cannot run on a quantised model, in one line; "" where it can."""
    if method.moves != "fo":
        return ""
    return (
        f"{quantized_field(config)} {name} moves every weight by its gradient, and quantised weights have none; use "
        f"fo-peft (an adapter beside them, QLoRA), or mezo or bilevel-zofo (zeroth-order steps of what is not "
        f"quantised)"
    )


def quantized_field(config: ModelConfig) -> str:
    """The setting by which a model is quantised, as an error begins."""
    return f"model.quantization: {config.quantization}:" if config.quantization else f"model.name: {config.name}:"

"""A run's configuration: preset < YAML file < command line; strict, every error reported at once.

`resolve(...)` is what the command line and `finetune()` use; `Config.to_dict()` is what a run saves and what resolves
to an equal Config again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zofo.config import adapter_start, epochs, registry, task_rows
from zofo.config.layers import (
    DEFAULT_NAMES,
    MODULE_SECTIONS,
    SECTIONS,
    Layer,
    Merged,
    Value,
    brief,
    merge,
)
from zofo.config.moved import settle
from zofo.config.parallel import ParallelConfig
from zofo.config.paths import PLACED, absolute, bare, located
from zofo.config.places import somewhere_else
from zofo.config.sections import ModelConfig, TaskConfig, TrainConfig
from zofo.config.typed import Files, build
from zofo.config.validate import code_from_a_file, secrets, together
from zofo.config.words import unknown_section, unknown_words
from zofo.config.yaml_reader import dump, read_yaml
from zofo.errors import InputError, printable

__all__ = ["CORE", "SECTIONS", "Config", "ModelConfig", "TaskConfig", "TrainConfig", "from_dict", "load", "resolve"]

CORE: dict[str, type] = {
    "model": ModelConfig,
    "task": TaskConfig,
    "train": TrainConfig,
    "parallel": ParallelConfig,
}
MERGE = "; a trained adapter goes on with it merged into its model: zofo export RUN OUT --merge, then --model OUT"
# How a run is started, not what it trains; num_train_epochs is the max_steps that are made of it
_LAUNCH_ONLY = ("output_dir", "resume", "overwrite", "num_train_epochs", "score_test")


@dataclass(frozen=True)
class Config:
    """A resolved configuration. Sections with a name hold an instance of their module's `Config`."""

    model: ModelConfig
    task: TaskConfig
    method: Any
    train: TrainConfig
    adapter: Any = None
    estimator: Any = None
    mask: Any = None
    rule: Any = None
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    names: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain, YAML-able, with `name` in each section; `from_dict` gives an equal Config."""
        out: dict[str, Any] = {}
        for section in SECTIONS:
            part = getattr(self, section)
            if part is not None:
                name = {"name": self.names[section]} if section in MODULE_SECTIONS else {}
                out[section] = {**name, **_plain(dataclasses.asdict(part))}
        return out

    def to_yaml(self, reasons: bool = False) -> str:
        """The text of config.yaml; with `reasons`, each value's origin as a comment behind it."""
        if not reasons:
            return dump(self.to_dict())
        lines = []
        for section, values in self.to_dict().items():
            lines.append(f"{section}:")
            for key, value in values.items():
                first, *more = dump({key: value}).rstrip("\n").split("\n")
                why = self.reasons.get(f"{section}.{key}")
                lines += [f"  {first:<34}  # {why}" if why else f"  {first}", *(f"  {line}" for line in more)]
        return "\n".join(lines) + "\n"

    def counted(self, passes: epochs.Passes) -> Config:
        """With the max_steps of its num_train_epochs. Raises InputError where they are too few."""
        train = dataclasses.replace(self.train, max_steps=passes.max_steps)
        why = f"{'at most, ' if passes.at_most else ''}of num_train_epochs"
        return dataclasses.replace(self, train=train, reasons={**self.reasons, "train.max_steps": why})

    def absolute(self) -> Config:
        """With absolute paths of the model, the task, the data and adapter.start that are on this machine."""
        return dataclasses.replace(self, **{name: absolute(getattr(self, name), name) for name in PLACED})

    def bare(self) -> Config:
        """With the names alone of the model, the task, the data and adapter.start that are on this machine."""
        return dataclasses.replace(self, **{name: bare(getattr(self, name), name) for name in PLACED})

    def hash(self) -> str:
        """SHA-256 of what the run computes: canonical JSON without what is of its start alone."""
        data = self.to_dict()
        data.pop("parallel")
        data["model"].pop("offload_folder")
        for key in _LAUNCH_ONLY:
            data["train"].pop(key)
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def resolve(
    file: str | None = None,
    overrides: Iterable[str] = (),
    preset: str | None = None,
    *,
    source: str = "command line",
    files: Files | None = None,
    find: adapter_start.Find | None = None,
    **sections: Any,
) -> Config:
    """Preset < YAML `file` < `sections` < `overrides` ("section.key=value"). `sections` are names, mappings or
    dataclasses, e.g. `model="gpt2"`, `train={"max_steps": 10}`; `source` is the reason given for them. files: what says
    what is wrong with the files that a section names; None: they may be gone, a finished run needs its data no more.
    find: what reads the adapter that adapter.start names, whose settings are taken where none are given; None: all are.

    Raises InputError with one line per problem.
    """
    errors: list[str] = []
    layers: list[Layer] = []
    overrides = list(overrides)
    if file is not None:
        try:
            data = read_yaml(Path(file), "config file")
        except InputError as error:  # the words that are wrong too are said at once
            raise InputError("\n".join([*unknown_words(overrides), str(error)])) from None
        named = data.pop("preset", None)
        preset = preset or named
        layers.append(Layer(f"file {file}").add(located(data, Path(file).parent), errors))
    if preset is not None:
        try:
            path = registry.load("presets", str(preset))
            layers.insert(0, Layer(f"preset {registry.canonical(str(preset))}").add(read_yaml(path, "preset"), errors))
        except InputError as error:
            errors.append(f"preset: {error}")
    given = {section: content for section, content in sections.items() if content is not None}
    layers.append(Layer(source).add(given, errors).add_overrides(overrides, errors))
    merged = merge(layers)
    if held := secrets(merged):  # before another error repeats it
        raise InputError("\n".join(held))
    errors += code_from_a_file(merged, asked=len(layers) - 1)
    return _assemble(merged, errors, files, find=find)


def from_dict(data: Mapping[str, Any], source: str = "caller") -> Config:
    """The Config of a nested dict such as `Config.to_dict()` gives, of a run that is opened and not trained."""
    errors: list[str] = []
    return _assemble(merge([Layer(source).add(data, errors)]), errors, opened=True)


def load(path: str | Path) -> Config:
    """The Config of a finished run's config.yaml."""
    return from_dict(located(read_yaml(Path(path), "config file"), Path(path).parent), f"file {path}")


def _assemble(
    merged: Merged,
    errors: list[str],
    files: Files | None = None,
    opened: bool = False,
    find: adapter_start.Find | None = None,
) -> Config:
    settle(merged, errors, opened)
    task_rows.settle(merged)
    if find is not None:
        adapter_start.settle(merged, errors, find)
    epochs.settle(merged, errors)
    refused = {line.partition(": expected ")[0] for line in errors}  # sections of which nothing more can be said
    names, classes, used = _modules(merged, errors)
    _method_defaults(merged, names)
    parts: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for section in SECTIONS:
        given = merged.values.get(section, {})
        if section in classes and section not in refused:
            fields = {k: v for k, v in given.items() if not (k == "name" and section in MODULE_SECTIONS)}
            parts[section] = build(f"{section}.", classes[section], fields, errors, files)
            reasons |= _reasons(section, classes[section], given)
    errors[:] = [somewhere_else(line, classes) for line in errors]
    _unknown_sections(merged, classes, errors)
    errors += [] if errors else together(parts, names)
    if errors:
        raise InputError("\n".join(dict.fromkeys(errors)))
    config = Config(**parts, names=names, reasons=reasons, notes=tuple(merged.notes + used))
    if config.train.num_train_epochs is None:
        return config
    method = registry.load("methods", names["method"]).Method(config.method, config.adapter is not None)
    most = method.sizes(config.task.train_examples, config.task.dev_examples)
    return config.counted(epochs.Passes(config.train, method, config.estimator, most, at_most=True))


def _modules(merged: Merged, errors: list[str]) -> tuple[dict[str, str], dict[str, type], list[str]]:
    """Names and Config classes of the sections this method has; notes about sections left out."""
    names: dict[str, str] = {}
    classes: dict[str, type] = dict(CORE)
    notes: list[str] = []
    method = _module(merged, "method", errors)
    if method is not None:
        names["method"], classes["method"] = registry.canonical(merged.values["method"]["name"].value), method.Config
    for section in MODULE_SECTIONS[1:]:
        given = merged.values.get(section, {})
        asked = any(value.layer >= merged.method_layer for value in given.values())
        if method is not None and section not in _sections_of(method):
            if asked:
                errors.append(_unused(section, names["method"]) + (MERGE if "start" in given else ""))
            elif given:
                notes.append(f"{section}: left out, method {names['method']} does not use it")
            continue
        if method is not None and section not in method.Method.needs and not asked:
            if given:  # a preset's adapter was meant for the preset's method
                notes.append(f"{section}: left out, method {names['method']} takes one only if it is asked for")
            continue
        if given or (method is not None and section in method.Method.needs):
            module = _module(merged, section, errors)
            if module is not None:
                name = given["name"].value if "name" in given else DEFAULT_NAMES[section]
                names[section], classes[section] = registry.canonical(name), module.Config
    return names, classes, notes


def _method_defaults(merged: Merged, names: Mapping[str, str]) -> None:
    """Defaults of a method that depend on what else was chosen, such as MeZO's epsilon for an adapter."""
    module = registry.load("methods", names["method"]) if "method" in names else None
    for path, (value, reason) in getattr(module, "defaults", lambda names: {})(names).items():
        section, _, key = path.partition(".")
        merged.values.setdefault(section, {}).setdefault(key, Value(value, reason))


def _module(merged: Merged, section: str, errors: list[str]) -> Any | None:
    given = merged.values.get(section, {}).get("name")
    name = given.value if given else DEFAULT_NAMES.get(section)
    kind = f"{section}s"
    if not isinstance(name, str):
        if any(line.startswith(f"{section}: expected ") for line in errors):  # that it is no name was said already
            return None
        what = "required; give --method or method.name=..." if given is None else f"expected a name, got {brief(name)}"
        errors.append(f"{section}.name: {what}; known: {', '.join(registry.names(kind))}")
        return None
    try:
        return registry.load(kind, name)
    except InputError as error:
        errors.append(f"{section}.name: {error}")
        return None


def _sections_of(module: Any) -> frozenset[str]:
    """Sections a method accepts: those it needs, and those it may take (`optional`)."""
    return frozenset(module.Method.needs) | frozenset(getattr(module.Method, "optional", ()))


def _unused(section: str, method: str) -> str:
    users = [name for name in registry.names("methods") if section in _sections_of(registry.load("methods", name))]
    hint = f" (methods that do: {', '.join(users)})" if users else ""
    return f"{section}: method {method} does not use it; remove the section{hint}"


def _reasons(section: str, cls: type, given: Mapping[str, Value]) -> dict[str, str]:
    reasons = {f"{section}.name": "default"} if section in MODULE_SECTIONS else {}
    for spec in dataclasses.fields(cls):
        help, paper = spec.metadata.get("help", ""), spec.metadata.get("paper", "")
        why = f"{help} ({paper})" if help and paper else help or paper
        reasons[f"{section}.{spec.name}"] = f"default: {why}" if why else "default"
    return reasons | {f"{section}.{key}": value.source for key, value in given.items()}


def _unknown_sections(merged: Merged, classes: Mapping[str, type], errors: list[str]) -> None:
    paths = [f"{section}.{spec.name}" for section, cls in classes.items() for spec in dataclasses.fields(cls)]
    for key, source in merged.unknown:
        errors.append(f"{printable(key, 100)}: unknown section{unknown_section(key, paths)} ({source})")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value

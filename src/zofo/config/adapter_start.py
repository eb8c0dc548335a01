"""`adapter.start`: what a trained adapter says of itself takes the place of settings that were not given."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.layers import Merged, Value, brief
from zofo.config.typed import check
from zofo.errors import InputError, printable


@dataclass(frozen=True)
class Trained:
    """A trained adapter that `adapter.start` names. directory: of its files. settings: the adapter section's, `name`
    among them. model: the base that it was trained on, None where it names none; only: its weights were trained with
    the adapter, so that it goes with no other. base_sha256: one digest of the base, where it is known."""

    directory: Path
    settings: Mapping[str, Any]
    model: str | None = None
    only: bool = False
    base_sha256: str | None = None


Find = Callable[[str, str | None, str], Trained]  # (adapter.start, train.resume, train.output_dir); raises InputError


def settle(merged: Merged, errors: list[str], find: Find) -> None:
    """Fills in what the adapter says and the settings do not: its kind, its sizes, its model. Appends an error for each
    setting that says something else; of a preset's the adapter's own takes the place, with a note."""
    given = merged.values.get("adapter", {})
    place, faults = check(str | None, {}, given["start"]) if "start" in given else (None, [])
    if place is None or faults:  # the section's own validation says what is wrong
        return
    train = merged.values.get("train", {})
    resume, out = (None if key not in train else train[key].value for key in ("resume", "output_dir"))
    try:
        trained = find(place, None if resume is None else str(resume), str(out or ""))
    except InputError as error:
        errors += [f"adapter.start: {line}" for line in str(error).split("\n")]
        merged.values.setdefault("model", {}).setdefault("name", Value("unknown", ""))  # it would be the adapter's
        return
    layer = given["start"].layer
    _leave_out(merged, given, trained)
    for key, value in trained.settings.items():
        said = given.get(key)
        if said is None or key == "start":
            given[key] = Value(value, "of adapter.start" if key != "start" else said.source if said else "", layer)
        elif not _same(key, said.value, value):
            errors.append(
                f"adapter.{key}: {brief(said.value)} ({said.source}), and the adapter in {printable(place, 300)} has "
                f"{brief(value)}; leave it out"
            )
    errors += _without_effect(given, trained)
    _settle_model(merged, errors, place, trained, layer)


def _without_effect(given: Mapping[str, Value], trained: Trained) -> list[str]:
    """Of a fresh adapter's start: the text of a prompt."""
    kind = registry.load("adapters", str(trained.settings["name"])).Config
    usual = {spec.name: spec.default for spec in dataclasses.fields(kind) if spec.name not in trained.settings}
    return [
        f"adapter.{key}: {brief(given[key].value)} ({given[key].source}) is where a fresh adapter starts, and this one "
        f"starts from adapter.start; leave it out"
        for key, value in usual.items()
        if key in given and key != "start" and not _same(key, given[key].value, value)
    ]


def _leave_out(merged: Merged, given: dict[str, Value], trained: Trained) -> None:
    """A preset's settings were meant for a fresh adapter."""
    told = dict(trained.settings)
    other = [
        key
        for key, said in given.items()
        if said.source.startswith("preset ") and (key not in told or not _same(key, said.value, told[key]))
    ]
    for key in other:
        given.pop(key)
    if other:
        merged.notes.append(f"adapter: the adapter of adapter.start takes the place of the preset's {', '.join(other)}")


def _settle_model(merged: Merged, errors: list[str], place: str, trained: Trained, layer: int) -> None:
    model = merged.values.setdefault("model", {})
    if trained.model is None:
        return
    if "name" not in model:
        model["name"] = Value(trained.model, "of adapter.start", layer)
    elif trained.only and not same_place(str(model["name"].value), trained.model):
        errors.append(
            f"model.name: {printable(str(model['name'].value), 300)} ({model['name'].source}), and the adapter in "
            f"{printable(place, 300)} was trained together with the weights of {trained.model}; leave it out, or give "
            f"that one"
        )


def same_place(one: str, other: str) -> bool:
    """Whether two names of a model are one: as they stand, or as places on this machine."""
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _same(key: str, one: Any, other: Any) -> bool:
    if key == "name":
        return registry.canonical(str(one)) == registry.canonical(str(other))
    if isinstance(one, str) and isinstance(other, list):
        one = [part.strip() for part in one.split(",")]
    if isinstance(one, list) and isinstance(other, list):  # of names, in any order
        return sorted(map(str, one)) == sorted(map(str, other))
    return one == other


def without(section: Any) -> Any:
    """An adapter section that starts from none, for what reads no weights."""
    if section is None or "start" not in [spec.name for spec in dataclasses.fields(section)]:
        return section
    return dataclasses.replace(section, start=None)

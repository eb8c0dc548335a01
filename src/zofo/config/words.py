"""The words of a command line, `section.key=value`: checked by themselves, before any file is looked for."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence

from zofo.config.known_words import known
from zofo.config.layers import SECTIONS, Layer
from zofo.config.places import ALIASES, NAMED, answer, every_place, listed, meant, somewhere_else
from zofo.config.typed import check
from zofo.errors import InputError, did_you_mean, nearest, printable


def unknown_section(key: str, paths: Iterable[str], sections: Sequence[str] = SECTIONS) -> str:
    """`; did you mean ...?` for a key of no section, such as `tran.save`: the section that is near, and of its fields
    the one that is meant, else whatever path is near.

    paths: `section.field` of all that there are. sections: those that a verb takes.
    """
    paths = list(paths)
    first, dot, field = key.replace("-", "_").partition(".")
    if not dot:
        first, field = "", first
    if hint := answer(field, paths) or _of_a_section(first, field, paths):
        return hint
    near = nearest(first, sections) if first else nearest(field, sections, 0.75)
    if near is not None and not dot:
        return f'; did you mean "{near}"?'
    inside = [path for path in paths if near is None or path.startswith(f"{near}.")]
    ways = [_exactly(field, inside), _exactly(field, paths)]
    ways += [meant(field, among) or _nearest(field, among) for among in (inside, paths)]
    if likeliest := next((way for way in ways if way), None):
        return f"; did you mean {listed(likeliest)}?"
    return did_you_mean(key, paths) or (f'; did you mean "{near}"?' if near else f"; known: {', '.join(sections)}")


def _of_a_section(first: str, field: str, paths: Sequence[str]) -> str:
    """Of `lora.r`: what a section is called in zofo whose name is another trainer's word; "" for any other."""
    word = known(first) if first and first not in SECTIONS else None
    if word is None or not word.fields:
        return ""
    section = word.fields[0].partition(".")[0]
    if not any(path.startswith(f"{section}.") for path in paths):
        return f'; in zofo that is of section "{section}", which is not among the settings here'
    path = f"{section}.{ALIASES.get(field, field)}"
    return f'; did you mean "{path}"?' if path in paths else f'; did you mean "{section}"?'


def _exactly(field: str, paths: Iterable[str]) -> list[str]:
    same = [path for path in paths if path.partition(".")[2] == ALIASES.get(field, field)]
    return same[:NAMED]


def _nearest(field: str, paths: Sequence[str]) -> list[str]:
    """The paths whose field is the nearest; of several sections that have it, all, and no more than a hint has."""
    near = nearest(field, dict.fromkeys(path.partition(".")[2] for path in paths))
    return meant(near, [path for path in paths if path.partition(".")[2] == near]) if near is not None else []


def faults_of(overrides: Iterable[str], classes: Mapping[str, type], verb: str) -> list[str]:
    """What is wrong with each override of a verb that takes the fields of these sections alone: a line each.

    verb: how an error names it, "an evaluation". Values that are wrong by themselves are among them.
    """
    errors: list[str] = []
    layer = Layer("command line").add_overrides(overrides, errors)
    paths = [f"{section}.{spec.name}" for section, cls in classes.items() for spec in dataclasses.fields(cls)]
    takes = " and ".join(f"{section}.key=value" for section in classes)
    for key in layer.unknown:
        hint = unknown_section(key, paths, list(classes))
        hint = f"; {verb} takes {takes} alone" if hint.startswith("; known: ") else hint
        errors.append(f"{printable(key, 100)}: unknown section{hint}")
    for section, given in layer.sections.items():
        if section not in classes:
            errors += [f"{section}.{printable(key, 60)}: {verb} takes {takes} alone" for key in given]
            continue
        fields = {spec.name: spec for spec in dataclasses.fields(classes[section])}
        hints = typing.get_type_hints(classes[section])
        for key, value in given.items():
            if key in fields:
                faults = check(hints[key], fields[key].metadata, value)[1]
                errors += [f"{section}.{key}{fault}" for fault in faults]
            else:
                near = did_you_mean(key, fields) or f"; known: {', '.join(fields)}"
                line = f"{section}.{printable(key, 60)}: unknown field{near}"
                errors.append(somewhere_else(line, classes))
    return errors


def check_words(overrides: Iterable[str], classes: Mapping[str, type], verb: str) -> None:
    """Raises InputError with a line for each fault, see `faults_of`."""
    if faults := faults_of(overrides, classes, verb):
        raise InputError("\n".join(faults))


def unknown_words(overrides: Iterable[str]) -> list[str]:
    """Of overrides of a configuration that could not be read: what is no field of any section."""
    errors: list[str] = []
    layer = Layer("command line").add_overrides(overrides, errors)
    fields: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for place in every_place():
        fields[place.section].append(place.name)
    paths = [f"{section}.{name}" for section, names in fields.items() for name in dict.fromkeys(names)]
    errors += [f"{printable(key, 100)}: unknown section{unknown_section(key, paths)}" for key in layer.unknown]
    for section, given in layer.sections.items():
        for key in given:
            if key in (*fields[section], "name"):
                continue
            hint = answer(key, paths, section)
            if not hint:
                near = meant(key, [path for path in paths if path.startswith(f"{section}.")]) or meant(key, paths)
                near = near or _nearest(key, [path for path in paths if path.startswith(f"{section}.")])
                hint = f"; did you mean {listed(near)}?" if near else ""
            errors.append(f"{section}.{printable(key, 60)}: unknown field{hint}")
    return errors

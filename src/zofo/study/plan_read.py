"""A plan's file read: with what the command line changes, in its short form or whole, every fault at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.layers import SECTIONS
from zofo.config.sections import ModelConfig, TaskConfig, TrainConfig
from zofo.config.yaml_reader import dump, read_yaml, scalar
from zofo.errors import InputError, did_you_mean, first_few, nearest, printable
from zofo.study.plan import Plan
from zofo.study.plan_rows import rows_of

AXES = ("methods", "adapters", "tasks", "rows")
TUNING = ("search", "sampler", "trials", "prune", "seeds", "seed")
KEYS = ("preset", "data", "shared", "overrides", "reduced", "extra", *AXES, *TUNING)
IDLE = ("sampler", "trials", "prune")  # without effect where nothing is searched
SAMPLERS = ("grid", "random", "tpe")


def read_plan(
    place: str | Path,
    *,
    model: str | None = None,
    data: str | None = None,
    overrides: Sequence[str] = (),
    reduced: bool = False,
    only: Sequence[str] = (),
) -> Plan:
    """A file, or a plan of `zofo ls plans`. model, data, overrides: what the command line puts in place of the plan's.
    reduced: its short form. only: these rows, and no others. Raises InputError with a line for each fault."""
    path = find(place)
    content = read_yaml(path, "plan", 'keys such as "methods:"')
    text = path.read_text("utf-8")
    changed = _changed(content, model, data, overrides)
    if changed != content:
        text = dump(changed)
    if reduced:
        if not isinstance(changed.get("reduced"), Mapping):
            raise InputError(f"plan {path}: has no short form (reduced:); leave out --reduced")
        changed, text = _reduced(changed), f"# The short form (--reduced) of this plan\n{text}"
    return plan_of(changed, text, path, only)


def plan_of(content: Mapping[str, Any], text: str, path: Path, only: Sequence[str] = ()) -> Plan:
    """text: what is kept of it. path: its file, or a name for it. Raises InputError with a line for each fault."""
    content = {key: value for key, value in content.items() if key != "reduced"}
    faults = _faults(content)
    broken = any(fault.startswith(("shared:", "overrides:", "seed:", "methods:")) for fault in faults)
    rows = [] if broken else rows_of(content, path.parent, faults)
    if not faults and not any(row.trials > 1 or row.search for row in rows):
        faults += [f"{key}: nothing is searched; give search:, or leave it out" for key in IDLE if content.get(key)]
    tuned = (str(content.get("sampler", "grid")), bool(content.get("prune", False)), _whole(content.get("seed", 0)))
    if faults:
        lines = [f"plan {path}: {fault}" for fault in dict.fromkeys(faults)]
        raise InputError(
            "\n".join([*lines, *_of_rows(Plan(path.stem, tuple(rows), content, path.parent, text, *tuned))])
        )
    if unknown := [name for name in only if name not in {row.name for row in rows}]:
        hint = did_you_mean(unknown[0], [row.name for row in rows]) or ";"
        known = first_few([row.name for row in rows], 8)
        raise InputError(f'--only: no row "{printable(unknown[0], 60)}"{hint} the plan has {known}')
    bases = {row.like for row in rows if row.name in only}
    rows = [row for row in rows if not only or row.name in only or row.name in bases]
    return Plan(path.stem, tuple(rows), content, path.parent, text, *tuned)


def _whole(value: Any) -> int:
    return value if type(value) is int else 0


def _of_rows(plan: Plan) -> list[str]:
    """What is wrong with the configurations of those rows that could be read, so that it is said at once."""
    from zofo.study.plan_check import check

    try:
        check(plan, Path("study"))
    except InputError as error:
        return str(error).split("\n")
    return []


def find(place: str | Path) -> Path:
    """Raises InputError that names the plans there are."""
    path = Path(place)
    if path.is_file() or path.suffix in (".yaml", ".yml") or "/" in str(place):
        return path
    found = registry.load("plans", str(place))
    assert isinstance(found, Path)
    return found


def _changed(content: dict[str, Any], model: str | None, data: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    changed, over = dict(content), {}
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals:
            raise InputError(f'{printable(text, 100)}: expected "section.key=value"')
        over[key.strip()] = scalar(raw)
    if model is not None:
        section = changed.get("model")
        changed["model"] = {**section, "name": model} if isinstance(section, Mapping) else model
    if data is not None:
        changed["data"] = data
    if over:
        changed["overrides"] = {**(changed.get("overrides") or {}), **over}
    return changed


def _reduced(content: Mapping[str, Any]) -> dict[str, Any]:
    """The short form: its keys in place of the plan's; of `shared` and of sections one by one; a list of trials'
    numbers is those of each row's own."""
    short = dict(content["reduced"])
    kept = short.pop("trials", None)
    out = dict(content)
    for key, value in short.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping) and key in ("shared", *SECTIONS)
        out[key] = {**out[key], **value} if both else value
    if isinstance(kept, list):
        rows = {}
        for name, spec in (out.get("rows") or {}).items():
            own = spec.get("trials") if isinstance(spec, Mapping) else None
            few = [own[i] for i in kept if i < len(own)] if isinstance(own, list) else own
            rows[name] = {**spec, "trials": few} if few is not None else spec
        out["rows"] = rows
    elif kept is not None:
        out["trials"] = kept
    return out


def _hint(key: str, known: Sequence[str]) -> str:
    """A key that is spelt otherwise, or a setting that stands without its section."""
    sections = {"model": ModelConfig, "task": TaskConfig, "train": TrainConfig}
    places = {f"{section}.{one.name}": one.name for section, of in sections.items() for one in fields(of)}
    if near := nearest(key, known, 0.75):
        return f'; did you mean "{near}"?'
    section, _, rest = key.partition("_")
    same = [place for place, name in places.items() if name == key]
    same += [place for place in places if rest and place.startswith(f"{section}.") and place.endswith(f"_{rest}")]
    if place := next(iter(same), None) or nearest(key.replace("_", ".", 1), places, 0.7):
        section, _, name = place.partition(".")
        return f"; did you mean {place}, as in shared: {{{place}: ...}} or {section}: {{{name}: ...}}?"
    return f"; known: {', '.join(known)}"


def _faults(data: Mapping[str, Any]) -> list[str]:
    """Of the plan's own keys; those of its settings are found with the configurations."""
    known = (*KEYS, *SECTIONS)
    faults = [f'unknown key "{printable(key, 60)}"{_hint(str(key), known)}' for key in data if key not in known]
    if not any(data.get(key) for key in ("methods", "rows", "method", "preset")):
        faults.append("methods: required; give names (zofo ls methods), or rows:")
    sampler = data.get("sampler", "grid")
    if sampler not in SAMPLERS:
        hint = did_you_mean(str(sampler), SAMPLERS) or f"; known: {', '.join(SAMPLERS)}"
        faults.append(f'sampler: unknown "{printable(str(sampler), 60)}"{hint}')
    if type(data.get("prune", False)) is not bool:
        faults.append("prune: expected true or false")
    if type(data.get("seed", 0)) is not int or data.get("seed", 0) < 0:
        faults.append("seed: expected a number from 0; it is the sampler's, those of the runs are seeds: [0, 1, 2]")
    for key in ("shared", "overrides"):
        if not isinstance(data.get(key) or {}, Mapping):
            faults.append(f'{key}: expected a mapping of "section.field: value"')
    return faults

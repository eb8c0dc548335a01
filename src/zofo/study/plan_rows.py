"""A plan's rows: tasks x adapters x methods, or as they are written out; and the points of each row's trials."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.layers import SECTIONS, brief
from zofo.config.yaml_reader import read_yaml
from zofo.errors import InputError, did_you_mean, printable
from zofo.study.plan import OF_A_ROW, Point, Row, flat, settings_of
from zofo.study.plan_search import row_of, seeds_of

CADENCE = ("train.max_steps", "train.eval_steps", "train.save_steps")
NONE = "none"  # an adapter


def rows_of(data: Mapping[str, Any], folder: Path, faults: list[str]) -> list[Row]:
    """faults: a line is added for each. folder: of the plan's file."""
    shared = flat({key: data[key] for key in SECTIONS if key in data}, faults)
    shared |= settings_of("shared", data.get("shared") or {}, faults)
    over = settings_of("overrides", data.get("overrides") or {}, faults)
    built = list(_crossed(data, faults)) if data.get("methods") or not data.get("rows") else []
    built += [(name, name, spec, {}) for name, spec in _named("rows", data.get("rows"), faults).items()]
    named = {name: label for name, label, _, _ in built}
    wrong = {name for name, _, _, axes in built if not _there(axes)}
    searched = _by_row(data.get("search") or {}, named, wrong, faults)
    rows: list[Row] = []
    for name, _, spec, axes in built:
        settings = {**shared, **axes}
        if "forwards" in spec:  # equal forwards: fewer steps, and evaluations at the same shares of them
            settings = _with_forwards(f"{name}.forwards", settings, spec["forwards"], faults)
        own = {key: value for key, value in spec.items() if key not in OF_A_ROW}
        settings |= settings_of(name, own, faults)
        settings |= _rows_place(name, settings | over, data, folder, faults)
        search = spec.get("search", searched.get(name, {}))
        rows.append(row_of(name, {**settings, **over}, search, spec, data, faults))
    rows += _extras(data, rows, over, faults)
    _check_names(rows, faults)
    return rows


def _crossed(data: Mapping[str, Any], faults: list[str]) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """(a row's name, its method's in the plan, the keys given there, the settings of its task and adapter)."""
    methods = _named("methods", data.get("methods"), faults) or {"": {}}
    one = _one_method(data)
    tasks = _named("tasks", data.get("tasks"), faults) or {"": {}}
    adapters = _named("adapters", data.get("adapters"), faults)
    unused = bool(adapters)
    for (task, of_task), (label, of_method) in itertools.product(tasks.items(), methods.items()):
        chosen = _named(f"{label}.adapters", of_method.get("adapters"), faults) or (
            adapters if _needs_adapter(of_method.get("method.name", label or one)) else {}
        )
        unused = unused and not chosen
        for adapter, of_adapter in (chosen or {"": {}}).items():
            axes = {"task.name": task} if task else {}
            axes |= settings_of(f"tasks.{task}", of_task, faults)
            if adapter and adapter != NONE:
                full = adapters.get(adapter) if isinstance(adapters.get(adapter), Mapping) else None
                axes |= {"adapter.name": adapter} | settings_of(f"adapters.{adapter}", of_adapter or full or {}, faults)
            if label:
                axes["method.name"] = label
            parts = [task if len(tasks) > 1 else "", label, adapter if len(chosen or {}) > 1 else ""]
            yield "-".join(part for part in parts if part) or "run", label, of_method, axes
    if unused:
        faults.append(
            f"adapters: no method of the plan takes one ({', '.join(filter(None, [*methods, one]))}); leave it out"
        )


def _one_method(data: Mapping[str, Any]) -> str:
    """Of a plan with `method:` in place of `methods:`, or with a preset's; "" where it is not known."""
    given = data.get("method")
    name = given.get("name") if isinstance(given, Mapping) else given
    if name is None and data.get("preset") is not None:
        try:
            name = read_yaml(registry.load("presets", str(data["preset"])), "preset").get("method", {}).get("name")
        except (InputError, AttributeError):  # the configuration says what is wrong with it
            return ""
    return str(name or "")


def _named(key: str, content: Any, faults: list[str]) -> dict[str, dict[str, Any]]:
    """{name: its keys} of a name, a list of names, or a mapping of names to their keys (of a task also to its data)."""
    if content is None or content == {} or content == []:
        return {}
    if isinstance(content, str):
        content = [content]
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        if twice := [name for name in content if content.count(name) > 1]:
            faults.append(f'{key}: "{printable(twice[0], 60)}" is given twice')
        return {name: {} for name in content}
    if not isinstance(content, Mapping):
        faults.append(f"{key}: expected names, or a mapping of names to settings, got {brief(content)}")
        return {}
    out: dict[str, dict[str, Any]] = {}
    for name, spec in content.items():
        if isinstance(spec, str) and key == "tasks":
            spec = {"task.data": spec}
        if spec is not None and not isinstance(spec, Mapping):
            faults.append(f'{key}.{name}: expected a mapping of "section.field: value", got {brief(spec)}')
            spec = {}
        out[str(name)] = dict(spec or {})
    return out


def _there(axes: Mapping[str, Any]) -> bool:
    """Whether its method and adapter are names of any."""
    kinds = {"methods": axes.get("method.name"), "adapters": axes.get("adapter.name")}
    return all(name is None or registry.canonical(str(name)) in registry.names(kind) for kind, name in kinds.items())


def _needs_adapter(method: str) -> bool:
    try:
        return "adapter" in registry.load("methods", method).Method.needs
    except Exception:  # the configuration says what is wrong with the name
        return False


def _with_forwards(place: str, settings: dict[str, Any], forwards: Any, faults: list[str]) -> dict[str, Any]:
    """Of a step that takes so many forwards in place of two."""
    if isinstance(forwards, bool) or not isinstance(forwards, (int, float)) or not forwards > 0:
        faults.append(f"{place}: expected a number above 0, got {brief(forwards)}")
        return settings
    scaled = {key: max(1, int(settings[key] * 2 / forwards)) for key in CADENCE if type(settings.get(key)) is int}
    if "train.max_steps" not in scaled:
        faults.append(f"{place}: needs train.max_steps, whose steps are of two forwards")
    return {**settings, **scaled}


def _rows_place(name: str, settings: Point, data: Mapping[str, Any], folder: Path, faults: list[str]) -> dict[str, Any]:
    """task.data of a row where the plan's `data` is a directory of tasks, or the task's own."""
    if (given := data.get("data")) is None or "task.data" in settings:
        return {}
    base = folder / str(given) if (folder / str(given)).exists() else Path(str(given))
    task = Path(str(settings.get("task.name", "")))
    for own in {task.name, task.name.replace("-", "_"), task.name.replace("_", "-")} - {""}:
        if (base / own).is_dir():
            return {"task.data": str(base / own)}
    if len(data.get("tasks") or ()) > 1:
        faults.append(f"data: no folder {task.name} in {base}; name it, as in tasks: {{{task.name}: DIRECTORY}}")
        return {}
    return {"task.data": str(base)}


def _by_row(search: Any, rows: Mapping[str, str], wrong: set[str], faults: list[str]) -> dict[str, Any]:
    """{row: its settings to search}. `search` is of all rows, or has a key for a method or a row. rows: their methods,
    as the plan calls them. wrong: rows with a name of an adapter or a method that there is not, which are no hint."""
    if not isinstance(search, Mapping):
        faults.append(f'search: expected a mapping of "section.field: [values]", got {brief(search)}')
        return {}
    labels = list(dict.fromkeys(filter(None, [*rows.values(), *rows])))
    special = {key: value for key, value in search.items() if "." not in str(key) or key in labels}
    for key, value in special.items():
        if key not in labels:
            right = [name for name in labels if name not in wrong]
            known = did_you_mean(str(key), right) or (f"; known: {', '.join(right)}" if right else "")
            faults.append(f'search: "{printable(str(key), 60)}" is no "section.field", and no method or row{known}')
        elif not isinstance(value or {}, Mapping):
            faults.append(f'search.{key}: expected a mapping of "section.field: [values]", got {brief(value)}')
    everywhere = {key: value for key, value in search.items() if key not in special}
    own = {name: special.get(name, special.get(label)) for name, label in rows.items()}
    return {name: {**everywhere, **(it if isinstance(it, Mapping) else {})} for name, it in own.items()}


def _extras(data: Mapping[str, Any], rows: Sequence[Row], over: Point, faults: list[str]) -> list[Row]:
    """Rows that are another one's chosen settings with something changed."""
    out, known = [], {row.name: row for row in rows}
    for number, spec in enumerate(data.get("extra") or ()):
        wanted = {"name", "like", "change"}
        if not isinstance(spec, Mapping) or not wanted <= set(spec) <= {*wanted, "seeds"}:
            faults.append(f"extra[{number}]: expected name, like (a row), change (settings), and seeds if several")
        elif spec["like"] not in known:
            hint = did_you_mean(str(spec["like"]), known) or f"; known: {', '.join(known)}"
            faults.append(f'extra[{number}].like: no row "{spec["like"]}"{hint}')
        else:
            base = known[spec["like"]]
            seeds = seeds_of(f"extra[{number}].seeds", spec.get("seeds", list(base.seeds[:1])), faults)
            change = settings_of(str(spec["name"]), spec["change"] or {}, faults)
            out.append(Row(str(spec["name"]), {**change, **over}, seeds=seeds, like=base.name))
    return out


def _check_names(rows: Sequence[Row], faults: list[str]) -> None:
    """A row's name is its directory's."""
    for row in rows:
        name = row.name
        if name.startswith(".") or "/" in name or "\0" in name or len(os.fsencode(name)) > 100 or name != name.strip():
            faults.append(f'rows: "{printable(name, 60)}" is no name of a directory')
    if twice := [row.name for row in rows if [other.name for other in rows].count(row.name) > 1]:
        faults.append(f'rows: two are called "{printable(twice[0], 60)}"')

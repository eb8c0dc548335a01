"""The leaderboard's plan: what is common, and a row for each contender and task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zofo.config import registry
from zofo.config.json_text import dumps
from zofo.config.layers import brief
from zofo.config.yaml_reader import dump, read_yaml
from zofo.errors import InputError, did_you_mean, printable
from zofo.study.plan import Plan
from zofo.study.plan_read import plan_of

COMMON = Path(__file__).with_name("common.yaml")
FIELDS = ("paper", "settings", "search", "forwards")
FIXED = ("task.", "train.", "model.")  # what a contender leaves to the common plan
BASELINE = "mezo"


@dataclass(frozen=True)
class Contender:
    """forwards: of a step. about: its file's first comment."""

    name: str
    about: str
    paper: str
    settings: Mapping[str, Any]
    search: Mapping[str, Any]
    forwards: float


def contender(place: str) -> Contender:
    """A name of `zofo ls contenders`, or a .yaml file. Raises InputError with a line for each fault."""
    file = place.endswith((".yaml", ".yml")) or "/" in place
    path = Path(place) if file else registry.load("contenders", place)
    content = read_yaml(path, "contender", 'keys such as "settings:"')
    faults = [_unknown(key) for key in content if key not in FIELDS]
    settings, search = content.get("settings"), content.get("search") or {}
    if not isinstance(settings, Mapping) or "method.name" not in settings:
        faults.append("settings: expected a mapping of section.field: value, method.name among them")
    if not isinstance(search, Mapping):
        faults.append(f"search: expected a mapping of section.field: [values], got {brief(search)}")
    for part in (settings, search):
        faults += [_common(key) for key in part or () if isinstance(part, Mapping) and str(key).startswith(FIXED)]
    if not isinstance(content.get("paper"), str) or not content["paper"].strip():
        faults.append("paper: required; what it is from, or where it is described")
    forwards = content.get("forwards", 2)
    if isinstance(forwards, bool) or not isinstance(forwards, (int, float)) or not forwards > 0:
        faults.append(f"forwards: expected the forwards of a step, got {brief(forwards)}")
    if faults:
        raise InputError("\n".join(f"contender {path}: {fault}" for fault in faults))
    about = next((line for line in path.read_text("utf-8").splitlines() if line.startswith("#")), "")
    name = registry.canonical(path.stem)
    paper = content["paper"].strip()
    return Contender(name, about.lstrip("# ").strip() or name, paper, settings or {}, search, float(forwards))


def _unknown(key: object) -> str:
    hint = did_you_mean(str(key), FIELDS) or f"; known: {', '.join(FIELDS)}"
    return f'unknown key "{printable(str(key), 60)}"{hint}'


def _common(key: object) -> str:
    return f"{printable(str(key), 60)}: is alike for all contenders (docs/leaderboard.md)"


def common(reduced: bool = False) -> dict[str, Any]:
    """What all contenders have alike, with the model as it is called there."""
    content = dict(read_yaml(COMMON, "plan"))
    short = content.pop("reduced")
    if reduced:
        content |= {**short, "shared": {**content["shared"], **short["shared"]}}
    return content


@cache
def digest(reduced: bool = False) -> str:
    """SHA-256 of the common plan, without where model and rows are."""
    content = common(reduced)
    content.pop("model")
    return hashlib.sha256(dumps(content, sort_keys=True).encode()).hexdigest()


def plan_for(
    contenders: Sequence[Contender],
    model: str | None = None,
    data: str | None = None,
    reduced: bool = False,
    tasks: Sequence[str] = (),
) -> Plan:
    """A sweep's plan, rows TASK-CONTENDER. model, data: in place of the common one, and of the hub's rows (a directory
    with a folder for each task). tasks: these of the common ones. Raises InputError with a line for each fault."""
    content = common(reduced)
    most, known = content.pop("trials"), content.pop("tasks")
    if model is not None:
        content["model"] = {**content["model"], "name": model}
    if unknown := [task for task in tasks if task not in known]:
        hint = did_you_mean(unknown[0], known) or f"; known: {', '.join(known)}"
        raise InputError(f'--task: "{printable(unknown[0], 60)}"{hint}')
    content["rows"] = {f"{task}-{one.name}": _row(one, task, data) for one in contenders for task in tasks or known}
    plan = plan_of(content, dump(content), Path("leaderboard.yaml"))
    if faults := [
        f"{row.name}: {row.trials} trials, and {most} at most are had" for row in plan.rows if row.trials > most
    ]:
        raise InputError("\n".join(faults))
    return plan


def _row(one: Contender, task: str, data: str | None) -> dict[str, Any]:
    row = {**one.settings, "task.name": task, "forwards": one.forwards}
    if one.search:
        row["search"] = dict(one.search)
    if data is not None:
        places = [Path(data) / name for name in (task, task.replace("-", "_"))]
        found = [place for place in places if place.is_dir()]
        if not found:
            raise InputError(f"--data: {data} has no folder {task}; a directory with one for each task, or --task")
        row["task.data"] = str(found[0])
    return row

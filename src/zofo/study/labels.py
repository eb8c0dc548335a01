"""What a run is called in tables and on pages: its row, as the plan spells it in a study's directory, and in what runs
of one row differ."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config.json_text import read_json
from zofo.errors import InputError
from zofo.study.plan import Plan
from zofo.study.results import Result
from zofo.study.study_dir import FACTS, FORMAT

# What two runs of one row may differ in: the seed, where files are, and what changes no number
NO_ROW = ("train.seed", "train.output_dir", "train.resume", "train.overwrite", "train.threads", "train.report_to")
NO_ROW += ("train.save_steps", "train.save_total_limit", "train.max_replay_seconds", "model.device")
NO_ROW += ("train.score_test",)
OF_TASK = ("task.name", "task.data", "task.train_file", "task.dev_file", "task.test_file")
OF_TASK += ("task.train_examples", "task.dev_examples", "task.test_examples", "task.text_column", "task.label_column")
CHOSEN = "chosen"  # how a trial is marked whose settings dev has chosen, where others stand beside it


@dataclass(frozen=True)
class Place:
    """A run's in a study. row: its directory's name. label: that of its row in a table over tasks. chosen: its settings
    are those that dev has chosen."""

    row: str
    label: str
    chosen: bool


@dataclass(frozen=True)
class Named:
    """row: what a run's row is called. differs: its settings that other runs of that row have otherwise, "lr 0.001".
    place: None outside of a study."""

    row: str
    differs: str = ""
    place: Place | None = None

    @property
    def chosen(self) -> bool:
        return self.place is not None and self.place.chosen

    @property
    def unchosen(self) -> bool:
        """A trial whose test set stays unread, or is not measured yet."""
        return self.place is not None and not self.place.chosen


def label(results: Sequence[Result]) -> dict[Path, str]:
    """{path: its row's name}: see `named`."""
    return {path: one.row for path, one in named(results).items()}


def named(results: Sequence[Result]) -> dict[Path, Named]:
    """{path: name}: in a study the plan's row, else method and adapter; and of runs that share these the settings in
    which they differ. Of a study's row whose other trials are there too, the chosen ones are marked."""
    studies: dict[Path, Mapping[str, Any]] = {}
    places = {run.path: place(run, studies) for run in results}
    groups = defaultdict[tuple[str, bool], list[Result]](list)
    for run in results:
        at = places[run.path]
        plain = " ".join(filter(None, (run.method, run.adapter)))
        groups[at.label if at else plain, at is not None].append(run)
    out = dict[Path, Named]()
    for (name, of_study), group in groups.items():
        keys = differing(group, shared=of_study)
        others = any(at is not None and not at.chosen for at in (places[run.path] for run in group))
        for run in group:
            at = places[run.path]
            words = ", ".join(f"{key.partition('.')[2]} {word(run.settings.get(key))}" for key in keys)
            mark = CHOSEN if of_study and others and at is not None and at.chosen else ""
            extra = ", ".join(filter(None, (words, mark)))
            out[run.path] = Named(f"{name} ({extra})" if extra else name, words, at)
    return out


def place(run: Result, studies: dict[Path, Mapping[str, Any]] | None = None) -> Place | None:
    """Where it is in a study, by its own note or by the directory it lies in; None for any other run. studies: what was
    read of them."""
    study = run.info.get("study") or {}
    if row := study.get("row") or study.get("label"):
        return Place(str(row), str(study.get("label") or row), True)
    if run.path.is_file():
        return None
    folder = Path(os.path.abspath(run.path))  # "." has no name, and a link is what it is called
    known = {} if studies is None else studies
    root = folder.parent.parent
    if root not in known:
        known[root] = _plan(root)
    plan = known[root]
    row = folder.parent.name
    return Place(row, Plan(root.name, (), plan, root, "").label(row), False) if plan else None


def _plan(root: Path) -> Mapping[str, Any]:
    """What a study's plan says; {} where the directory is none."""
    try:
        facts = read_json(root / FACTS) if (root / FACTS).is_file() else {}
    except InputError:  # its runs are whole without it
        return {}
    plan = facts.get("plan")
    return plan if facts.get("format") == FORMAT and isinstance(plan, dict) else {}


def differing(group: Sequence[Result], shared: bool = False) -> list[str]:
    """The settings in which runs differ that are no seed's, place's or task's. A setting that hangs on the task alone
    makes no row. shared: of those that every run has; a kept file of before may lack some."""
    ignored = {*NO_ROW, *OF_TASK}
    keys = dict.fromkeys(key for run in group for key in run.settings if key not in ignored)
    found = []
    for key in keys:
        if shared and not all(key in run.settings for run in group):
            continue
        by_task = defaultdict[str, set[str]](set)
        for run in group:
            by_task[run.task].add(word(run.settings.get(key)))
        if any(len(values) > 1 for values in by_task.values()):
            found.append(key)
    return found


def word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def short(path: Path) -> str:
    """A run in a message: its directory with the one it lies in, which tells a study's rows apart."""
    whole = Path(os.path.abspath(path))
    return f"{whole.parent.name}/{whole.name}"


def find_row(wanted: str, rows: Sequence[str]) -> str | None:
    """The row that is meant: by its name, by that without the mark of the chosen, or by its row of the plan where that
    has one chosen, or one alone. None where there is none, or several."""
    if wanted in rows:
        return wanted
    plain = {row: row.removesuffix(")").removesuffix(CHOSEN).rstrip(", (") for row in rows if _marked(row)}
    for row, without in plain.items():
        if wanted in (without, f"{without})"):
            return row
    of_plan = [row for row in rows if row.startswith(f"{wanted} (")]
    marked = [row for row in of_plan if _marked(row)]
    return next(iter(marked if len(marked) == 1 else of_plan), None) if 1 in (len(marked), len(of_plan)) else None


def _marked(row: str) -> bool:
    return row.endswith((f", {CHOSEN})", f" ({CHOSEN})"))

"""The report of runs: one HTML file that loads nothing, written whole. Every text of data is escaped.

Jinja escapes all that an expression gives but matplotlib's drawings and the package's own style and script, and before
that what steers a screen or cannot be written (control characters, directions of writing, lone surrogates) becomes its
escape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from zofo.errors import InputError, printable
from zofo.models.versions import installed
from zofo.study.labels import Named, named
from zofo.study.meta_tests import MetaTest, is_meta_test, meta_test
from zofo.study.report import facts
from zofo.study.report.compared import compared, in_detail, in_order
from zofo.study.report.curves import of_movement, panels
from zofo.study.report.figures import check_matplotlib, swatch
from zofo.study.report.movement import movement
from zofo.study.report.predictions import Listed, listed
from zofo.study.report.resources import resources
from zofo.study.report.words import clipped, number
from zofo.study.results import Result, read, runs_in
from zofo.train.files import looks_like_run
from zofo.train.ownership import REPORT_MARK

MOST = 2_000_000  # bytes of a page
ROOM = 1_100_000  # of them for predictions, of all runs
OVERLAID = 24  # runs of which settings, curves and phases are shown
LISTED = 8  # runs of which predictions, confusions and movement are shown
SECTIONS = {
    "numbers": "Numbers",
    "again": "Run it again",
    "meta": "Meta-tests",
    "curves": "Curves",
    "movement": "Movement of theta",
    "cost": "Time and memory",
    "confusion": "What is confused",
    "predictions": "Predictions",
}


@dataclass(frozen=True)
class Found:
    """What a report is of. unread: of what was found in a study and cannot be read, why."""

    runs: tuple[Result, ...]
    meta: tuple[MetaTest, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def going(self) -> bool:
        return any(result.ending.kind == "going" for result in self.runs)


def find(paths: Sequence[str | Path]) -> Found:
    """The runs, kept files and meta-tests at these paths, or below them. Raises InputError where one has none."""
    runs, tests, unread = list[Result](), list[MetaTest](), list[str]()
    for path in map(Path, paths):
        if is_meta_test(path):
            tests.append(meta_test(path))
        elif path.is_file() or looks_like_run(path):
            runs.append(read(path))
        else:
            below, folders = runs_in(path), sorted(path.iterdir()) if path.is_dir() else []
            tested = [folder for folder in folders if is_meta_test(folder)]
            if not below and not tested:
                raise InputError(f"{path}: no run in it" if path.is_dir() else f"{path}: no such file or directory")
            tests += [meta_test(folder) for folder in tested]
            for each in below:
                try:
                    runs.append(read(each))
                except InputError as error:
                    unread.append(str(error))
    if not runs and not tests:
        raise InputError(unread[0])
    return Found(tuple(runs), tuple(tests), tuple(unread))


def render(found: Found, title: str | None = None, refresh: int | None = None) -> str:
    """The page. refresh: seconds after which it reads itself again, while a run goes on. Raises InputError where
    matplotlib is missing, or a run's file is damaged."""
    check_matplotlib()
    called = named(found.runs)
    found = replace(found, runs=in_order(found.runs, called))
    names, many, room = facts.short_names(found.runs), OVERLAID, ROOM
    detailed = in_detail(found.runs, called, LISTED)
    content = _content(found, names, title, many) | {"refresh": refresh if found.going else None}
    content |= {"compared": compared(found.runs), "undetailed": len(found.runs) - len(detailed)}
    content |= _detailed(found.runs, names, detailed) | {"runs": _runs(found.runs, names, called)}
    while True:
        content["predictions"] = _predictions(found.runs, names, detailed, room)
        content["sections"] = [(id, name) for id, name in SECTIONS.items() if _there(id, content)]
        page = _template().render(content)
        if len(page.encode()) < MOST or many == 1:
            return page
        room //= 2
        if not content["predictions"]:
            many //= 2
            content |= _content(found, names, title, many)


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def harmless(value: Any) -> Any:
        return printable(value, plain="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(autoescape=True, finalize=harmless, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_own("page.html"))


def _own(name: str) -> str:
    return files("zofo.study.report").joinpath(name).read_text("utf-8")


def _content(found: Found, names: Sequence[str], title: str | None, many: int) -> dict[str, Any]:
    """many: runs that are shown with more than their numbers."""
    from markupsafe import Markup

    runs = found.runs
    drawn = panels(runs[:many], names) if runs else []
    styles = max((len(panel.legend) for panel in drawn), default=0) if len(runs) == 1 else len(runs[:many])
    return {
        "title": title or _title(found, names),
        "mark": Markup(REPORT_MARK),
        "css": Markup(_own("page.css")),
        "script": Markup(_own("page.js")),
        "version": installed("zofo"),
        "several": len(runs) > 1,
        "beyond": max(0, len(runs) - many),
        "measured": [row for name, result in zip(names, runs) for row in facts.measured(result, name)],
        "meta": found.meta,
        "unread": found.unread,
        "panels": drawn,
        "resources": resources(runs[:many], names),
        "swatches": [swatch(style) for style in range(styles)],
        "number": number,
    }


def _detailed(runs: Sequence[Result], names: Sequence[str], numbers: Sequence[int]) -> dict[str, Any]:
    """Movement and confusions. numbers: of the runs that have them on the page."""
    first, shown = [runs[i] for i in numbers], [names[i] for i in numbers]
    moved = [movement(result) for result in first]
    confusions = [(name, facts.confusion(result)) for name, result in zip(shown, first)]
    return {
        "movements": [(name, each) for name, each in zip(shown, moved) if each is not None],
        "moved": of_movement(moved, shown),
        "confusions": [(name, each) for name, each in confusions if each is not None],
    }


def _runs(runs: Sequence[Result], names: Sequence[str], called: Mapping[Path, Named]) -> list[dict[str, Any]]:
    return [_run(name, result, called[result.path]) for name, result in zip(names, runs)]


def _run(name: str, result: Result, called: Named) -> dict[str, Any]:
    status, said = facts.status(result)
    return {
        "name": name,
        "kind": "done" if status == "finished" else "going" if status == "still going" else "odd",
        "status": status,
        "said": said,
        "line": clipped(_line(result) + (f", {called.differs}" if called.differs else ""), 200),
        "chosen": called.chosen,
        "phases": facts.phases(result),
        "facts": facts.what_was_run(result),
        "again": facts.again(result),
    }


def _line(result: Result) -> str:
    adapter = f" with {result.adapter}" if result.adapter else ""
    model = facts.model_of(result)
    return f"{result.method}{adapter} on {result.task}{model and f', {model}'}, seed {result.seed}"


def _title(found: Found, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{len(names)} runs" if names else ", ".join(test.name for test in found.meta)


def _predictions(
    runs: Sequence[Result], names: Sequence[str], numbers: Sequence[int], room: int
) -> list[tuple[str, Listed]]:
    of = [(names[i], runs[i]) for i in numbers if runs[i].rows()]
    if room < 10_000:
        return []
    return [(name, listed(result, room // len(of))) for name, result in of]


def _there(section: str, content: Mapping[str, Any]) -> bool:
    """Whether the page has it."""
    key = {"movement": "movements", "confusion": "confusions", "curves": "panels"}.get(section, section)
    return bool(content["runs"] if section in ("numbers", "cost", "again") else content[key])

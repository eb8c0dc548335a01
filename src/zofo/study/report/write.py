"""Where a report is written, once or again and again while its runs go on; nothing of anybody else is overwritten."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from zofo.config.json_text import read_json
from zofo.errors import InputError
from zofo.study.report.facts import short_names
from zofo.study.report.figures import check_matplotlib
from zofo.study.report.page import Found, find, render
from zofo.study.results import FORMAT, kept
from zofo.train.files import make_directory, write_text
from zofo.train.ownership import REPORT, is_report

EVERY = 5  # seconds between two writings of a page that is watched


def report(paths: Sequence[str | Path], output: str | Path | None = None, title: str | None = None) -> Path:
    """Write the page of runs, studies, kept files and meta-tests. output: the file; `report.html` in the one directory
    that is given, else in the working directory. Raises InputError."""
    target = _target(paths, output)
    _write(target, render(find(paths), title or _title(paths)))
    return target


def watch(
    paths: Sequence[str | Path],
    output: str | Path | None = None,
    title: str | None = None,
    said: Callable[[Path], None] = lambda path: None,
    every: float = EVERY,
) -> Path:
    """`report` again and again until no run goes on any more. said: called after the first time. Raises InputError."""
    target, first = _target(paths, output), True
    while True:
        found = find(paths)
        _write(target, render(found, title or _title(paths), max(1, round(every))))
        if first:
            said(target)
        if not found.going:
            return target
        first = False
        time.sleep(every)


def keep(found: Found, place: Path) -> list[Path]:
    """The small file of each run: `place` where there is one run and the name ends in .json, else in that directory.
    Raises InputError for a run that is not at its end, and where another file is in the way."""
    if place.suffix == ".json" and len(found.runs) != 1:
        raise InputError(f"--keep {place}: one file for {len(found.runs)} runs; give a directory")
    names = [name.replace("/", "-") for name in short_names(found.runs)]
    files = [place] if place.suffix == ".json" else [place / f"{name}.json" for name in names]
    for file in files:
        if file.exists() and not _is_kept(file):
            raise InputError(f"{file}: no file that was kept of a run; move it away, or keep elsewhere")
    for result in found.runs:
        if not result.finished:
            raise InputError(f"{result.path}: the run is not at its end; go on with it (--resume latest)")
    make_directory(files[0].parent)
    return [kept(result, file) for result, file in zip(found.runs, files)]


def _is_kept(file: Path) -> bool:
    try:
        return read_json(file).get("format") == FORMAT
    except InputError:
        return False


def _target(paths: Sequence[str | Path], output: str | Path | None) -> Path:
    """Raises InputError where the page cannot go there."""
    check_matplotlib()
    one = Path(paths[0]) if len(paths) == 1 and Path(paths[0]).is_dir() else Path()
    target = one / REPORT if output is None else Path(output)
    if target.is_dir():
        raise InputError(f"--output {target}: a directory; give a file, such as {target / REPORT}")
    if (target.exists() or target.is_symlink()) and not is_report(target):
        raise InputError(f"{target}: no page of zofo report; move it away, or give another --output")
    return target


def _title(paths: Sequence[str | Path]) -> str | None:
    """The one directory's name."""
    return Path(paths[0]).resolve().name if len(paths) == 1 and Path(paths[0]).is_dir() else None


def _write(target: Path, page: str) -> None:
    make_directory(target.parent)
    write_text(target, page)

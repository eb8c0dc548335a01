"""The files of a task that `zofo data convert` writes: known by their rows, there whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.train.files import delete_tree, make_directory, sync, write_text


def begins_with_a_row(path: Path) -> bool:
    """Whether a file begins with a row as they are written here, and not with somebody's own."""
    try:
        with path.open(encoding="utf-8") as file:
            row = json.loads(file.readline(1_000_000))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(row, dict) and set(row) == {"task", "input", "output", "options"}


def write_task(target: Path, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Beside the target first, then renamed: nobody meets half a task, and the old one is there until then."""
    temporary, aside = _beside(target)
    make_directory(temporary)
    try:
        for name, rows in files.items():
            write_text(temporary / name, "".join(dumps(row, ensure_ascii=False) + "\n" for row in rows))
        if target.exists():
            target.rename(aside)
        try:
            temporary.rename(target)
        except OSError:
            if aside.exists():
                aside.rename(target)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(target.parent)  # the new one is there before the old one goes
    if aside.exists():
        delete_tree(aside)


def _beside(target: Path) -> tuple[Path, Path]:
    """(where a task is written, where the old one waits), free of what a kill left there."""
    temporary, aside = (target.with_name(f".{target.name}.{word}") for word in ("tmp", "old"))
    if aside.exists() and not target.exists():
        aside.rename(target)
    for path in (temporary, aside):
        if path.exists():
            delete_tree(path)
    return temporary, aside

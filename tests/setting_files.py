"""Files of rows and of settings, written and read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

JsonRow = dict[str, Any]


def write_rows(path: Path, rows: Iterable[JsonRow]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[JsonRow]:
    return [json.loads(line) for line in path.open()]


def write_setting(folder: Path, files: Mapping[str, Iterable[JsonRow]], content: Mapping[str, Any]) -> Path:
    """small.yaml, and the directory `data` beside it with these files. Content that is None is left out."""
    for name, rows in files.items():
        write_rows(folder / "data" / name, rows)
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def as_task(setting: Path) -> dict[str, Any]:
    """The setting as arguments of `zofo.meta_test`."""
    return {"task": str(setting), "data": str(setting.parent / "data")}


def task_args(setting: Path) -> list[str]:
    """The setting as options of the command line."""
    return ["--task", str(setting), "--data", str(setting.parent / "data")]

"""Files that are there whole or not at all: a temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.models.sealed import MANIFEST


def write_text(path: Path, text: str) -> None:
    """UTF-8. A reader, or the next start after a kill, sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: Path, data: Any) -> None:
    """As `write_text`."""
    write_text(path, dumps(data, indent=2, sort_keys=True) + "\n")


def looks_like_run(path: Path) -> bool:
    """A directory with a run's files, of which some may be missing."""
    names = ("config.yaml", "run.json", "journal.bin")
    alone = (path / MANIFEST).is_file() and (path / "metrics.jsonl").is_file()
    return alone or any((path / name).is_file() for name in names) or any(path.glob("checkpoint-*/state.json"))


def sync(path: Path) -> None:
    """What was written to a file, or renamed within a directory, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

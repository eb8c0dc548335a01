"""Files that are there whole or not at all: a temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps, read_json
from zofo.errors import InputError

FORMAT = 1
MANIFEST = "manifest.json"


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


def write_tree(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a directory beside `target`, add checksums, bring it to the disk, and rename it into place.

    A process that dies in between leaves a hidden `.tmp` directory, which the next save removes; so does an error.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        paths = sorted(p for p in temporary.rglob("*") if p.is_file())
        sums = {p.relative_to(temporary).as_posix(): sha256_of(p) for p in paths}
        write_json(temporary / MANIFEST, {"format": FORMAT, "sha256": sums})
        for path in paths:
            sync(path)
        for folder in {p.parent for p in paths} | {temporary}:
            sync(folder)
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def verify_tree(directory: Path, fix: str) -> None:
    """Raises InputError naming the file of a `write_tree` that is missing, cut short or changed. fix: what to do."""
    try:
        manifest = read_json(directory / MANIFEST)
        sums: Mapping[str, str] = manifest["sha256"]
        damaged = not isinstance(sums, dict) or not all(isinstance(each, str) for each in sums.values())
    except (InputError, KeyError):
        damaged = True
    if damaged:
        raise InputError(f"{directory / MANIFEST}: missing or damaged; {fix}")
    if manifest.get("format") != FORMAT:
        raise InputError(f"{directory}: format {manifest.get('format')}, this zofo reads {FORMAT}")
    for name, expected in sums.items():
        path = directory / name
        if not path.is_file():
            raise InputError(f"{path}: missing; {fix}")
        if sha256_of(path) != expected:
            raise InputError(f"{path}: its checksum is wrong, the file was cut short or changed; {fix}")


def looks_like_run(path: Path) -> bool:
    """A directory with a run's files, of which some may be missing."""
    names = ("config.yaml", "run.json", "journal.bin")
    alone = (path / MANIFEST).is_file() and (path / "metrics.jsonl").is_file()
    return alone or any((path / name).is_file() for name in names) or any(path.glob("checkpoint-*/state.json"))


def sha256_of(path: Path) -> str:
    """Hexadecimal, of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """What was written to a file, or renamed within a directory, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

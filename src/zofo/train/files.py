"""Files that are there whole or not at all: a temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.models.sealed import MANIFEST


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What the operating system says inside names a file: `path`, where it names none itself.

    A write or an fsync does not, and libraries wrap it in errors of their own: of those an OSError is made.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    except Exception as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            code = int(number.group(1))
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def delete_tree(path: Path) -> None:
    """A directory that is zofo's whole. Raises OSError that names it: the standard library names a file without it."""
    try:
        shutil.rmtree(path)
    except OSError as error:
        inside = Path(error.filename or "")
        error.filename = str(inside if inside.is_absolute() else path / inside)
        raise


def make_directory(path: Path) -> None:
    """With its parents. The new ones are on the disk: a directory whose name is not has lost all that is in it."""
    new = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in new:
        sync(each.parent)


def write_text(path: Path, text: str) -> None:
    """UTF-8. As `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """A reader, or the next start after a kill, sees the old file or the new one. OSErrors name the file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # what went wrong is said, and not that its draft stays
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


MISSING = "{} is missing; put back a copy: no other file has the run's settings"


def sync(path: Path) -> None:
    """What was written to a file, or renamed within a directory, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(handle)
    finally:
        os.close(handle)

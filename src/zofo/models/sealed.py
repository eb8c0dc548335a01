"""Directories with a manifest of their files' checksums: checkpoints, bests, exports. One that was cut is known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zofo.config.json_text import read_json
from zofo.errors import InputError

FORMAT = 1
MANIFEST = "manifest.json"
Sums = Mapping[Path, str]  # {a file that is on the disk: its SHA-256}
EXPORT = "zofo.json"  # what an export says of itself
README = "README.md"
# In a directory that is written anew: new/ and old/ files, and plan.json while they change places
WORK, PLAN = ".zofo-unfinished", "plan.json"
AGAIN = "export the run again"
YOURS = f"{AGAIN}; or, where the change is your own, delete {MANIFEST} and {EXPORT}, and it is opened as any model"


class NotAsWritten(InputError):
    """An export that was cut, or whose files are not those that were written. Its line needs no word before it."""


def sha256_of(path: Path) -> str:
    """Hexadecimal, of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """manifest.json, with "sha256": {file: its checksum}. Raises InputError where it is missing or damaged."""
    content = read_json(directory / MANIFEST)
    sums = content.get("sha256")
    if not isinstance(sums, dict) or not all(isinstance(each, str) for each in sums.values()):
        raise InputError(f"{directory / MANIFEST}: damaged")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in sums):
        raise InputError(f"{directory / MANIFEST}: damaged, it names files elsewhere")
    return content


def verify_tree(directory: Path, fix: str = "", but: Iterable[str] = ()) -> None:
    """Raises InputError naming the file that is missing, cut short or changed. fix: what to do; but: not looked at."""
    after = f"; {fix}" if fix else ""
    try:
        manifest = read_manifest(directory)
    except InputError:
        raise InputError(f"{directory / MANIFEST}: missing or damaged{after}") from None
    if manifest.get("format") != FORMAT:
        raise InputError(f"{directory}: format {manifest.get('format')}, this zofo reads {FORMAT}")
    sums: Mapping[str, str] = manifest["sha256"]
    for name, expected in sums.items():
        path = directory / name
        if name in but:
            continue
        if not path.is_file():
            raise InputError(f"{path}: missing{after}")
        if sha256_of(path) != expected:
            raise InputError(
                f"{path}: its checksum is wrong, the file was cut short or changed, or {MANIFEST} was{after}"
            )


def check_export(directory: Path) -> None:
    """Of an export, or of the backbone in one: raises InputError where its writing was cut, or a file is not as it was
    written. Of anything else nothing is asked. README.md is for people, who may change it."""
    for root in (directory, directory.parent) if directory.name == "backbone" else (directory,):
        if (root / WORK / PLAN).is_file():
            raise NotAsWritten(f"{root}: the writing of this export was cut, so it is none; {AGAIN}")
        if _of_export(root):
            try:
                verify_tree(root, YOURS, (README,))
            except InputError as error:
                raise NotAsWritten(str(error)) from None


def _of_export(root: Path) -> bool:
    """Whether zofo.json or a manifest says so; not of versions whose exports had no checksums."""
    if (root / MANIFEST).is_file():
        if (root / EXPORT).is_file():
            return True
        try:
            return EXPORT in read_manifest(root)["sha256"]
        except InputError:  # somebody else's
            return False
    return (root / EXPORT).is_file() and "inputs" in read_json(root / EXPORT, AGAIN)

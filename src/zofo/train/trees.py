"""Directories that are written whole or not at all; what is in them and is not zofo's stays."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from zofo.config.json_text import read_json
from zofo.errors import InputError
from zofo.models.sealed import FORMAT, MANIFEST, PLAN, README, WORK, Sums, read_manifest, sha256_of
from zofo.train.files import delete_tree, make_directory, naming, sync, write_json

log = logging.getLogger("zofo")
Write = Callable[[Path], Sums | None]  # may return digests of files that it has brought to the disk
# What checkpoints and bests are made of, for one whose manifest is gone
PARTS = ("state.json", "state.safetensors", "trainer_state.json", "backbone/theta.safetensors")
PARTS = (*PARTS, "*/adapter_model.safetensors", "*/adapter_config.json")


def write_tree(target: Path, write: Write, ours: bool = False) -> list[str]:
    """Let `write` fill a directory beside `target`, add checksums, bring it to the disk, and rename it into place.

    A process that dies in between leaves a hidden `.tmp` directory, which the next save removes; so does an error.
    Where `target` is there, what its manifest names is replaced, and what it does not name stays: returns the names of
    that. Raises InputError where such a file is in the way of one that is to be written. ours: it is a checkpoint or
    best of this run, whatever is left of its manifest.
    """
    if target.exists():
        return _replace(target, write, ours)
    temporary = target.with_name(f".{target.name}.tmp")
    _delete(temporary)
    make_directory(temporary)
    try:
        _fill(temporary, write)
        os.rename(temporary, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return []


def _fill(directory: Path, write: Write) -> list[str]:
    """Write the files, the manifest last, and bring them to the disk. Returns their names without the manifest's."""
    with naming(directory):
        done = write(directory) or {}
    paths = sorted(p for p in directory.rglob("*") if p.is_file())
    sums = {p.relative_to(directory).as_posix(): done.get(p) or sha256_of(p) for p in paths}
    write_json(directory / MANIFEST, {"format": FORMAT, "sha256": sums})
    for path in paths:
        if path not in done:
            sync(path)
    for folder in [directory, *(p for p in directory.rglob("*") if p.is_dir())]:
        sync(folder)
    return list(sums)


# ----------------------------------------------------------------------------------------- in a directory that is there


def _replace(target: Path, write: Write, ours: bool) -> list[str]:
    """As `write_tree`. The new files are made in WORK inside `target`, which may be a mount or a link, and change
    places with the old ones, the old manifest first and the new one last: in between there is none."""
    recover(target)
    before, work = names_of(target, parts=ours), target / WORK
    (work / "new").mkdir(parents=True)
    try:
        names = _fill(work / "new", write)
        if README in before:
            keep_edited(target / README, _digests(target, README))
        if blocked := next((name for name in [MANIFEST, *names] if _in_the_way(target, name, before)), None):
            raise InputError(f"{target / blocked}: not zofo's, and in the way of a file that is to be written; move it")
        write_json(work / PLAN, {"before": before, "names": names})
        sync(target)
        for name in before:
            _move(target, work / "old", name)
        sync(target)
        for name in names:
            _move(work / "new", target, name)
        for folder in {(target / name).parent for name in names}:
            sync(folder)
        _move(work / "new", target, MANIFEST)
        sync(target)
    except BaseException:
        with suppress(OSError, InputError):  # a dead disk: the next start goes back, and nobody takes it for whole
            recover(target)
        raise
    _clean(work)
    _remove_empty(target, before)
    return foreign_in(target, [MANIFEST, *names])


def recover(target: Path) -> None:
    """Bring a directory whose writing was cut back to what it was, or forward where all was written but the tidying.

    Raises InputError where the plan of the change is damaged, so that nothing is moved by guess.
    """
    work = target / WORK
    if not work.is_dir() or work.is_symlink():
        return
    if (work / PLAN).is_file() and (work / "new" / MANIFEST).is_file():  # the new manifest is moved last
        plan = read_json(work / PLAN, f"damaged; delete {work} and write {target} anew")
        for name in plan["names"]:
            if not (work / "new" / name).exists():
                _move(target, work / "new", name)
        for name in [*plan["before"][1:], *plan["before"][:1]]:  # its manifest last
            _move(work / "old", target, name)
        _remove_empty(target, plan["names"])
        sync(target)
    _clean(work)


def _clean(work: Path) -> None:
    """The plan first: without it nothing in there is of use."""
    (work / PLAN).unlink(missing_ok=True)
    sync(work)
    delete_tree(work)


def _move(source: Path, target: Path, name: str) -> None:
    """One file, where it is there."""
    if (source / name).exists() or (source / name).is_symlink():
        make_directory((target / name).parent)
        os.replace(source / name, target / name)


def _in_the_way(target: Path, name: str, before: Iterable[str]) -> bool:
    """Whether a file of another's, or a directory, has this name, or a file has a folder's."""
    path = target / name
    folders = [target / parent for parent in Path(name).parents if parent.name]
    if any(f.is_symlink() or (f.exists() and not f.is_dir()) for f in folders):
        return True
    return (path.is_dir() and not path.is_symlink()) or (name not in before and (path.exists() or path.is_symlink()))


# ----------------------------------------------------------------------------------------------------- what zofo wrote


def _digests(directory: Path, name: str) -> list[str] | None:
    """Of a file as zofo wrote it there, by the manifest; None where it has none of zofo's."""
    with suppress(InputError):
        if digest := read_manifest(directory)["sha256"].get(name):
            return [digest]
    return None


def names_of(directory: Path, parts: bool = False) -> list[str]:
    """The files that zofo wrote there by its manifest, which is the first; [] where it has none of zofo's.

    parts: of a checkpoint or best, where its manifest is damaged or gone: what has their names and places.
    """
    with suppress(InputError):
        return [MANIFEST, *read_manifest(directory)["sha256"]]
    if not parts:
        return []
    there = [*directory.glob(MANIFEST), *(path for part in PARTS for path in sorted(directory.glob(part)))]
    return [path.relative_to(directory).as_posix() for path in there]


def keep_edited(path: Path, digests: Sequence[str] | None) -> None:
    """A README.md that somebody has changed is theirs: it gets a name of its own, which is said.

    digests: of what zofo wrote there; None: not known, of a version that kept none.
    """
    if digests is None or path.is_symlink() or not path.is_file() or sha256_of(path) in digests:
        return
    names = (path.with_name(f"{path.stem}.edited{number}{path.suffix}") for number in ("", *range(2, 1000)))
    kept = next(name for name in names if not name.exists() and not name.is_symlink())
    path.rename(kept)
    log.warning("%s: changed since zofo wrote it, and kept as %s", path, kept.name)


def foreign_in(directory: Path, names: Iterable[str]) -> list[str]:
    """The files in a directory that are none of `names`."""
    known, there = set(names), []
    for folder, folders, files in os.walk(directory):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        there += [(Path(folder) / name).relative_to(directory).as_posix() for name in [*files, *links]]
    return sorted(name for name in there if name not in known and Path(name).parts[0] != WORK)


def remove_tree(directory: Path, also: Iterable[str] = ()) -> list[str]:
    """Delete a checkpoint, a best, or a directory that holds some: what zofo wrote, the manifest last.

    also: other files of zofo's there, of a directory that holds some. Returns the names of what is not zofo's, which
    stays.
    """
    folders = [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    inner = [
        p for p in folders if also and ((p / MANIFEST).is_file() or re.fullmatch(r"(checkpoint|best)-\d+", p.name))
    ]
    stays = [f"{path.name}/{name}" for path in sorted(inner) for name in remove_tree(path)]
    _delete(directory / WORK)
    names = names_of(directory, parts=True)
    for name in [*also, *names[1:], *names[:1]]:
        if not any((directory / parent).is_symlink() for parent in Path(name).parents if parent.name):
            path = directory / name
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
    # All that are empty: a kill may have come after the manifest, which named what was in them
    folders = [path for path in directory.rglob("*") if path.is_dir() and not path.is_symlink()]
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        if not any(folder.iterdir()):
            folder.rmdir()
    left = [name for name in foreign_in(directory, ()) if not any(name.startswith(f"{p.name}/") for p in inner)]
    if not any(directory.iterdir()):
        directory.rmdir()
    return [*stays, *left]


def _remove_empty(directory: Path, names: Iterable[str]) -> None:
    """The folders of these files, where nothing is left in them."""
    folders = {directory / parent for name in names for parent in Path(name).parents if parent.name}
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _delete(path: Path) -> None:
    """What has a hidden name of zofo's own."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        delete_tree(path)

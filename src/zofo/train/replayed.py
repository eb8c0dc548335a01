"""What a long replay gave, kept in the user's cache, so that a run is opened again without it.

An entry is a directory, with checksums, whose name is a digest of all that theta follows from: the journal's bytes,
which hold the digests of the initial tensors, and the settings. One that is damaged is deleted, and made anew. The run
itself stays small, and needs no cache; nothing is kept where a replay is about as quick as reading.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from zofo.config.json_text import dumps
from zofo.errors import InputError
from zofo.models.sealed import verify_tree
from zofo.models.versions import installed
from zofo.train.files import make_directory
from zofo.train.trees import write_tree

if TYPE_CHECKING:
    from zofo.config.resolve import Config
    from zofo.zo.point import Point

VARIABLE = "ZOFO_CACHE"
LIMIT = 8 * 2**30  # bytes of all entries: the ones not used for longest give way
LEAST = 64 * 2**20  # bytes of theta below which nothing is kept: that is replayed in no time
READ = 5e8  # bytes a second that an entry is read and checked with: a replay must take twice as long to be kept
log = logging.getLogger("zofo")


def folder() -> Path | None:
    """Where entries are: $ZOFO_CACHE, or zofo/theta in the user's cache directory. None: that is "" or "off"."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return None if given.strip().lower() in ("", "0", "off") else Path(given).expanduser().absolute()
    try:
        base = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "zofo" / "theta"
    except RuntimeError:  # no home
        return None


def kept(root: Path) -> list[Path]:
    """The entries, and drafts that a kill left, the one not used for longest first."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if re.fullmatch(r"\.?[0-9a-f]{64}(-\d+)?(\.tmp)?", path.name)]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def move_theta(theta: Point, config: Config, journal: Path, position: int | None, snapshot: Path) -> None:
    """`checkpoint.move_theta`, whose replay is kept where it took long, and is not done again where one is kept.

    The base weights are checked against the journal in either case. Parts of theta are not kept. Raises InputError as
    it does.
    """
    from zofo.train import checkpoint

    root = folder()
    if root is None or theta.shards.size > 1 or theta.nbytes < LEAST or (snapshot / "backbone").is_dir():
        checkpoint.move_theta(theta, config, journal, position, snapshot)
        return
    try:
        entry = root / _name(config, journal, position)
    except OSError as error:
        raise InputError(f"{journal}: {error.strerror or error}") from error
    if entry.is_dir():
        checkpoint.check_base(theta, journal)
        if _taken(theta, entry):
            return
    begun = time.perf_counter()
    checkpoint.move_theta(theta, config, journal, position, snapshot)
    if (seconds := time.perf_counter() - begun) > 2 * theta.nbytes / READ:
        _keep(theta, entry, seconds)


def _name(config: Config, journal: Path, position: int | None) -> str:
    """Raises OSError."""
    with journal.open("rb") as file:
        digest = hashlib.sha256(file.read(position)).hexdigest()
    parts = {name: getattr(config, name) for name in ("estimator", "rule", "mask")}
    settings = {name: [config.names[name], asdict(part)] for name, part in parts.items() if part is not None}
    told = [digest, settings, config.train.seed, installed("zofo")]
    return hashlib.sha256(dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _taken(theta: Point, entry: Path) -> bool:
    """Whether theta is that of an entry now. Its files are checked before anything is written."""
    from zofo.train import checkpoint

    try:
        verify_tree(entry)
        checkpoint.load_theta_(theta, entry)
        os.utime(entry)
    except (InputError, OSError, ValueError) as error:
        log.info("%s: not used, and deleted: %s", entry, error)
        shutil.rmtree(entry, ignore_errors=True)
        return False
    log.info("theta is read from %s, where its replay was kept", entry)
    return True


def _keep(theta: Point, entry: Path, seconds: float) -> None:
    """What cannot be written is not kept: a full disk or a home that is read only stops nobody from opening a run."""
    from zofo.train import checkpoint

    draft = entry.with_name(f"{entry.name}-{os.getpid()}")
    try:
        if theta.nbytes > LIMIT:
            return
        if not entry.parent.is_dir():
            make_directory(entry.parent)
            entry.parent.chmod(0o700)  # the weights may be of private rows
        _make_room(entry.parent, theta.nbytes)
        if shutil.disk_usage(entry.parent).free < 2 * theta.nbytes:
            return
        write_tree(draft, lambda directory: checkpoint.save_theta(theta, directory))
        os.rename(draft, entry)
    except (InputError, OSError) as error:
        log.info("theta's replay is not kept: %s", error)
        shutil.rmtree(draft, ignore_errors=True)
        return
    log.info(
        "theta's replay took %.0f s and is kept, %.0f MiB in %s; %s=off switches that off, %s=DIR moves it",
        seconds,
        theta.nbytes / 2**20,
        entry.parent,
        VARIABLE,
        VARIABLE,
    )


def _make_room(root: Path, coming: int) -> None:
    entries = kept(root)
    sizes = [sum(path.stat().st_size for path in entry.rglob("*") if path.is_file()) for entry in entries]
    total = sum(sizes) + coming
    for entry, size in zip(entries, sizes, strict=True):
        if total > LIMIT or (not entry.name.isalnum() and time.time() - entry.stat().st_mtime > 86400):
            shutil.rmtree(entry, ignore_errors=True)
            total -= size

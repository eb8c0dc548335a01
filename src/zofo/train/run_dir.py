"""A run's directory. It alone knows the names of a run's files, writes each whole, and remembers what zofo wrote.

manifest.json names every file and directory that zofo wrote there, and holds digests of what the run was made from.
What it does not name is not ours: it is never overwritten, pruned or deleted.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps, read_json
from zofo.config.resolve import Config
from zofo.config.resolve import load as load_config
from zofo.errors import InputError, first_few
from zofo.models.sealed import MANIFEST, README, sha256_of, verify_tree
from zofo.train.files import MISSING, delete_tree, make_directory, naming, sync, write_json, write_text
from zofo.train.lease import NAME as LOCK
from zofo.train.ownership import (
    BEST,
    CHECKPOINT,
    FORMAT,
    SUPERSEDED,
    in_the_way,
    is_numbered,
    legacy,
    read_info,
    read_manifest,
    remove,
    reports,
    say_what_stays,
)
from zofo.train.trees import Write, keep_edited, recover, write_tree

log = logging.getLogger("zofo")


class RunDir:
    """root: the directory; it need not be there yet. Nothing is written before `begin`.

    check: called before anything is written; it raises where the directory is no longer this process's."""

    def __init__(self, root: str | Path, check: Callable[[], None] = lambda: None) -> None:
        self.root, self._check = Path(root), check
        self._manifest: dict[str, Any] | None = None

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def info(self) -> Path:
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def journal(self) -> Path:
        return self.root / "journal.bin"

    def checkpoint(self, count: int) -> Path:
        return self.root / f"{CHECKPOINT}-{count}"

    def best(self, count: int) -> Path:
        return self.root / f"{BEST}-{count}"

    def checkpoints(self) -> list[Path]:
        """Finished checkpoints of this run, oldest first."""
        return self._numbered(CHECKPOINT)

    def bests(self) -> list[Path]:
        return self._numbered(BEST)

    def _numbered(self, kind: str) -> list[Path]:
        named = {path.name for path in self.ours()}
        numbers = [
            int(number)
            for path in self.root.glob(f"{kind}-*")
            if path.name in named and path.is_dir() and (number := path.name.removeprefix(f"{kind}-")).isdigit()
        ]
        return [self.root / f"{kind}-{number}" for number in sorted(numbers)]

    @property
    def finished(self) -> bool:
        return self.info.is_file() and self.config.is_file()

    @property
    def manifest(self) -> dict[str, Any]:
        """{} for a run of a version that kept none, and where there is no run. Raises InputError for a damaged one."""
        if self._manifest is None:
            self._manifest = read_manifest(self.root)
        return self._manifest

    @property
    def id(self) -> str | None:
        """Of the run, so that another one's checkpoint is known; None for a run that has none."""
        return self.manifest.get("id")

    @property
    def inputs(self) -> dict[str, Any]:
        """Digests, see `train.inputs`; {} for a run that kept none."""
        return self.manifest.get("inputs", {})

    def ours(self) -> list[Path]:
        """What zofo wrote here and is still here: files, and directories that are deleted whole."""
        names = self.manifest.get("files")
        paths = legacy(self.root) if names is None else [self.root / name for name in names]
        return [path for path in [*paths, *reports(self.root)] if path.exists() or path.is_symlink()]

    def foreign(self) -> list[Path]:
        """What is in the way of a new run and is not zofo's: it has a name that a run's file would have."""
        return in_the_way(self.root, {*self.ours(), *([self.root / MANIFEST] if self.manifest else [])})

    def clear(self) -> None:
        """Delete what zofo wrote, the manifest last, so that what a kill leaves is still known. What stays is said."""
        keep_edited(self.root / README, self.manifest.get("readme"))
        for path in (ours := self.ours()):
            remove(path)
        if (folder := self.root / "eval").is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        (self.root / MANIFEST).unlink(missing_ok=True)
        self._manifest = None
        if ours:
            say_what_stays(self.root, (LOCK,))

    def sweep(self) -> None:
        """Delete what a kill left of files and directories of ours that were being written or deleted; what is gone
        and still in the manifest is ours no more."""
        self._check()
        for name in self.manifest.get("files", ()):
            path = self.root / name
            left = path.with_name(f".{path.name}.tmp")
            left.unlink(missing_ok=True) if left.is_symlink() or not left.is_dir() else delete_tree(left)
        for aside in self.root.glob(".*.old"):
            name = aside.name.removeprefix(".").removesuffix(".old")
            if name == SUPERSEDED or is_numbered(name):
                self._end_of(aside, self.root / name)
        for path in [*self.checkpoints(), *self.bests()]:
            recover(path)
        drafts = (f.format(path.name) for path in (self.config, self.info) for f in (".{}.new", "..{}.new.tmp"))
        for name in (f".{MANIFEST}.tmp", *drafts):
            (self.root / name).unlink(missing_ok=True)
        there = {path.relative_to(self.root).as_posix() for path in self.ours()}
        self._disclaim([name for name in self.manifest.get("files", ()) if name not in there])

    @property
    def superseded(self) -> Path:
        """What was newer than the checkpoint that a run went back to."""
        return self.root / SUPERSEDED

    def set_aside(self, count: int, used: Path | None) -> list[str]:
        """Before the run goes back to checkpoint `count`: what is newer is moved, and what will be cut is copied.

        used: a best that the checkpoint refers to. Returns the names of what was moved.
        """
        self._check()
        numbered = [*self.checkpoints(), *self.bests()]
        newer = [path for path in numbered if int(path.name.rpartition("-")[2]) > count and path != used]
        if not newer:
            if not any(self.superseded.glob("*-*")):  # killed before anything was moved: nothing is superseded
                self.drop_superseded()
            return []
        taken = [self.superseded / path.name for path in (*newer, self.journal, self.metrics, self.info)]
        if blocked := [path for path in taken if not self._claimed(self.superseded) and path.exists()]:
            raise InputError(
                f"{blocked[0]}: not this run's, and in the way of what is newer than step {count}; move it"
            )
        self.claim(self.superseded).mkdir(exist_ok=True)
        for path in (self.journal, self.metrics):  # copied first: from here on nothing can be lost
            copy = self.superseded / path.name
            if path.is_file() and not copy.exists():
                draft = copy.with_name(f".{path.name}.tmp")
                with naming(draft):
                    shutil.copyfile(path, draft)
                sync(draft)
                draft.rename(copy)
        moved = sorted(newer, key=lambda path: (path.name.startswith(BEST), -int(path.name.rpartition("-")[2])))
        moved = [*([self.info] if self.info.exists() else []), *moved]
        for path in moved:  # the newest first, so that what a kill leaves in place is a line without its end
            if not (self.superseded / path.name).exists():
                path.rename(self.superseded / path.name)
        sync(self.superseded)
        sync(self.root)
        self._disclaim([path.name for path in moved if not path.exists()])
        return [path.name for path in newer]

    def drop_superseded(self) -> None:
        """The new line has a checkpoint."""
        if self.superseded.exists() and self._claimed(self.superseded):
            self.forget(self.superseded)

    def begin(self, inputs: Mapping[str, Any]) -> None:
        """A new run. inputs: digests of what it is made from."""
        make_directory(self.root)
        self._manifest = {"format": FORMAT, "id": uuid.uuid4().hex, "inputs": dict(inputs), "files": []}
        self.keep()

    def keep(self) -> None:
        """Write the manifest as it is now."""
        self._check()
        write_json(self.root / MANIFEST, self.manifest)

    def claim(self, path: Path) -> Path:
        """This file or directory will be zofo's: in the manifest before it is on the disk. Returns the path."""
        if not self._claimed(path):
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise InputError(f"{path}: no run wrote it, and it is in the way of the run's; move it away and go on")
            self.manifest["files"].append(path.relative_to(self.root).as_posix())
            self.keep()
        return path

    def _claimed(self, path: Path) -> bool:
        """Whether it is zofo's already; of a run without a manifest all is."""
        files = self.manifest.get("files")
        return files is None or path.relative_to(self.root).as_posix() in files

    def write_config(self, config: Config) -> None:
        """config.yaml, whose digest the manifest holds; both versions' for as long as either may be there."""
        self._write_known("config", self.config, config.to_yaml())

    def write_info(self, info: Mapping[str, Any]) -> None:
        """run.json, likewise."""
        self._write_known("info", self.info, dumps(info, indent=2, sort_keys=True) + "\n")

    def _write_known(self, key: str, path: Path, text: str) -> None:
        if path.is_file() and path.read_bytes() == text.encode():
            return
        self.claim(path)
        if "files" not in self.manifest:
            write_text(path, text)
            return
        before = [sha256_of(path)] if path.is_file() else []
        write_text(temporary := path.with_name(f".{path.name}.new"), text)
        self.manifest[key] = [*before, sha256_of(temporary)]
        self.keep()
        temporary.replace(path)
        self.manifest[key] = self.manifest[key][-1:]
        self.keep()

    def as_written(self, key: str, path: Path) -> bool:
        """Whether config.yaml ("config") or run.json ("info") is what the run wrote, as far as is known."""
        return key not in self.manifest or sha256_of(path) in self.manifest[key]

    def check_config(self) -> None:
        """Raises InputError where config.yaml is not what the run wrote, as far as is known."""
        if self.config.is_file() and not self.as_written("config", self.config):
            raise InputError(
                f"{self.config}: changed since the run wrote it, or {MANIFEST} was; put it back (a model or data that "
                f"moved is given with --model or --data)"
            )

    def read_config(self) -> Config:
        """Raises InputError where config.yaml is missing, wrong, or not what the run wrote."""
        if not self.config.is_file():
            raise InputError(MISSING.format(self.config))
        self.check_config()
        return load_config(self.config)

    def write(self, name: str, text: str) -> None:
        """A text file, by its name in the run."""
        self._check()
        make_directory((path := self.root / name).parent)
        write_text(self.claim(path), text)

    def write_readme(self, text: str) -> None:
        """README.md, of which an edited one is kept."""
        keep_edited(self.root / README, self.manifest.get("readme"))
        self._write_known("readme", self.root / README, text)

    def write_json(self, name: str, data: Any) -> None:
        self.write(name, dumps(data, indent=2, sort_keys=True) + "\n")

    def write_tree(self, directory: Path, write: Write) -> None:
        """A checkpoint or a best; see `trees.write_tree`."""
        self._check()
        ours = self._claimed(directory)
        if stays := write_tree(self.claim(directory), write, ours):
            log.warning("%s: not zofo's, and left there: %s", directory, first_few(stays))

    def read_info(self) -> dict[str, Any]:
        """run.json. Raises InputError where it is missing or damaged."""
        return read_info(self.info)

    def verify_checkpoint(self, directory: Path) -> None:
        """Raises InputError, with no word of what to do, for a checkpoint that is damaged, or whose best is, which the
        run's end goes back to."""
        verify_tree(directory)
        state = read_json(directory / "state.json")
        best = state.get("best") if state.get("run") == self.id else None  # another run's is refused as that
        if isinstance(best, dict) and isinstance(best.get("count"), int):
            verify_tree(self.best(best["count"]))

    def forget(self, directory: Path) -> None:
        """Delete a checkpoint or a best of ours."""
        self._check()
        aside = directory.with_name(f".{directory.name}.old")  # so that no half of it is ever taken for the whole
        self._end_of(aside, directory)
        if directory.is_symlink():
            directory.unlink()
        else:
            directory.rename(aside)
            self._end_of(aside, directory)
        self._disclaim([directory.name])

    def _end_of(self, aside: Path, directory: Path) -> None:
        """Delete a directory that was put aside; what in it is not zofo's comes back to its place."""
        if aside.is_dir() and remove(aside, directory) and not directory.exists():
            aside.rename(directory)

    def _disclaim(self, names: list[str]) -> None:
        """These are gone, or in a directory of ours."""
        if set(names) & set(files := self.manifest.get("files", [])):
            self.manifest["files"] = [name for name in files if name not in names]
            self.keep()

"""Checkpoints: a directory written beside its place, checksummed, then renamed. No pickle is written or read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zofo.config.instantiate import make_estimator, make_rule
from zofo.config.resolve import Config
from zofo.errors import InputError
from zofo.models.tensors import load_tensors, save_tensors
from zofo.zo.journal import JournalError, read_header, read_records
from zofo.zo.point import Point
from zofo.zo.replay import check_initial, replay

FORMAT = 1
MANIFEST = "manifest.json"


def save_tree(directory: Path, name: str, tree: Mapping[str, Any]) -> None:
    """Write a nested dict as `name`.json, its tensors as `name`.safetensors under their paths."""
    tensors: dict[str, Tensor] = {}

    def strip(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            tensors[path] = node
            return {"__tensor__": path}
        if isinstance(node, Mapping):
            return {str(key): strip(value, f"{path}/{key}" if path else str(key)) for key, value in node.items()}
        return node

    write_json(directory / f"{name}.json", strip(tree, ""))
    save_tensors(tensors, directory / f"{name}.safetensors")


def load_tree(directory: Path, name: str) -> dict[str, Any]:
    tensors = load_tensors(directory / f"{name}.safetensors")

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return tensors[node["__tensor__"]] if "__tensor__" in node else {k: fill(v) for k, v in node.items()}
        return node

    return fill(json.loads((directory / f"{name}.json").read_text()))


def write_json(path: Path, data: Any) -> None:
    """Atomically: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, path)


def save_theta(params: Mapping[str, Tensor], directory: Path) -> None:
    """A snapshot of theta, so that a resume need not replay the whole journal."""
    directory.mkdir(parents=True, exist_ok=True)
    save_tensors(params, directory / "theta.safetensors")


def load_theta_(params: Mapping[str, Tensor], directory: Path) -> None:
    with torch.no_grad():
        for name, value in load_tensors(directory / "theta.safetensors").items():
            params[name].copy_(value)


def write_atomically(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a directory beside `target`, add checksums, bring it to the disk, and rename it into place.

    A process that dies in between leaves a hidden `.tmp` directory, which the next save removes; so does an error.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        sums = {str(p.relative_to(temporary)): _sha256(p) for p in files}
        write_json(temporary / MANIFEST, {"format": FORMAT, "sha256": sums})
        for path in [*files, temporary / MANIFEST]:
            _fsync(path)
        _fsync(temporary)
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
        _fsync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def verify(directory: Path) -> None:
    """Raises InputError naming the file that is missing, cut short or changed."""
    fix = f"delete {directory} to go on from an older checkpoint"
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        sums = manifest["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{directory / MANIFEST}: missing or damaged; {fix}") from error
    if manifest.get("format") != FORMAT:
        raise InputError(f"{directory}: checkpoint format {manifest.get('format')}, this zofo reads {FORMAT}")
    for name, expected in sums.items():
        path = directory / name
        if not path.is_file():
            raise InputError(f"{path}: missing; {fix}")
        if _sha256(path) != expected:
            raise InputError(f"{path}: its checksum is wrong, the file was cut short or changed; {fix}")


def read(directory: Path, name: str) -> dict[str, Any]:
    """`load_tree` of a checkpoint that was verified. Raises InputError instead of a parser's errors."""
    try:
        return load_tree(directory, name)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{directory}: cannot be read: {error}") from error


def checkpoints(root: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    directories = [p for p in root.glob("checkpoint-*") if p.is_dir() and p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(directories, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_theta(theta: Point, config: Config, journal: Path, position: int | None, snapshot: Path) -> None:
    """theta, which holds the base weights, <- theta of the journal's first `position` bytes (None: all of it).

    A snapshot of it in `snapshot`/backbone is taken instead where there is one. Raises InputError where the journal is
    missing, damaged, or another model's.
    """
    if (snapshot / "backbone").is_dir():
        load_theta_(theta, snapshot / "backbone")
        return
    try:
        header, start = read_header(journal)
        check_initial(theta, header, journal)
        replay(theta, make_estimator(config), make_rule(config), read_records(journal, start, position))
    except (JournalError, OSError) as error:
        raise InputError(f"{journal}: {error}") from error

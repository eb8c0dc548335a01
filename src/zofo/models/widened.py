"""Weights in another dtype than their file's, made on the disk a tensor at a time, to be mapped as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from safetensors import safe_open

from zofo.errors import FULL, InputError
from zofo.models import files
from zofo.models.tensors import save_cast

if TYPE_CHECKING:
    from zofo.config.sections import ModelConfig


def make_folder(folder: Path) -> None:
    """Raises InputError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"model.offload_folder: {folder}: {error.strerror}") from error


@contextmanager
def as_loaded(config: ModelConfig, where: str, dtype: torch.dtype) -> Iterator[str]:
    """A directory from which transformers maps the weights in this dtype, without making them in memory: the model's
    own, or one whose weights are a copy in a wider dtype, which is gone afterwards.

    Raises InputError for weights that would be narrowed: what transformers keeps wide of them would be lost.
    """
    directory = Path(where) if Path(where).is_dir() else _fetched(config)
    stored = {kind for path in files.weight_files(directory) for kind in _dtypes(path)}
    if stored <= {dtype}:
        yield str(directory)
        return
    if dtype != torch.float32:
        names = ", ".join(sorted(str(each)[6:] for each in stored))
        raise InputError(
            f"model.offload_folder: the weights of {config.name} are {names}, and {str(dtype)[6:]} would be made of "
            f"them in memory; take model.dtype={names.split(', ')[-1]}, or a copy saved in {str(dtype)[6:]}"
        )
    folder = Path(str(config.offload_folder))
    make_folder(folder)
    _sweep(folder)
    wide = folder / f".zofo-{os.getpid()}-float32"
    try:
        wide.mkdir(exist_ok=True)
        for path in files.weight_files(directory):
            save_cast(path, wide / path.name, dtype)
        for path in directory.iterdir():
            if path.is_file() and not (wide / path.name).exists():
                (wide / path.name).symlink_to(path.resolve())
        yield str(wide)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise InputError(f"model.offload_folder: {folder} has no room for a copy of the weights in float32") from error
    finally:
        shutil.rmtree(wide, ignore_errors=True)  # what is mapped stays until nobody reads it


def _sweep(folder: Path) -> None:
    """What a process that is gone has left, were its number this one's: in a container they are often the same."""
    for path in folder.glob(".zofo-*-float32"):
        number = path.name.split("-")[1]
        if number.isdigit() and (int(number) == os.getpid() or not psutil.pid_exists(int(number))):
            shutil.rmtree(path, ignore_errors=True)


def _fetched(config: ModelConfig) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [
        "*.json",
        "*.safetensors",
        "*.jinja",
        "*.txt",
        "*.model",
        *(["*.py"] if config.trust_remote_code else []),
    ]
    return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=patterns))


def _dtypes(path: Path) -> set[torch.dtype]:
    """Of the floating-point tensors of a file."""
    known = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
    with safe_open(path, "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return {known[kind] for kind in kinds if kind in known}

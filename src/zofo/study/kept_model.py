"""A worker's model, built once: before each further run its weights are read again, into the tensors that are there.

A run puts adapters on the model, moves its weights and changes its flags. Each module's own table of parts is kept and
put back; the weights come from the model's files, so that no second copy of them is held.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from zofo.config.sections import ModelConfig
from zofo.models import files
from zofo.models.backbone import Loaded
from zofo.models.load import load

Load = Callable[[ModelConfig], Loaded]  # what reads a run's model
Stamp = tuple[tuple[str, int, int], ...]
TABLES = (dict, set, list)  # of a module: parameters, buffers, modules, hooks


@dataclass(frozen=True)
class _Kept:
    """loaded, parts, config: as they were. read: a tensor of the model by its name in the files. rest: (what is in no
    file, a copy), as a rotary embedding's frequencies."""

    of: tuple[ModelConfig, Stamp]
    loaded: Loaded
    parts: list[tuple[nn.Module, dict[str, Any]]]
    config: dict[str, Any]
    places: dict[Path, dict[str, Tensor]]
    rest: list[tuple[Tensor, Tensor]]


class KeptModel:
    """In place of `models.load.load`, for runs one after the other: the run before must be at its end."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        self.built = 0  # models

    def __call__(self, config: ModelConfig) -> Loaded:
        """Raises what `load` does."""
        directory = _directory(config)
        of = (config, _stamp(directory))
        if self._kept is None or self._kept.of != of:
            self._kept = None  # before there is another one beside it
            loaded = load(config)
            self.built += 1
            self._kept = None if directory is None else _keep(of, loaded, directory)
            return loaded if self._kept is None else replace(loaded)
        return _as_it_was(self._kept)


def _directory(config: ModelConfig) -> Path | None:
    """Of the model's files; None where they are not on this machine yet."""
    if Path(config.name).is_dir():
        return Path(config.name)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(config.name, files.CONFIG, revision=config.revision)
    return Path(found).parent if isinstance(found, str) else None


def _stamp(directory: Path | None) -> Stamp:
    """A model whose files have changed is another one."""
    names = [] if directory is None else [path for path in sorted(directory.iterdir()) if path.is_file()]
    stats = [(path.name, path.stat()) for path in names]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@torch.no_grad()
def _keep(of: tuple[ModelConfig, Stamp], loaded: Loaded, directory: Path) -> _Kept | None:
    """None where the files do not say, tensor by tensor, what the model has: codes of a quantised one, names and shapes
    that transformers changes on the way."""
    model, places = loaded.model, dict[Path, dict[str, Tensor]]()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    if loaded.frozen or any(tensor.is_meta for tensor in tensors.values()):
        return None
    left, prefix = dict(tensors), f"{model.base_model_prefix}."
    for path in files.weight_files(directory):
        for name in files.shapes_of(path):
            place = next((key for key in (name, prefix + name, name.removeprefix(prefix)) if key in tensors), None)
            if place is not None:
                places.setdefault(path, {})[name] = tensors[place]
                left.pop(place, None)
    if any(isinstance(tensor, nn.Parameter) for tensor in left.values()):
        return None
    for tensor, saved in _saved(places):
        if tensor.shape != saved.shape or not torch.equal(tensor, saved.to(tensor)):
            return None
    parts = [(module, _copied(vars(module))) for module in model.modules()]
    rest = [(tensor, tensor.detach().clone()) for tensor in left.values()]
    return _Kept(of, replace(loaded), parts, copy.deepcopy(vars(model.config)), places, rest)


def _saved(places: dict[Path, dict[str, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """(the model's tensor, what the files have in its place), one after the other."""
    for path, tensors in places.items():
        with safe_open(path, "pt") as file:
            read: Callable[[str], Tensor] = file.get_tensor
            yield from ((tensor, read(name)) for name, tensor in tensors.items())


@torch.no_grad()
def _as_it_was(kept: _Kept) -> Loaded:
    for module, attributes in kept.parts:
        vars(module).clear()
        vars(module).update(_copied(attributes))
    kept.loaded.model.config.__dict__ = copy.deepcopy(kept.config)
    for tensor, before in (*_saved(kept.places), *kept.rest):
        tensor.grad = None
        tensor.requires_grad_(False)
        tensor.copy_(before)
    return replace(kept.loaded)


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Tables of their own, which a change of the module's does not reach."""
    return {name: copy.copy(value) if isinstance(value, TABLES) else value for name, value in attributes.items()}

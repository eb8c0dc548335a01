"""A trained adapter as the start of every copy of a new set: read as PEFT reads it, compared with what PEFT computes.

Nothing is left to the names of settings alone: the new set must give the logits that the given adapter gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zofo.errors import InputError
from zofo.models._transformers import close
from zofo.models.adapters._layers import find
from zofo.models.adapters._open import NAME, open_adapter
from zofo.models.adapters._peft import take_off
from zofo.models.adapters._set import AdapterSet, both, difference, write_adapter
from zofo.models.adapters._soft import SoftModel
from zofo.models.backbone import Loaded
from zofo.models.sealed import Sums


@dataclass(frozen=True)
class Given:
    """A trained adapter. values: fp32, under the names of a set's `parameters`. logits: [1, L, V], what it computes."""

    directory: Path
    values: dict[str, Tensor]
    logits: Tensor


@dataclass(frozen=True)
class Start:
    """What a run's adapters began with: the tensors of an adapter's file, its adapter_config.json, and one digest."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    sha256: str

    @property
    def recorded(self) -> dict[str, Any]:
        """For the run's manifest. Hexadecimal SHA-256, of the weights alone."""
        return {"sha256": self.sha256}

    def save(self, directory: Path, base_model: str) -> Sums:
        """A PEFT directory. Raises OSError."""
        return write_adapter(directory, self.state, self.config, base_model)


def read(directory: Path, loaded: Loaded) -> Given:
    """The adapter in a directory, tried on the model, which is afterwards what it was.

    Raises InputError as `open_adapter` does, and for a prompt or prefix that zofo cannot compute with.
    """
    model, _ = open_adapter(directory, loaded.model, loaded.tokenizer)
    if isinstance(model, SoftModel):
        values = dict(model.adapters[NAME].items())  # pyright: ignore[reportCallIssue]
    elif model.peft_config[NAME].is_prompt_learning:
        raise InputError(f"{directory}: PEFT computes something else with it than zofo; merging is not possible either")
    else:
        values = find(model, (NAME,))[NAME]
    values = {name: value.detach().float().clone() for name, value in values.items()}
    logits = _logits(model)
    if not isinstance(model, SoftModel):
        take_off(model)
    loaded.model.requires_grad_(False)
    return Given(directory, values, logits)


def begin(adapters: AdapterSet, given: Given) -> Start:
    """Every copy of the set <- the given adapter. Raises InputError where it does not fit, or computes otherwise."""
    name, what = adapters.names[0], f"{given.directory}: the adapter does not fit its settings here"
    if wrong := difference(adapters.parameters(name), given.values):
        raise InputError(f"adapter.start: {what} ({wrong}); {both(given.directory, adapters.model.config)}")
    for each in adapters.names:
        adapters.put(each, given.values)
    with adapters.active(name):
        logits = _logits(adapters.model)
    if not close(logits, given.logits):
        raise InputError(
            f"adapter.start: {given.directory}: zofo computes something else with this adapter than PEFT does, so one "
            f"of its settings is none of zofo's; merge it into its model (PEFT's merge_and_unload), and give that as "
            f"--model"
        )
    return Start(adapters.state(name), adapters.config(name), digest(given.values))


def digest(values: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of names, shapes and fp32 values, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(values):
        tensor = values[name].detach().float().cpu().contiguous()
        total.update(f"{name} {list(tensor.shape)}\n".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    ids = torch.arange(1, 4, device=model.device)[None]
    return model(input_ids=ids, use_cache=False).logits[:, -3:].clone()

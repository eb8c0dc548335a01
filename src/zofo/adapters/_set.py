"""AdapterSet: several copies of one adapter on one backbone, by name (p and s; a bank has more).

PEFT's own `set_adapter` rewrites requires_grad of every adapter and costs milliseconds; switching is owned here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from zofo.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


class AdapterSet:
    """The named adapters of a PeftModel whose tuner lives in layers (LoRA and its relatives)."""

    def __init__(self, model: PeftModel, names: Sequence[str]) -> None:
        self.model, self.names = model, tuple(names)
        self._layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
        self._parameters = {name: self._find(name) for name in names}
        for params in self._parameters.values():
            for param in params.values():
                param.requires_grad_(True)  # an adapter that is not active has no part in the graph
        self._activate(self.names[0])

    @property
    def mixes(self) -> bool:
        """Whether the rows of one batch may belong to different adapters (without gradients)."""
        return True

    def _find(self, name: str) -> dict[str, nn.Parameter]:
        marker = f".{name}."
        return {key.replace(marker, "."): param for key, param in self.model.named_parameters() if marker in f"{key}."}

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """{name without the adapter's: parameter}, in a fixed order that is the same for every adapter of the set."""
        return self._parameters[name]

    def size(self, name: str) -> int:
        """d', the number of the adapter's weights."""
        return sum(p.numel() for p in self._parameters[name].values())

    @property
    def current(self) -> str:
        """The active adapter."""
        return self._active

    def _activate(self, name: str) -> None:
        for layer in self._layers:
            layer._active_adapter = [name]  # set_adapter would rewrite requires_grad
        self.model.active_adapter = name
        self._active = name

    @contextmanager
    def active(self, name: str) -> Iterator[None]:
        """The model computes with this adapter inside the context."""
        before = self._active
        self._activate(name)
        try:
            yield
        finally:
            self._activate(before)

    @contextmanager
    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Row i of the next forward uses adapter names[i]. Yields the keyword arguments for that forward.

        Without gradients only. When all rows agree the plain path is taken.
        """
        if len(set(names)) == 1:
            with self.active(names[0]):
                yield {}
        else:
            yield {"adapter_names": list(names)}

    @torch.no_grad()
    def copy(self, src: str, dst: str) -> None:
        """dst's weights <- src's."""
        for key, param in self._parameters[src].items():
            self._parameters[dst][key].copy_(param)

    def state(self, name: str) -> dict[str, Tensor]:
        """The adapter's tensors under PEFT's file keys, on the CPU."""
        state = get_peft_model_state_dict(self.model, adapter_name=name, save_embedding_layers=False)
        return {key: value.detach().cpu().contiguous() for key, value in state.items()}

    def load(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError when the tensors do not fit the adapter."""
        expected = self.state(name)
        if set(expected) != set(state) or any(expected[k].shape != state[k].shape for k in expected):
            raise ValueError("the saved adapter has other tensors than this one: another model, rank or target modules")
        set_peft_model_state_dict(self.model, dict(state), adapter_name=name)

    def save(self, name: str, directory: Path, base_model: str | None = None) -> None:
        """Write a PEFT directory. The same weights give the same bytes (PEFT's own writer orders sets by hash)."""
        directory.mkdir(parents=True, exist_ok=True)
        save_tensors(self.state(name), directory / WEIGHTS)
        config = self.model.peft_config[name].to_dict()
        config["inference_mode"] = True
        if base_model is not None:
            config["base_model_name_or_path"] = base_model
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        (directory / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n")

    def restore(self, name: str, directory: Path) -> None:
        """Load what `save` wrote. Raises OSError or ValueError."""
        self.load(name, load_tensors(directory / WEIGHTS))

"""LayerSet: adapters that live inside the model's layers (LoRA and its relatives), on PEFT.

PEFT's own `set_adapter` rewrites requires_grad of every adapter and costs milliseconds; switching is owned here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from zofo.adapters._set import AdapterSet, peft_apart
from zofo.errors import InputError
from zofo.zo.quantized import is_quantized


class LayerSet(AdapterSet):
    """The named adapters of a PeftModel whose tuner lives in layers."""

    def __init__(self, model: PeftModel, names: Sequence[str], mixes: bool) -> None:
        """mixes: PEFT's layers of this kind take `adapter_names`, an adapter for each row of a batch."""
        self.mixes = mixes
        self._layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
        super().__init__(model, names, {name: _find(model, name) for name in names})

    @classmethod
    def build(cls, model: Any, config: PeftConfig, names: Sequence[str], seed: int, mixes: bool) -> LayerSet:
        """Wrap `model` with one adapter for each name, all equal, drawn from a generator of their own."""
        with peft_apart(model.device, seed):
            wrapped = get_peft_model(model, config, adapter_name=names[0])
            for name in names[1:]:
                wrapped.add_adapter(name, config)
        wrapped.eval()
        adapters = cls(wrapped, names, mixes)  # pyright: ignore[reportArgumentType]
        for name in names[1:]:
            adapters.copy(names[0], name)
        return adapters

    def _activate(self, name: str) -> None:
        for layer in self._layers:
            layer._active_adapter = [name]  # set_adapter would rewrite requires_grad
        self.model.active_adapter = name

    @contextmanager
    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        if len(set(names)) == 1:
            with self.active(names[0]):
                yield {}
        else:
            yield {"adapter_names": list(names)}

    @contextmanager
    def without(self) -> Iterator[None]:
        for layer in self._layers:
            layer._disable_adapters = True  # enable_adapters would rewrite requires_grad
        try:
            yield
        finally:
            for layer in self._layers:
                layer._disable_adapters = False

    def state(self, name: str) -> dict[str, Tensor]:
        state = get_peft_model_state_dict(self.model, adapter_name=name, save_embedding_layers=False)
        return {key: value.detach().cpu().contiguous() for key, value in state.items()}

    def _load(self, name: str, state: dict[str, Tensor]) -> None:
        set_peft_model_state_dict(self.model, state, adapter_name=name)

    def config(self, name: str) -> dict[str, Any]:
        return {**self.model.peft_config[name].to_dict(), "inference_mode": True}

    def deployable(self, name: str) -> Any:
        self._switch(name)
        return self.model

    def merged(self, name: str) -> Any:
        if any(is_quantized(param) for layer in self._layers for param in layer.get_base_layer().parameters()):
            raise InputError(
                "--merge: the adapter's layers are quantised, and rounding them again would lose most of what it "
                "changed; export without --merge"
            )
        self._switch(name)
        return self.model.merge_and_unload()

    def redraw(self, name: str, seed: int) -> None:
        kind = self.model.peft_config[name].peft_type.value.lower()
        if kind != "lora":
            raise InputError(f"method.apart: adapter {kind} starts from ones, nothing is drawn")
        with peft_apart(self.model.device, seed):
            for layer in self._layers:
                layer.reset_lora_parameters(name, True)  # pyright: ignore[reportCallIssue]

    def unwrap(self) -> Any:
        try:
            return self.model.unload()
        except ValueError as error:  # IA3 on 8-bit layers of bitsandbytes
            raise InputError(f"PEFT cannot take this adapter off, so there is no export: {error}") from error


def _find(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    marker = f".{name}."
    named = ((f"{key}.", param) for key, param in model.named_parameters())
    return {key.replace(marker, ".").rstrip("."): param for key, param in named if marker in key}

"""LayerSet: adapters that live inside the model's layers (LoRA and its relatives), on PEFT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from peft import PeftConfig, PeftModel
from torch import Tensor, nn

from zofo.errors import InputError
from zofo.models.adapters._peft import (
    activate,
    disabled,
    mixed,
    peft_apart,
    rows_may_mix,
    shared_weights,
    tuner_layers,
    wrap_layers,
)
from zofo.models.adapters._set import AdapterSet
from zofo.zo.quantized import is_quantized


class LayerSet(AdapterSet):
    """The named adapters of a PeftModel whose tuner lives in layers."""

    def __init__(self, model: PeftModel, names: Sequence[str], mixes: bool) -> None:
        """mixes: PEFT's layers of this kind take `adapter_names`, an adapter for each row of a batch. The model is
        tried, too."""
        self._layers = tuner_layers(model)
        super().__init__(model, names, find(model, names))
        self.mixes = mixes and len(names) > 1 and rows_may_mix(model, self._layers, self._parameters)

    @classmethod
    def build(cls, model: Any, config: PeftConfig, names: Sequence[str], seed: int, mixes: bool) -> LayerSet:
        """Wrap `model` with one adapter for each name, all equal, drawn from a generator of their own."""
        return cls(wrap_layers(model, config, names, seed), names, mixes)

    def _activate(self, name: str) -> None:
        activate(self.model, self._layers, name)

    @contextmanager
    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        if len(set(names)) == 1:
            with self.active(names[0]):
                yield {}
        else:
            with mixed(self._layers, names) as arguments:
                yield arguments

    def without(self) -> AbstractContextManager[None]:
        return disabled(self._layers)

    def state(self, name: str) -> dict[str, Tensor]:
        # the names without the adapter's are those of PEFT's files; its own functions walk the whole model for each
        return {key: param.detach().cpu().contiguous() for key, param in self._parameters[name].items()}

    def _load(self, name: str, state: dict[str, Tensor]) -> None:
        self.put(name, state)

    def config(self, name: str) -> dict[str, Any]:
        return {**self.model.peft_config[name].to_dict(), "inference_mode": True}

    def deployable(self, name: str) -> Any:
        self._switch(name)
        return self.model

    def as_peft(self, name: str) -> Any:
        return self.deployable(name)

    def mergeable(self, name: str) -> str:
        if any(is_quantized(param) for layer in self._layers for param in layer.get_base_layer().parameters()):
            return (
                "the adapter's layers are quantised, and rounding them again would lose most of what it changed; "
                "export with --separate"
            )
        for one, other in shared_weights(self.model):
            return (
                f"{one} is {other}, too (one tensor with two uses), and the adapter changes the first alone; export "
                f"with --separate, or train without {one.split('.')[-2]!r} in adapter.target_modules"
            )
        return ""

    def _merged(self, name: str) -> Any:
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


def find(model: nn.Module, names: Sequence[str]) -> dict[str, dict[str, nn.Parameter]]:
    """{adapter: {name without the adapter's: parameter}}, in one walk."""
    parameters: dict[str, dict[str, nn.Parameter]] = {name: {} for name in names}
    for key, param in model.named_parameters():
        name = next((part for part in key.split(".") if part in parameters), None)
        if name is not None:
            parameters[name][f"{key}.".replace(f".{name}.", ".").rstrip(".")] = param
    return parameters

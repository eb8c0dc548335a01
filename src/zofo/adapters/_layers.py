"""LayerSet: adapters that live inside the model's layers (LoRA and its relatives), on PEFT.

PEFT's own `set_adapter` rewrites requires_grad of every adapter and costs milliseconds; switching is owned here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
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
        super().__init__(model, names, _find(model, names))

    @classmethod
    def build(cls, model: Any, config: PeftConfig, names: Sequence[str], seed: int, mixes: bool) -> LayerSet:
        """Wrap `model` with one adapter for each name, all equal, drawn from a generator of their own."""
        with peft_apart(model.device, seed):
            wrapped: Any = get_peft_model(model, config, adapter_name=names[0])
        for layer in wrapped.modules():
            if isinstance(layer, BaseTunerLayer):
                _twin(layer, names[0], names[1:])
        for name in names[1:]:
            wrapped.peft_config[name] = copy(wrapped.peft_config[names[0]])
        wrapped.eval()
        return cls(wrapped, names, mixes)

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
        # the names without the adapter's are those of PEFT's files; its own functions walk the whole model for each
        return {key: param.detach().cpu().contiguous() for key, param in self._parameters[name].items()}

    def _load(self, name: str, state: dict[str, Tensor]) -> None:
        self.put(name, state)

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


def _twin(layer: Any, first: str, names: Sequence[str]) -> None:
    """Give an adapted layer the adapter `first` under further names: its modules, parameters and settings.

    PEFT's add_adapter does the same in a walk over the whole model for each name, so that the adapters of 40 tasks took
    a minute.
    """
    kept = [*vars(layer).values(), *layer._modules.values(), *layer._parameters.values()]
    for held in kept:
        if isinstance(held, (dict, nn.ModuleDict, nn.ParameterDict)) and first in held:
            for name in names:
                held[name] = deepcopy(held[first])


def _find(model: nn.Module, names: Sequence[str]) -> dict[str, dict[str, nn.Parameter]]:
    """{adapter: {name without the adapter's: parameter}}, in one walk."""
    found: dict[str, dict[str, nn.Parameter]] = {name: {} for name in names}
    for key, param in model.named_parameters():
        own = next((part for part in key.split(".") if part in found), None)
        if own is not None:
            found[own][f"{key}.".replace(f".{own}.", ".").rstrip(".")] = param
    return found

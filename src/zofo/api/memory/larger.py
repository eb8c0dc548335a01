"""What of a model's weights is in memory at once where they are in a file and come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from zofo.models.buffers import COUNT
from zofo.models.offload import layers_of
from zofo.zo.quantized import weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from zofo.api.memory.live import Peak


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model's weights: all, what is in no layer, and the largest layer."""

    total: int
    outside: int
    largest: int

    @property
    def held(self) -> int:
        """In memory at once, where a layer is at a time."""
        return min(self.total, self.outside + COUNT * self.largest)


def sizes_of(settings: PreTrainedConfig, dtype: torch.dtype, trust_remote_code: bool = False) -> Sizes:
    """Of the model that a config.json describes; no weight is read."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=trust_remote_code)
    total = sum(param.numel() * param.element_size() for param in weights(model).values())
    layers = [sum(p.numel() * p.element_size() for p in layer.parameters()) for layer in layers_of(model)]
    return Sizes(total, max(0, total - sum(layers)), max(layers))


def with_layers(peaks: Sequence[Peak], sizes: Sizes) -> tuple[Peak, ...]:
    """The peaks of a run whose weights come and go: of them are there what is held at once."""
    away = sizes.total - sizes.held
    return tuple(replace(peak, parts={**peak.parts, "weights": max(0, peak.parts["weights"] - away)}) for peak in peaks)

"""A model on several devices of one process: where each part is (`model.device_map`), as accelerate's hooks run it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from zofo.errors import InputError

if TYPE_CHECKING:
    from zofo.config.sections import ModelConfig

OFFLOADED = ("cpu", "disk")


def options(config: ModelConfig) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained`. Raises InputError where several processes would each take all devices."""
    if config.device_map is None:
        return {}
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("model.device_map: several devices are one process's; start one, or give parallel.tensor")
    return {"device_map": config.device_map}


def device_of(model: Any) -> torch.device:
    """That of the words' vectors, where a batch goes. Raises InputError for parts that would be read from elsewhere
    each time: accelerate puts them in place of a stand-in, and theta could not be shifted."""
    placed = {str(where) for where in getattr(model, "hf_device_map", {}).values()}
    away = sorted(placed & set(OFFLOADED))
    if away and placed - set(OFFLOADED):
        parts = [part or "all of it" for part, where in model.hf_device_map.items() if str(where) in away]
        raise InputError(
            f"model.device_map: {parts[0]} comes to {away[0]}, from where it would be copied for each forward; give "
            f"devices that hold all of it, or model.device=cpu"
        )
    if "disk" in away:
        raise InputError("model.device_map: weights on the disk cannot be shifted; give devices that hold all of them")
    return model.get_input_embeddings().weight.device

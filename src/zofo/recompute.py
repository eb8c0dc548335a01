"""Gradient checkpointing: a layer keeps its input alone and is computed again for the gradient (non-reentrant)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zofo.errors import InputError


def recompute_layers(model: nn.Module) -> int:
    """Every layer that transformers can checkpoint is, where a gradient is asked for. Returns how many there are.

    transformers' own switch works in training mode alone, in which a model also drops out; these models stay in eval
    mode. Raises InputError for a model without such layers.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"train.gradient_checkpointing: {type(model).__name__} has no layers that can be; leave it off, or make "
            f"train.micro_batch_size smaller"
        )
    for layer in layers:
        layer.forward = _recomputed(layer, layer.forward)
    return len(layers)


def _recomputed(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        inputs = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if torch.is_grad_enabled() and any(t.requires_grad for t in (*inputs, *layer.parameters())):
            # no dropout anywhere, so no random state needs to be kept
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        return forward(*args, **kwargs)  # below the first adapter nothing is kept anyway

    return run

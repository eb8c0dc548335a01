"""Activation checkpointing: what is computed again for the gradient instead of being kept: whole layers
(non-reentrant), and the values of quantised weights."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zofo.errors import InputError
from zofo.zo._torch import is_traceable_wrapper_subclass
from zofo.zo.dtensors import is_part


def checkpoint_layers(model: nn.Module) -> int:
    """Every layer that transformers can checkpoint is, where a gradient is asked for. Returns how many there are.

    transformers' own switch works in training mode alone, in which a model also drops out; these models stay in eval
    mode. Raises InputError for a model without such layers.
    """
    from zofo.models._transformers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"train.gradient_checkpointing: {type(model).__name__} has no layers that can be; leave it off, or make "
            f"train.micro_batch_size smaller"
        )
    for layer in layers:
        layer.forward = _checkpointed(layer, layer.forward)
    return len(layers)


def _checkpointed(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        inputs = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if torch.is_grad_enabled() and any(t.requires_grad for t in (*inputs, *layer.parameters())):
            # no dropout anywhere, so no random state needs to be kept
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        return forward(*args, **kwargs)  # below the first adapter nothing is kept anyway

    return run


def dequantize_in_backward(model: nn.Module) -> int:
    """Linear layers with torchao's weights keep the codes alone for the gradient, and dequantise them again in the
    backward pass. Returns how many there are.

    torchao's own product keeps the values, so that a first-order pass would hold the whole model unquantised.
    """
    layers = [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and is_traceable_wrapper_subclass(w := module.weight)
        and not is_part(w)
        and hasattr(w, "dequantize")
    ]
    for layer in layers:
        layer.forward = MethodType(_lean, layer)  # a method: a copy of the layer has its own
    return len(layers)


def _lean(layer: nn.Linear, input: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and input.requires_grad):
        return nn.Linear.forward(layer, input)
    product: Any = _Product.apply(input, layer.weight)
    return product if layer.bias is None else product + layer.bias


class _Product(torch.autograd.Function):
    """input W' of a frozen quantised W, whose values exist during each pass alone."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Any) -> Tensor:
        ctx.weight = weight
        return F.linear(input, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad @ ctx.weight.dequantize().to(grad.dtype), None

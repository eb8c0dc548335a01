"""All that zofo takes from the inside of torch: what its underscores hide, and nothing else.

`zofo.models.versions` knows the versions that this was tried with; `zofo env` prints them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

__all__ = [
    "TorchDispatchMode",
    "is_traceable_wrapper_subclass",
    "own_buffers",
    "own_parameters",
    "plain_functions",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "wrapper",
]
_LAZY = dict.fromkeys(
    (
        "DataDependentOutputException",
        "DynamicOutputShapeException",
        "FakeTensor",
        "FakeTensorMode",
        "UnsupportedOperatorException",
    ),
    "torch._subclasses.fake_tensor",
) | {"compute_local_shape_and_global_offset": "torch.distributed.tensor._utils"}


def __getattr__(name: str) -> Any:
    """Tensors without values, and where a part of a tensor is, which few need, on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters by attribute, its children's left out: the dict itself, so that one can be replaced.

    `setattr` would refuse a tensor that is no Parameter, as a stand-in is.
    """
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    return module._buffers


def wrapper(cls: type, source: Tensor) -> Any:
    """A tensor of a class with __torch_dispatch__, of source's shape, strides, dtype and device, without memory."""
    return torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
        cls, source.shape, strides=source.stride(), dtype=source.dtype, device=source.device
    )


def plain_functions() -> Any:
    """Context: torch's functions do not ask tensor subclasses what to do (`__torch_function__`)."""
    return torch._C.DisableTorchFunctionSubclass()

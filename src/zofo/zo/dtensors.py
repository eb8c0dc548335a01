"""What zofo knows of torch's distributed tensors: a parameter of which this process holds a part, and who gathers it.

The DTensors of tensor parallelism stay as they are while the model runs: each process reads its own part. Those of
FSDP2 are gathered before their module runs, from the part's memory (`gathering`).
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from zofo.zo import _torch
from zofo.zo.window import Window

PLAIN = (Tensor, nn.Parameter)


def is_part(tensor: Tensor) -> bool:
    """Whether it is a DTensor. The module that has them, which takes long to import, is loaded where one is."""
    module: Any = sys.modules.get("torch.distributed.tensor")
    return type(tensor) not in PLAIN and module is not None and isinstance(tensor, module.DTensor)


def here(tensor: Tensor) -> Tensor:
    """What this process holds of it: its own memory, without a gradient. A plain tensor is all here."""
    part: Any = tensor.detach()
    return part.to_local() if is_part(tensor) else tensor


def window(tensor: Tensor) -> Window | None:
    """Which of its elements are here; None: all. Raises NotImplementedError for what is no range of one dimension."""
    if not is_part(tensor):
        return None
    from torch.distributed.tensor import Shard

    part: Any = tensor
    cut = [placement for placement in part.placements if not placement.is_replicate()]
    if not cut:
        return None
    shape, first = _torch.compute_local_shape_and_global_offset(part.shape, part.device_mesh, part.placements)
    if len(cut) > 1 or type(cut[0]) is not Shard or tuple(shape) != tuple(here(part).shape):
        raise NotImplementedError(f"cut as {', '.join(map(repr, part.placements))}, which is no range of its indices")
    dim = cut[0].dim % part.ndim
    return Window.of(tuple(part.shape), dim, first[dim] if shape[dim] else 0, shape[dim])


def gathering(model: nn.Module) -> list[nn.Module]:
    """The modules whose weights FSDP2 gathers before they are read."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    return [] if fsdp is None else [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]

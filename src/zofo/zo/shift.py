"""theta + eps z without writing theta: every weight is replaced by a stand-in while the model runs (mode `layer`).

A stand-in has the weight's shape and dtype and no memory. When a torch function reads it, the shifted values are made
in scratch for that one call: all of a linear layer's weight (in slabs when it is large), only the rows that an
embedding looks up. Whatever reads the parameter, in its own module's forward or in another's (Mamba's convolution,
DoRA's base weight), meets the stand-in, so nothing has to be restored and theta cannot drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from zofo.zo._torch import is_traceable_wrapper_subclass, plain_functions, tree_flatten, tree_map, wrapper
from zofo.zo.dtensors import here, is_part
from zofo.zo.keys import Address
from zofo.zo.move import Move

# Elements of a linear weight shifted at a time: on a CPU what its cache holds, elsewhere what keeps launches few
SLAB = {"cpu": 1 << 20, "cuda": 1 << 24}

_METADATA = {
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.numel,
    torch.Tensor.stride,
    torch.Tensor.is_floating_point,
    torch.Tensor.is_contiguous,
    torch.Tensor.element_size,
    torch.Tensor.nelement,
    torch.Tensor.is_complex,
    torch.is_floating_point,
    torch.numel,
    torch.is_complex,
}
_METADATA_FIELDS = (
    "shape",
    "dtype",
    "device",
    "ndim",
    "requires_grad",
    "is_cuda",
    "is_meta",
    "layout",
    "is_quantized",
    "is_sparse",
    "is_leaf",
    "grad",
    "nbytes",
    "itemsize",
    "is_cpu",
    "names",
    "is_nested",
)
_METADATA |= {getattr(torch.Tensor, name).__get__ for name in _METADATA_FIELDS if hasattr(torch.Tensor, name)}

# Functions whose result never aliases the weight: these may read it from scratch that the next call overwrites.
_CONSUMERS = {
    F.linear,
    F.layer_norm,
    F.group_norm,
    F.conv1d,
    F.rms_norm,
    torch.addmm,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.mul,
    torch.add,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.Tensor.__rmatmul__,
    torch.Tensor.mul,
    torch.Tensor.__mul__,
    torch.Tensor.__rmul__,
    torch.Tensor.add,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.conv1d,
    torch.layer_norm,
    torch.rms_norm,
    torch.group_norm,
}


class Scratch:
    """One growing buffer per dtype, handed out from the start again at every call."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._used = 0

    def reset(self) -> None:
        self._used = 0

    def take(self, shape: Iterable[int], like: Tensor) -> Tensor:
        """Uninitialised memory [shape] of like's dtype and device, valid until the next `reset`."""
        shape = tuple(shape)
        need = torch.Size(shape).numel()
        key = (like.device, like.dtype)
        buffer = self._buffers.get(key)
        if buffer is None or self._used + need > buffer.numel():
            # A call that outgrows the buffer keeps the old one alive through its views
            buffer = self._buffers[key] = torch.empty(self._used + need, dtype=like.dtype, device=like.device)
        out = buffer[self._used : self._used + need].view(shape)
        self._used += -(-need // 32) * 32
        return out

    @property
    def nbytes(self) -> int:
        return sum(b.numel() * b.element_size() for b in self._buffers.values())


class Shifted(torch.Tensor):
    """A stand-in for one parameter: the parameter's shape and dtype, `move` applied whenever it is read.

    anchor: values of the parameter's shape and dtype, on any device, that stand in its place; None: its own.
    """

    source: Tensor
    at: Address
    move: Move
    scratch: Scratch
    anchor: Tensor | None
    reads: int

    @staticmethod
    def __new__(cls, source: Tensor, at: Address, move: Move, scratch: Scratch) -> Shifted:
        self = wrapper(cls, source)
        self.source, self.at, self.move, self.scratch = source.detach(), at, move, scratch
        self.anchor, self.reads = None, 0
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Shifted(shape={tuple(self.shape)}, dtype={self.dtype})"

    def values(self, out: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """theta + move for the whole tensor, into `out` or fresh memory."""
        out = torch.empty_like(self.source, memory_format=torch.contiguous_format) if out is None else out
        self._fill(out, slice(None), 0)
        return out

    def _fill(self, out: Tensor, rows: slice, lo: int) -> None:
        weight = self.source[rows] if self.source.ndim else self.source
        if self.anchor is None:
            self.move.add(out, weight, self.at, lo)
        else:
            values = (self.anchor[rows] if self.source.ndim else self.anchor).to(weight.device)
            self.move.add(out, values, self.at, lo, gauge=weight)

    def rows(self, out: Tensor, rows: Tensor) -> None:
        """out[i] <- row rows[i] of a table, shifted."""
        gauge = None if self.anchor is None else self.source
        self.move.add_rows(out, self.source if self.anchor is None else self.anchor, rows, self.at, gauge)

    def slab(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of a contiguous shifted matrix, in scratch."""
        part = self.source[start:stop]
        out = self.scratch.take(part.shape, part)
        self._fill(out, slice(start, stop), start * self.source[0].numel())
        return out

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with plain_functions():
            if func in _METADATA:
                return func(*args, **kwargs)
            if func is F.linear:  # nearly all reads, so without a walk through nested arguments
                return _linear(*args, **kwargs)
            for leaf in tree_flatten((args, kwargs))[0]:
                _begin(leaf)
            if func is F.embedding:
                return _embedding(*args, **kwargs)
            args, kwargs = tree_map(_in_scratch if func in _CONSUMERS else in_memory, (args, kwargs))
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Below the Python functions (a C++ op that was handed the stand-in): the values, never the unshifted weight
        args, kwargs = tree_map(in_memory, (args, kwargs or {}))
        return func(*args, **kwargs)


def slab(weight: Tensor, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of a weight, shifted where it is a stand-in. Valid until the next of them is asked for."""
    _begin(weight)
    return weight.slab(start, stop) if isinstance(weight, Shifted) else weight[start:stop]


def in_memory(leaf: Any) -> Any:
    """The values of a stand-in, in fresh memory; anything else as it is."""
    return leaf.values() if isinstance(leaf, Shifted) else leaf


def _in_scratch(leaf: Any) -> Any:
    return leaf.values(leaf.scratch.take(leaf.shape, leaf.source)) if isinstance(leaf, Shifted) else leaf


def _begin(leaf: Any) -> None:
    """Count the read; what earlier reads left in scratch is done with."""
    if isinstance(leaf, Shifted):
        leaf.reads += 1
        leaf.scratch.reset()


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    for leaf in (input, weight, bias):
        _begin(leaf)
    if isinstance(weight, Shifted) and weight.source.numel() > 2 * _slab(weight) and weight.source.is_contiguous():
        return _linear_in_slabs(in_memory(input), weight, bias)
    return F.linear(_in_scratch(input), _in_scratch(weight), _in_scratch(bias))


def _slab(weight: Shifted) -> int:
    return SLAB.get(weight.source.device.type, SLAB["cuda"])


def slabs(total: int, rows: int) -> Iterable[int]:
    """Where each slab of a matrix of `total` rows starts. A prediction of memory, which makes no values, skips some."""
    return range(0, total, rows)


def _linear_in_slabs(input: Tensor, weight: Shifted, bias: Tensor | None = None) -> Tensor:
    rows = max(1, _slab(weight) // weight.shape[1])
    out = input.new_empty(*input.shape[:-1], weight.shape[0])
    bias = in_memory(bias)
    for start in slabs(weight.shape[0], rows):
        stop = min(start + rows, weight.shape[0])
        weight.scratch.reset()
        part = None if bias is None else bias[start:stop]
        out[..., start:stop] = F.linear(input, weight.slab(start, stop), part)
    return out


def _embedding(input: Tensor, weight: Any, padding_idx: int | None = None, *_: Any, **__: Any) -> Tensor:
    """Only the rows looked up are shifted. padding_idx and the renormalisation's options only matter with gradients."""
    if not isinstance(weight, Shifted):
        return F.embedding(in_memory(input), weight)
    rows, place = torch.unique(input, return_inverse=True)
    table = weight.scratch.take((rows.numel(), weight.shape[1]), weight.source)
    weight.rows(table, rows)
    return F.embedding(place, table)


def _wraps(leaf: Tensor) -> bool:
    """Whether it has no memory of its own to be known by: a stand-in, or a quantised weight, no part of theta."""
    return isinstance(leaf, Shifted) or is_traceable_wrapper_subclass(leaf)


class ReadAudit(TorchFunctionMode):
    """Watches a forward for parameters that are read past their stand-ins, through a reference kept elsewhere."""

    def __init__(self, params: dict[str, Tensor]) -> None:
        super().__init__()
        self._names = {p.untyped_storage().data_ptr(): name for name, p in params.items()}
        self.unshifted: set[str] = set()

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_flatten(out)[0]):
            for leaf in tree_flatten((args, kwargs))[0]:
                if isinstance(leaf, Tensor) and (is_part(leaf) or not _wraps(leaf)) and leaf.numel():
                    name = self._names.get(here(leaf).untyped_storage().data_ptr())
                    if name is not None:
                        self.unshifted.add(name)
        return out

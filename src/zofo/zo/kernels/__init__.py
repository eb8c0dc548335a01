"""One contract, several backends: `add` and its kin pick the fastest that has the same bits.

A NaN stays a NaN, but its sign and payload are not part of the contract (`split` makes all of them one).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from zofo.zo.kernels import reference
from zofo.zo.kernels.reference import Band, Item, Terms, Updates, join, split
from zofo.zo.laws import RADEMACHER
from zofo.zo.window import Where, Window

__all__ = [
    "Band",
    "Item",
    "Terms",
    "Updates",
    "add",
    "add_dense",
    "add_dense_split",
    "add_many",
    "add_rows",
    "add_series",
    "add_split",
    "join",
    "noise",
    "split",
    "sum_squares",
]
log = logging.getLogger("zofo")
COMPILED = (torch.float32, torch.bfloat16, torch.float16)


@cache
def _has_triton() -> bool:
    """Triton starts its kernels through a stub that a C compiler makes; without one, plain torch has the same bits."""
    if importlib.util.find_spec("triton") is None:
        return False
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        log.warning("no C compiler for Triton's kernels: directions are made by plain torch, more slowly; set CC")
    return bool(compiler)


def _backend(device: torch.device, dtype: torch.dtype = torch.float32):
    if device.type == "cpu" and dtype in COMPILED:
        from zofo.zo.kernels import cpu  # compiling takes seconds: only when it is used

        return cpu
    if device.type == "cuda" and dtype in COMPILED and _has_triton():
        from zofo.zo.kernels import cuda

        return cuda
    return reference


def _rows(lo: Where, n: int, backend: ModuleType) -> Iterable[tuple[slice, Any]]:
    """(some of n elements, where they are), as a backend takes them: the compiled ones a window at once."""
    return lo.spans(n) if isinstance(lo, Window) and backend is reference else [(slice(0, n), lo)]


def add(
    dst: Tensor,
    src: Tensor,
    terms: Terms,
    key: int,
    lo: Where = 0,
    round_seed: int | None = None,
    law: str = RADEMACHER,
    band: Band | None = None,
) -> None:
    """dst <- round(src + sum_i factor_i z_i): dst and src have one shape and dtype, and may be one tensor.

    terms: (seed of z_i, fp32 factor). key: the tensor's key. lo: the number of src's first element in its tensor, or
    the window of it that src is.
    round_seed: key of the stochastic rounding (bf16, fp16), or None for rounding to nearest.
    law: of the z_i, rademacher or gaussian (a sphere's factors are those of a gaussian, scaled by `Point`).
    band (a, b): only elements with a <= |src| <= b move, compared in fp32; the others, and NaN, are copied.
    """
    if not (dst.is_contiguous() and src.is_contiguous()):
        packed = src.contiguous().clone()
        add(packed, packed, terms, key, lo, round_seed, law, band)
        dst.copy_(packed)
        return
    flat_dst, flat_src = dst.detach().view(-1), src.detach().view(-1)
    backend = _backend(src.device, src.dtype)
    for here, at in _rows(lo, src.numel(), backend):
        backend.add(flat_dst[here], flat_src[here], terms, key, at, round_seed, law, band)


def add_many(items: Sequence[Item], terms: Terms, round_seed: int | None = None, law: str = RADEMACHER) -> None:
    """`add` for every (dst, src, key, band), each a whole tensor; on CUDA in one launch per dtype.

    No tensor may overlap another item's.
    """
    batches: dict[tuple[torch.device, torch.dtype], list[Item]] = {}
    for dst, src, key, band in items:
        if dst.is_contiguous() and src.is_contiguous():
            item = (dst.detach().view(-1), src.detach().view(-1), key, band)
            batches.setdefault((src.device, src.dtype), []).append(item)
        else:
            add(dst, src, terms, key, 0, round_seed, law, band)
    for (device, dtype), batch in batches.items():
        _backend(device, dtype).add_many(batch, terms, round_seed, law)


def add_rows(
    dst: Tensor,
    src: Tensor,
    rows: Tensor,
    terms: Terms,
    key: int,
    round_seed: int | None = None,
    law: str = RADEMACHER,
    band: Band | None = None,
    window: Window | None = None,
) -> None:
    """dst[i] <- round(src[rows[i]] + sum_i factor_i z_i) for a table src [V, D], rows int64 [n], dst [n, D].

    window: which elements of the tensor the table is, where other processes hold the others.
    """
    packed = dst.is_contiguous() and src.is_contiguous() and rows.is_contiguous()
    backend = _backend(src.device, src.dtype) if packed else reference
    backend.add_rows(dst, src.detach(), rows, terms, key, round_seed, law, band, window)


def add_dense(dst: Tensor, src: Tensor, delta: Tensor, key: int, lo: Where = 0, round_seed: int | None = None) -> None:
    """dst <- round(src + delta) for contiguous 1-D dst, src [n] and fp32 delta [n]; the rounding is that of `add`."""
    backend = _backend(src.device, src.dtype)
    for here, at in _rows(lo, src.numel(), backend):
        backend.add_dense(dst.detach()[here], src.detach()[here], delta[here], key, at, round_seed)


def add_split(
    high: Tensor,
    low: Tensor,
    terms: Terms,
    key: int,
    lo: Where = 0,
    law: str = RADEMACHER,
    band: Band | None = None,
) -> None:
    """(high, low) <- split(join(high, low) + sum_i factor_i z_i) in place, in fp32, nothing rounded at random.

    high bf16 and low int16 have one shape; band is of |high|. low = 0 stands for the bf16 weights themselves.
    """
    if high.is_contiguous() and low.is_contiguous():
        backend, flat = _backend(high.device, high.dtype), high.detach().view(-1)
        for here, at in _rows(lo, high.numel(), backend):
            backend.add_split(flat[here], low.view(-1)[here], terms, key, at, law, band)
        return
    planes = high.detach().contiguous().clone(), low.contiguous().clone()
    add_split(*planes, terms, key, lo, law, band)
    high.copy_(planes[0])
    low.copy_(planes[1])


def add_dense_split(high: Tensor, low: Tensor, delta: Tensor) -> None:
    """(high, low) <- split(join(high, low) + delta) in place, for contiguous 1-D planes and fp32 delta, all [n]."""
    _backend(high.device, high.dtype).add_dense_split(high.detach(), low, delta)


def add_series(
    dst: Tensor,
    low: Tensor | None,
    updates: Updates,
    key: int,
    law: str = RADEMACHER,
    band: Band | None = None,
) -> None:
    """A whole tensor moved in place by one update after another: the bits of an `add` for each, or of an `add_split`.

    updates: (terms, round_seed) of each, all with round_seeds or all without. low: the residual plane, or None. On a
    CPU all of them are made of a part of the tensor while it is in the cache.
    """
    compiled = dst.device.type == "cpu" and dst.dtype in COMPILED
    if compiled and dst.is_contiguous() and (low is None or low.is_contiguous()):
        from zofo.zo.kernels import cpu

        cpu.add_series(dst.detach().view(-1), None if low is None else low.view(-1), updates, key, law, band)
        return
    for terms, round_seed in updates:
        if low is None:
            add(dst, dst, terms, key, 0, round_seed, law, band)
        else:
            add_split(dst, low, terms, key, 0, law, band)


def sum_squares(n: int, seed: int, key: int, device: torch.device | str = "cpu") -> int:
    """The sum of q^2 over a tensor of n elements, z = q 2^-12 the gaussian direction of this seed: an exact integer."""
    return _backend(torch.device(device)).sum_squares(n, seed, key, device)


def noise(n: int, seed: int, key: int, lo: Where = 0, device: torch.device | str = "cpu") -> Tensor:
    """int32 [n]: the 16 bits of the stochastic rounding with this seed for elements lo ... of the tensor `key`."""
    if isinstance(lo, Window):
        parts = [noise(here.stop - here.start, seed, key, at, device) for here, at in lo.spans(n)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int32, device=device)
    if torch.device(device).type != "cpu":
        return reference.noise(n, seed, key, lo, device)
    from zofo.zo.kernels import cpu

    return cpu.noise(n, seed, key, lo)

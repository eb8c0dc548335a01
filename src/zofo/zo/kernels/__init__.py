"""One contract, several backends: `add` and `add_rows` pick the fastest that has the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

from zofo.zo.kernels import reference
from zofo.zo.kernels.reference import Terms

COMPILED = (torch.float32, torch.bfloat16, torch.float16)


def _backend(tensor: Tensor):
    if tensor.device.type == "cpu" and tensor.dtype in COMPILED:
        from zofo.zo.kernels import cpu  # compiling takes seconds: only when it is used

        return cpu
    return reference


def add(dst: Tensor, src: Tensor, terms: Terms, key: int, lo: int = 0, round_seed: int | None = None) -> None:
    """dst <- round(src + sum_i factor_i z_i): dst and src have one shape and dtype, and may be one tensor.

    terms: (seed of z_i, fp32 factor). key: the tensor's key. lo: the number of src's first element in its tensor.
    round_seed: key of the stochastic rounding (bf16, fp16), or None for rounding to nearest.
    """
    if not (dst.is_contiguous() and src.is_contiguous()):
        packed = src.contiguous().clone()
        add(packed, packed, terms, key, lo, round_seed)
        dst.copy_(packed)
        return
    _backend(src).add(dst.detach().view(-1), src.detach().view(-1), terms, key, lo, round_seed)


def add_rows(dst: Tensor, src: Tensor, rows: Tensor, terms: Terms, key: int, round_seed: int | None = None) -> None:
    """dst[i] <- round(src[rows[i]] + sum_i factor_i z_i) for a table src [V, D], rows int64 [n], dst [n, D]."""
    backend = _backend(src) if src.is_contiguous() else reference
    backend.add_rows(dst, src.detach(), rows, terms, key, round_seed)

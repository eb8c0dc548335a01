"""One contract, several backends: `add` and its kin pick the fastest that has the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

from zofo.zo.direction import RADEMACHER
from zofo.zo.kernels import reference
from zofo.zo.kernels.reference import Terms

COMPILED = (torch.float32, torch.bfloat16, torch.float16)


def _backend(device: torch.device, dtype: torch.dtype = torch.float32):
    if device.type == "cpu" and dtype in COMPILED:
        from zofo.zo.kernels import cpu  # compiling takes seconds: only when it is used

        return cpu
    return reference


def add(
    dst: Tensor, src: Tensor, terms: Terms, key: int, lo: int = 0, round_seed: int | None = None, law: str = RADEMACHER
) -> None:
    """dst <- round(src + sum_i factor_i z_i): dst and src have one shape and dtype, and may be one tensor.

    terms: (seed of z_i, fp32 factor). key: the tensor's key. lo: the number of src's first element in its tensor.
    round_seed: key of the stochastic rounding (bf16, fp16), or None for rounding to nearest.
    law: of the z_i, rademacher or gaussian (a sphere's factors are those of a gaussian, scaled by `Point`).
    """
    if not (dst.is_contiguous() and src.is_contiguous()):
        packed = src.contiguous().clone()
        add(packed, packed, terms, key, lo, round_seed, law)
        dst.copy_(packed)
        return
    flat_dst, flat_src = dst.detach().view(-1), src.detach().view(-1)
    _backend(src.device, src.dtype).add(flat_dst, flat_src, terms, key, lo, round_seed, law)


def add_rows(
    dst: Tensor, src: Tensor, rows: Tensor, terms: Terms, key: int, round_seed: int | None = None, law: str = RADEMACHER
) -> None:
    """dst[i] <- round(src[rows[i]] + sum_i factor_i z_i) for a table src [V, D], rows int64 [n], dst [n, D]."""
    backend = _backend(src.device, src.dtype) if src.is_contiguous() else reference
    backend.add_rows(dst, src.detach(), rows, terms, key, round_seed, law)


def add_dense(dst: Tensor, src: Tensor, delta: Tensor, key: int, lo: int = 0, round_seed: int | None = None) -> None:
    """dst <- round(src + delta) for contiguous 1-D dst, src [n] and fp32 delta [n]; the rounding is that of `add`."""
    _backend(src.device, src.dtype).add_dense(dst.detach(), src.detach(), delta, key, lo, round_seed)


def sum_squares(n: int, seed: int, key: int, device: torch.device | str = "cpu") -> int:
    """The sum of q^2 over a tensor of n elements, z = q 2^-12 the gaussian direction of this seed: an exact integer."""
    return _backend(torch.device(device)).sum_squares(n, seed, key, device)

"""The kernels' bits on a device: against plain integer arithmetic, case by case, and against one digest of all.

The weights are bit patterns of a Philox stream, so they are the same on every machine, and so must be what is made of
them: `DIGEST` was computed by the reference backend (zo/kernels/reference.py), whose own vectors are docs/journal.md's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from zofo.zo import kernels
from zofo.zo.kernels import reference
from zofo.zo.laws import GAUSSIAN, RADEMACHER

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAWS = (RADEMACHER, GAUSSIAN)
N = 4096 + 37  # elements: beyond a block of every backend, and not a multiple of its groups
TERMS = [(123456789, 1e-3), (2**63 + 5, -0.37)]
DIGEST = "3fc760791e4a007565efe660a6147c17f5448d72f9855e8bfc325c6337edafcf"
Made = Callable[[torch.device], Tensor]


class BitsDiffer(Exception):
    """Two backends, or this machine and the vectors, do not say the same. The message names the case."""


def cases(of: Any = kernels) -> Iterator[tuple[str, Made]]:
    """(the case in words, what makes its result on a device by a backend). of: a module with the kernels' contract."""
    grid = product(DTYPES, LAWS, (None, 99), (None, (0.0, 0.5)), ((0, N), (4096 - 5, N - 3)))
    for dtype, law, rounding, band, (lo, hi) in grid:
        words = f"add, {_name(dtype)}, {law}, rounding {rounding}, band {band}, elements {lo} to {hi}"

        def add(device: torch.device, how=(dtype, law, rounding, band, lo, hi)) -> Tensor:
            dtype, law, rounding, band, lo, hi = how
            src = weights(hi, dtype)[lo:].to(device)
            dst = torch.empty_like(src)
            of.add(dst, src, TERMS, 42, lo, rounding, law, band)
            return dst

        yield words, add
    for dtype, law in product(DTYPES, LAWS):

        def rows(device: torch.device, how=(dtype, law)) -> Tensor:
            dtype, law = how
            table = weights(64 * 96, dtype).view(64, 96).to(device)
            dst = torch.empty(4, 96, dtype=dtype, device=device)
            of.add_rows(dst, table, torch.tensor([3, 0, 63, 17], device=device), TERMS, 7, 5, law)
            return dst

        yield f"rows of a table, {_name(dtype)}, {law}", rows
    for law in LAWS:

        def split(device: torch.device, law=law) -> Tensor:
            high, low = (plane.to(device) for plane in reference.split(weights(N, torch.float32)))
            of.add_split(high, low, TERMS, 11, 0, law)
            return torch.cat([high.view(torch.int16), low])

        yield f"bf16 with a residual plane, {law}", split


def weights(n: int, dtype: torch.dtype) -> Tensor:
    """n numbers of every size and sign, denormal ones and infinities included; on the CPU. A NaN's bits are no part of
    the contract, so 1 stands for it."""
    high, low = (reference.bits(20251130, key, 0, n, 16) for key in (1, 2))
    if dtype.itemsize == 4:
        pattern = (high << 16) | low
        values = torch.where(pattern >= 1 << 31, pattern - (1 << 32), pattern).to(torch.int32).view(dtype)
    else:
        values = torch.where(high >= 1 << 15, high - (1 << 16), high).to(torch.int16).view(dtype)
    return torch.where(values.isnan(), torch.ones_like(values), values)


def check_bits(device: torch.device) -> int:
    """How many cases there are. Raises BitsDiffer at the first that is not equal to the last bit."""
    cpu, whole, count = torch.device("cpu"), hashlib.sha256(), 0
    for (words, made), (_, by_reference) in zip(cases(), cases(reference), strict=True):
        ours, theirs = _bits(made(device)), _bits(by_reference(cpu))
        if not torch.equal(ours, theirs):
            at = int((ours != theirs).nonzero()[0])
            raise BitsDiffer(
                f"{words}: element {at} is {int(ours[at]):x} on {device} and {int(theirs[at]):x} by the rule"
            )
        whole.update(ours.numpy().tobytes())
        count += 1
    sums = kernels.sum_squares(N, 5, 6, device), reference.sum_squares(N, 5, 6)
    if sums[0] != sums[1]:
        raise BitsDiffer(f"sum of squares of a Gaussian direction: {sums[0]} on {device} and {sums[1]} by the rule")
    whole.update(str(sums[0]).encode())
    if whole.hexdigest() != DIGEST:
        raise BitsDiffer(
            f"all cases agree on this machine, but their digest is {whole.hexdigest()} and must be {DIGEST}"
        )
    return count + 1


def _bits(values: Tensor) -> Tensor:
    """int64 bit patterns, on the CPU; every NaN as one."""
    values = values.detach().cpu().flatten()
    if not values.is_floating_point():
        return values.to(torch.int64)
    width = torch.int32 if values.dtype.itemsize == 4 else torch.int16
    return torch.where(values.isnan(), torch.full((), -1), values.view(width).to(torch.int64))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

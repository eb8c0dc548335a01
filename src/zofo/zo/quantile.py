"""Exact order statistics of |w| over tensors of any size: two counts of bit patterns, no sort, in chunks.

The fp32 numbers that are not negative are ordered as their patterns are. A first pass counts the upper 16 of the 31
bits, a second one the lower 15 among those that share the upper bits with the number looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zofo.zo.kernels import COMPILED
from zofo.zo.shards import WHOLE, Shards

CHUNK = 1 << 20
LOW_BITS = 15


def smallest(tensors: Sequence[Tensor], ranks: Sequence[int], shards: Shards = WHOLE) -> list[float]:
    """The ranks-th smallest of all |w| (from 1), as fp32 numbers; a NaN counts as the largest.

    shards: those that have the others of the |w|, beside the tensors that are here.

    Raises ValueError for a rank that is not there.
    """
    (size,) = shards.added([sum(t.numel() for t in tensors)])
    if any(not 1 <= rank <= size for rank in ranks):
        raise ValueError(f"ranks go from 1 to {size}, got {list(ranks)}")
    upper = _sums(tensors, None, shards)
    lower: dict[int, np.ndarray] = {}
    values = []
    for rank in ranks:
        head = int(np.searchsorted(upper, rank))
        if head not in lower:
            lower[head] = _sums(tensors, head, shards)
        before = int(upper[head - 1]) if head else 0
        tail = int(np.searchsorted(lower[head], rank - before))
        values.append(float(np.array([head << LOW_BITS | tail], np.uint32).view(np.float32)[0]))
    return values


def _sums(tensors: Sequence[Tensor], head: int | None, shards: Shards) -> np.ndarray:
    """How many |w| of all tensors have a pattern of `_counts` or a smaller one: int64."""
    counts = sum((_counts(t, head) for t in tensors), np.zeros(1 << (16 if head is None else LOW_BITS), np.int64))
    return np.cumsum(np.array(shards.added(counts.tolist()) if shards.size > 1 else counts, np.int64))


def _counts(tensor: Tensor, head: int | None) -> np.ndarray:
    """How many |w| have each upper pattern, or each lower one behind the upper pattern `head`: int64."""
    flat = tensor.detach().reshape(-1)
    bins = 1 << (16 if head is None else LOW_BITS)
    if flat.device.type == "cpu" and flat.dtype in COMPILED:
        from zofo.zo.kernels.counting import count

        out = np.zeros(bins, np.int64)
        for chunk in flat.split(CHUNK):
            count(chunk.to(torch.float32).view(torch.int32).numpy(), -1 if head is None else head, out)
        return out
    total = torch.zeros(bins, dtype=torch.int64, device=flat.device)
    for chunk in flat.split(CHUNK):
        pattern = chunk.to(torch.float32).view(torch.int32) & 0x7FFFFFFF
        upper = pattern >> LOW_BITS
        part = upper if head is None else (pattern & ((1 << LOW_BITS) - 1))[upper == head]
        total += torch.bincount(part.to(torch.int64), minlength=bins)
    return total.cpu().numpy()


def above(x: float) -> float:
    """The next fp32 number."""
    return float(np.nextafter(np.float32(x), np.float32(np.inf)))

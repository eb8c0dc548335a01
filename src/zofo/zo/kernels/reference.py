"""The definition in plain torch integer arithmetic: the reference for every other backend, and the fallback.

Philox4x32-10 is from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zofo.zo.direction import GROUP_BITS

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF
CHUNK = 1 << 22  # elements: below this the many small integer operations cost more than the memory they save

Terms = Sequence[tuple[int, float]]  # (seed of z_i, fp32 factor of z_i)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10. counter: four int64 tensors of one shape holding 32-bit words. Returns four such tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & LOW, seed >> 32
    for _ in range(10):
        # int64 products wrap, which keeps all 64 bits of the unsigned product
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & LOW) ^ c1 ^ k0, p1 & LOW, ((p0 >> 32) & LOW) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return c0, c1, c2, c3


def bits(seed: int, key: int, lo: int, hi: int, k: int, device: torch.device | str = "cpu") -> Tensor:
    """The k-bit fields of elements [lo, hi) of the tensor with this key. Returns int64 [hi - lo]."""
    per_group = GROUP_BITS // k
    first, last = lo // per_group, -(-hi // per_group)
    counter = torch.arange(first * 32, last * 32, dtype=torch.int64, device=device)
    words = philox(
        (counter, torch.full_like(counter, key & LOW), torch.full_like(counter, key >> 32), torch.zeros_like(counter)),
        seed,
    )
    group = torch.stack([w.view(-1, 32) for w in words], dim=1).view(-1, 1, 128)
    shifts = torch.arange(0, 32, k, device=device).view(1, -1, 1)
    fields = ((group >> shifts) & ((1 << k) - 1)).flatten()
    return fields[lo - first * per_group : hi - first * per_group]


def signs(seed: int, key: int, lo: int, hi: int, device: torch.device | str = "cpu") -> Tensor:
    """Elements [lo, hi) of a Rademacher direction. Returns fp32 [hi - lo] of -1 and +1."""
    return (2 * bits(seed, key, lo, hi, 1, device) - 1).to(torch.float32)


def round_stochastically(x: Tensor, dtype: torch.dtype, noise: Tensor) -> Tensor:
    """fp32 x -> bf16 or fp16, up with probability equal to the part of the last place that is cut off.

    noise: int64 in [0, 2^16), one per element; fp16 uses its upper 13 bits, except below 2^-14, where the spacing is
    2^-24 and all 16 are compared with the fraction. Values that are not finite are converted as torch does.
    """
    pattern = x.view(torch.int32).to(torch.int64) & LOW
    if dtype == torch.bfloat16:
        kept = (pattern + noise) & 0xFFFF0000
    else:
        kept = (pattern + (noise >> 3)) & ~0x1FFF & LOW
    up = torch.where(kept >= 1 << 31, kept - (1 << 32), kept).to(torch.int32).view(torch.float32)
    if dtype == torch.float16:
        scaled = x.abs() * 2.0**24
        whole = scaled.floor()
        tiny = (whole + ((scaled - whole) * 65536 > noise)) * 2.0**-24
        up = torch.where(x.abs() < 2.0**-14, torch.copysign(tiny, x), up)
    return torch.where(torch.isfinite(x), up, x).to(dtype)


def _add_range(dst: Tensor, src: Tensor, terms: Terms, key: int, lo: int, round_seed: int | None) -> None:
    hi = lo + src.numel()
    total: Tensor | None = None
    for seed, factor in terms:
        term = signs(seed, key, lo, hi, src.device) * factor
        total = term if total is None else total + term
    assert total is not None
    wide = src if src.dtype == torch.float64 else src.to(torch.float32)
    moved = wide + total
    if round_seed is not None and dst.dtype in (torch.bfloat16, torch.float16):
        dst.copy_(round_stochastically(moved, dst.dtype, bits(round_seed, key, lo, hi, 16, src.device)))
    else:
        dst.copy_(moved)


def add(dst: Tensor, src: Tensor, terms: Terms, key: int, lo: int = 0, round_seed: int | None = None) -> None:
    """dst <- round(src + sum_i factor_i z_i) for 1-D src, dst [n], elements lo ... lo + n - 1 of the tensor `key`.

    The sum is taken in fp32 in the order of the terms and rounded once to dst's dtype: stochastically with the bits of
    `round_seed`, or to nearest where it is None. dst may be src.
    """
    for start in range(0, src.numel(), CHUNK):
        stop = min(start + CHUNK, src.numel())
        _add_range(dst[start:stop], src[start:stop], terms, key, lo + start, round_seed)


def add_rows(dst: Tensor, src: Tensor, rows: Tensor, terms: Terms, key: int, round_seed: int | None = None) -> None:
    """dst[i] <- round(src[rows[i]] + sum of terms), for a table src [V, D], rows int64 [n], dst [n, D]."""
    width = src.shape[1]
    for i, row in enumerate(rows.tolist()):
        add(dst[i], src[row], terms, key, row * width, round_seed)

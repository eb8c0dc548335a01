"""The definition in plain torch integer arithmetic: the reference for every other backend, and the fallback.

Philox4x32-10 is from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zofo.zo.laws import GAUSSIAN, GROUP_BITS, RADEMACHER, TABLE_ONE, gaussian_table
from zofo.zo.window import Window

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF
NAN = 0x7FC00000  # the NaN of a split
CHUNK = 1 << 22  # elements: below this the many small integer operations cost more than the memory they save

Terms = Sequence[tuple[int, float]]  # (seed of z_i, fp32 factor of z_i)
Updates = Sequence[tuple[Terms, int | None]]  # (terms, round_seed) of each
Band = tuple[float, float]  # fp32 magnitudes (a, b): a weight w moves if a <= |w| <= b
Item = tuple[Tensor, Tensor, int, Band | None]  # (dst, src, key, band) of one tensor


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


def quantiles(seed: int, key: int, lo: int, hi: int, device: torch.device | str = "cpu") -> Tensor:
    """The integers q of elements [lo, hi) of a Gaussian direction, z = q 2^-12. Returns int64 [hi - lo]."""
    table = torch.tensor(gaussian_table(), dtype=torch.int64, device=device)
    return table[bits(seed, key, lo, hi, 16, device) >> 4]


def entries(law: str, seed: int, key: int, lo: int, hi: int, device: torch.device | str = "cpu") -> Tensor:
    """Elements [lo, hi) of a direction; the law is rademacher or gaussian. Returns fp32 [hi - lo], exact numbers."""
    if law == RADEMACHER:
        return signs(seed, key, lo, hi, device)
    if law == GAUSSIAN:
        return quantiles(seed, key, lo, hi, device).to(torch.float32) * (1 / TABLE_ONE)
    raise ValueError(f"the kernels know the laws {RADEMACHER} and {GAUSSIAN}, not {law!r}")


def sum_squares(n: int, seed: int, key: int, device: torch.device | str = "cpu") -> int:
    """The sum of q^2 over a tensor's first n elements of a Gaussian direction, exact."""
    total = 0
    for lo in range(0, n, CHUNK):
        total += int(quantiles(seed, key, lo, min(lo + CHUNK, n), device).square().sum())
    return total


def noise(n: int, seed: int, key: int, lo: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """int32 [n]: 16 bits for each of the elements lo ... lo + n - 1."""
    return bits(seed, key, lo, lo + n, 16, device).to(torch.int32)


def round_stochastically(x: Tensor, dtype: torch.dtype, noise: Tensor) -> Tensor:
    """fp32 x -> bf16 or fp16, up with probability equal to the part of the last place that is cut off.

    noise: int64 in [0, 2^16), one per element; fp16 uses its upper 13 bits, except below 2^-14, where the spacing is
    2^-24 and all 16 are compared with the fraction. Values that are not finite are converted as torch does.
    """
    pattern = x.view(torch.int32).to(torch.int64) & LOW
    if dtype == torch.bfloat16:
        rounded = (pattern + noise) & 0xFFFF0000
    else:
        rounded = (pattern + (noise >> 3)) & ~0x1FFF & LOW
    up = torch.where(rounded >= 1 << 31, rounded - (1 << 32), rounded).to(torch.int32).view(torch.float32)
    if dtype == torch.float16:
        scaled = x.abs() * 2.0**24
        whole = scaled.floor()
        tiny = (whole + ((scaled - whole) * 65536 > noise)) * 2.0**-24
        up = torch.where(x.abs() < 2.0**-14, torch.copysign(tiny, x), up)
    return torch.where(torch.isfinite(x), up, x).to(dtype)


def _store(dst: Tensor, moved: Tensor, key: int, lo: int, round_seed: int | None) -> None:
    if round_seed is not None and dst.dtype in (torch.bfloat16, torch.float16):
        noise = bits(round_seed, key, lo, lo + dst.numel(), 16, dst.device)
        dst.copy_(round_stochastically(moved, dst.dtype, noise))
    else:
        dst.copy_(moved)


def _wide(src: Tensor) -> Tensor:
    return src if src.dtype == torch.float64 else src.to(torch.float32)


def _moved(x: Tensor, gauge: Tensor, terms: Terms, key: int, lo: int, law: str, band: Band | None) -> Tensor:
    """x + sum_i factor_i z_i where |gauge| lies in the band, else x, for elements lo ... of the tensor `key`."""
    total: Tensor | None = None
    for seed, factor in terms:
        # Two operations, each rounded: a fused multiply-add would keep bits of the product that others do not have
        term = entries(law, seed, key, lo, lo + x.numel(), x.device) * factor
        total = term if total is None else total + term
    assert total is not None
    if band is None:
        return x + total
    size = gauge.to(torch.float32).abs()
    least, most = torch.tensor(band, dtype=torch.float32).tolist()
    return torch.where((least <= size) & (size <= most), x + total, x)


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK))


def add(
    dst: Tensor,
    src: Tensor,
    terms: Terms,
    key: int,
    lo: int = 0,
    round_seed: int | None = None,
    law: str = RADEMACHER,
    band: Band | None = None,
) -> None:
    """dst <- round(src + sum_i factor_i z_i) for 1-D src, dst [n], elements lo ... lo + n - 1 of the tensor `key`.

    Each product and the sum are taken in fp32, in the order of the terms, and the result is rounded once to dst's
    dtype: stochastically with the bits of `round_seed`, or to nearest where it is None. dst may be src.
    band (a, b): elements whose fp32 value w in src does not satisfy a <= |w| <= b are copied, as is every NaN.
    """
    for at in _chunks(src.numel()):
        moved = _moved(_wide(src[at]), src[at], terms, key, lo + at.start, law, band)
        _store(dst[at], moved, key, lo + at.start, round_seed)


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
    """dst[i] <- round(src[rows[i]] + sum of terms), for a table src [V, D], rows int64 [n], dst [n, D].

    window: which elements of the tensor the table is, where other processes hold the others.
    """
    width = src.shape[1]
    for i, row in enumerate(rows.tolist()):
        lo = row * width if window is None else window.at(row * width, width)
        assert isinstance(lo, int)  # a row of a window is a part of one of the tensor's
        add(dst[i], src[row], terms, key, lo, round_seed, law, band)


def add_dense(dst: Tensor, src: Tensor, delta: Tensor, key: int, lo: int = 0, round_seed: int | None = None) -> None:
    """dst <- round(src + delta) for 1-D src, dst [n] and fp32 delta [n], rounded as `add` rounds the same fp32 sum."""
    for at in _chunks(src.numel()):
        _store(dst[at], _wide(src[at]) + delta[at], key, lo + at.start, round_seed)


def add_many(items: Sequence[Item], terms: Terms, round_seed: int | None = None, law: str = RADEMACHER) -> None:
    """`add` for every (dst, src, key, band), each a whole tensor."""
    for dst, src, key, band in items:
        add(dst, src, terms, key, 0, round_seed, law, band)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 x -> (high bf16, low int16) of its shape, whose patterns satisfy u = (high << 16) + low (mod 2^32).

    high is x to nearest, ties away from zero, so it is infinite from 2^128 - 2^119 on, where low still tells x.
    Every NaN becomes the one with high 0x7FC0 and low 0.
    """
    u = x.contiguous().view(torch.int32)
    u = torch.where(torch.isnan(x), NAN, u)
    return ((u + 0x8000) >> 16).to(torch.int16).view(torch.bfloat16), (u & 0xFFFF).to(torch.int16)


def join(high: Tensor, low: Tensor) -> Tensor:
    """The fp32 numbers of (high bf16, low int16): `split` undone, exactly, for all numbers and both infinities."""
    return ((high.contiguous().view(torch.int16).to(torch.int32) << 16) + low).view(torch.float32)


def add_split(
    high: Tensor,
    low: Tensor,
    terms: Terms,
    key: int,
    lo: int = 0,
    law: str = RADEMACHER,
    band: Band | None = None,
) -> None:
    """(high, low) <- split(join(high, low) + sum_i factor_i z_i) for 1-D planes [n], in fp32; band is of |high|."""
    for at in _chunks(high.numel()):
        moved = _moved(join(high[at], low[at]), high[at], terms, key, lo + at.start, law, band)
        _store_split(high[at], low[at], moved)


def add_dense_split(high: Tensor, low: Tensor, delta: Tensor) -> None:
    """(high, low) <- split(join(high, low) + delta) for 1-D planes and fp32 delta, all [n]."""
    for at in _chunks(high.numel()):
        _store_split(high[at], low[at], join(high[at], low[at]) + delta[at])


def _store_split(high: Tensor, low: Tensor, moved: Tensor) -> None:
    new_high, new_low = split(moved)
    high.copy_(new_high)
    low.copy_(new_low)

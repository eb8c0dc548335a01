"""The generator, its layout and the rounding once more with Python's ints, and numbers to try them on."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

MASK = 0xFFFFFFFF


def philox_by_hand(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 as in Salmon et al. 2011, section 3.3, word by word."""
    x, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * x[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * x[2], 1 << 32)
        x = [high1 ^ x[1] ^ k[0], low1, high0 ^ x[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % (1 << 32), (k[1] + 0xBB67AE85) % (1 << 32)]
    return x


def field_by_hand(seed: int, key: int, index: int, k: int) -> int:
    """The k bits of element `index` of the tensor `key`, from the docstring of zo/direction.py."""
    group, e = divmod(index, 4096 // k)
    lane, j = divmod(e & 127, 32)
    words = philox_by_hand([32 * group + j, key & MASK, key >> 32, 0], [seed & MASK, seed >> 32])
    return words[lane] >> (k * (e >> 7)) & ((1 << k) - 1)


def magnitudes(dtype: torch.dtype) -> list[Fraction]:
    """The finite numbers >= 0 of a 16-bit type, ascending, and what would be the next one if it had no infinity."""
    patterns = torch.arange(0x8000, dtype=torch.int32).to(torch.int16).view(dtype)
    finite = [Fraction(x) for x in patterns.double().tolist() if x != float("inf") and x == x]
    return [*finite, 2 * finite[-1] - finite[-2]]


def round_by_hand(x: Fraction, grid: list[Fraction], noise: int, dtype: torch.dtype) -> float:
    """Stochastic rounding from docs/journal.md: down or up in magnitude, by 16 bits of noise."""
    size, sign = abs(x), -1 if x < 0 else 1
    if size >= grid[-1]:
        return sign * float("inf")
    low, high = 0, len(grid) - 1  # grid[low] <= size < grid[high]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if grid[middle] <= size else (low, middle)
    part = (size - grid[low]) / (grid[high] - grid[low])
    if dtype == torch.bfloat16:
        up = part * 65536 + noise >= 65536
    elif size >= Fraction(1, 1 << 14):
        up = part * 8192 + (noise >> 3) >= 8192
    else:
        up = noise < part * 65536
    chosen = grid[high] if up else grid[low]
    return sign * (float("inf") if chosen == grid[-1] else float(chosen))


def patterns(n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Half of them any bit pattern (subnormals, inf, NaN and the largest numbers too), half of a weight's size."""
    width, whole = (16, torch.int16) if dtype.itemsize == 2 else (32, torch.int32)
    raw = torch.randint(-(1 << width - 1), 1 << width - 1, (n,), generator=generator).to(whole).view(dtype)
    weights = (torch.randn(n, generator=generator) * 0.05).to(dtype)
    out = torch.where(torch.rand(n, generator=generator) < 0.5, raw, weights)
    special = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), torch.finfo(dtype).max, torch.finfo(dtype).tiny]
    special += [torch.finfo(dtype).smallest_normal / 4, 65504.0, 65519.996, 2.0**-14, 2.0**-25]
    at = torch.randperm(n, generator=generator)[: len(special)]
    out[at] = torch.tensor(special[: len(at)], dtype=torch.float64).to(dtype)
    return out


def bits_of(x: Tensor) -> Tensor:
    """Integers that are equal where the bits are, every NaN made the same one."""
    x = torch.where(torch.isnan(x), torch.full_like(x, float("nan")), x)
    return x.contiguous().view(torch.int16 if x.dtype.itemsize == 2 else torch.int32)


def assert_same_bits(one: Tensor, two: Tensor) -> None:
    assert one.dtype == two.dtype
    wrong = (bits_of(one) != bits_of(two)).nonzero().flatten()
    assert not len(wrong), f"{len(wrong)} elements differ, first {one[wrong[0]]} and {two[wrong[0]]} at {wrong[0]}"

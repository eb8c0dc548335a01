"""Generator, roundings and a rule's stored numbers, from docs/journal.md alone: nothing of zofo is imported here."""

from __future__ import annotations

import hashlib
from statistics import NormalDist

import numpy as np

Array = np.ndarray
_UPPER = [round(4096.6525 * NormalDist().inv_cdf((i + 0.5) / 4096)) for i in range(2048, 4096)]
TABLE: Array = np.array([-x for x in reversed(_UPPER)] + _UPPER)


def key(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def draw(seed: int, tensor: int, n: int, b: int) -> Array:
    """int64 [n]: the b bits of each element."""
    group, e = np.divmod(np.arange(n), 4096 // b)
    lane, j = np.divmod(e % 128, 32)
    low, high = 0xFFFFFFFF, np.uint64(32)
    x = [32 * group + j, np.full(n, tensor & low), np.full(n, tensor >> 32), np.zeros(n)]
    x = [part.astype(np.uint64) for part in x]
    k = [seed & low, seed >> 32]
    for _ in range(10):
        one, two = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        x = [(two >> high) ^ x[1] ^ np.uint64(k[0]), two & np.uint64(low),
             (one >> high) ^ x[3] ^ np.uint64(k[1]), one & np.uint64(low)]  # fmt: skip
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    words = np.stack(x)[lane, np.arange(n)].astype(np.int64)
    return (words >> (b * (e // 128))) & ((1 << b) - 1)


def quantiles(seed: int, tensor: int, n: int) -> Array:
    return TABLE[draw(seed, tensor, n, 16) >> 4]


# ------------------------------------------------------------------------------------------------------------ rounding


def f(x: float) -> np.float32:
    return np.float32(x)


def pattern(x: Array) -> Array:
    return x.astype(np.float32).view(np.uint32).astype(np.int64)


def number(u: Array) -> Array:
    return (u & 0xFFFFFFFF).astype(np.uint32).view(np.float32)


def nearest(x: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        u = pattern(x)
        return number((u + 0x7FFF + (u >> 16 & 1)) & ~0xFFFF)
    return x.astype(np.float16).astype(np.float32) if dtype == "float16" else x


def stochastically(x: Array, dtype: str, noise: Array) -> Array:
    u = pattern(x)
    if dtype == "bfloat16":
        return number((u + noise) & ~0xFFFF)
    if dtype != "float16":
        return x
    large = number((u + (noise >> 3)) & ~0x1FFF)
    m = 2.0**24 * np.abs(x).astype(np.float64)
    whole = np.floor(m)
    small = 2.0**-24 * (whole + (noise < 65536 * (m - whole)))
    return np.where(np.abs(x) >= 2.0**-14, large, np.copysign(small, x)).astype(np.float32)


class Kept:
    """A number for every weight of a tensor, as the rule's `state` stores it."""

    def __init__(self, state: str, n: int, signed: bool) -> None:
        self.state, self.levels, self.signed = state, 127 if signed else 255, signed
        self.values, self.codes = np.zeros(n, np.float32), np.zeros(n, np.int64)
        self.scales = np.zeros(n, np.float32)  # of each number's block

    def write(self, values: Array, moves: Array, noise: Array) -> None:
        values = np.where(moves, values, self.values)
        if self.state == "bfloat16":
            values = np.where(moves, stochastically(values, "bfloat16", noise), self.values)
        if self.state == "8bit":
            values = self._coded(values, moves, noise)
        self.values = values.astype(np.float32)

    def _coded(self, values: Array, moves: Array, noise: Array) -> Array:
        size = np.abs(values)
        blocks = np.arange(len(values)) // 256
        scales = np.array([size[blocks == block].max() for block in blocks], np.float32)
        x = np.divide(size, scales, out=np.zeros_like(size), where=scales > 0)
        least = number(np.array([1017 - self.levels << 20]))
        codes = (pattern(x) + 16 * noise >> 20) - (1016 - self.levels)
        codes = np.where(x >= least, codes, 65536 * (x / least) > noise)
        codes += 128 * ((values < 0) & (codes > 0)) if self.signed else 0
        self.codes, self.scales = np.where(moves | (scales != self.scales), codes, self.codes), scales
        sizes = self.codes % 128 if self.signed else self.codes
        decoded = scales * np.where(sizes > 0, number(1016 - self.levels + sizes << 20), f(0))
        return np.where(self.codes > 127, -decoded, decoded) if self.signed else decoded

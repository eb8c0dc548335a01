"""The definition for one group of 4096 elements in Triton: one program of each kernel in `cuda` moves such a block.

Every draw is written as `reference.bits` writes it: counters [k, 32], words [k, 128], fields [4096]. fp32 numbers and
16-bit weights come as integers of their width, so that the bits do not depend on how a device converts them.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# (Triton gives a kernel other types than its Python text has)

from __future__ import annotations

import triton
import triton.language as tl

GROUP = tl.constexpr(4096)
F32, BF16, FP16, SPLIT = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
SIGNS, GAUSSIAN, DENSE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
MAGNITUDE, INFINITY = tl.constexpr(0x7FFFFFFF), tl.constexpr(0x7F800000)


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 of uint32 tensors."""
    for _ in tl.static_range(10):
        d0, d2 = c0, c2
        c0, c1 = tl.umulhi(d2, tl.full(d2.shape, 0xCD9E8D57, tl.uint32)) ^ c1 ^ k0, d2 * 0xCD9E8D57
        c2, c3 = tl.umulhi(d0, tl.full(d0.shape, 0xD2511F53, tl.uint32)) ^ c3 ^ k1, d0 * 0xD2511F53
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def draw(seed_low, seed_high, key_low, key_high, group, BITS: tl.constexpr):
    """The BITS-bit fields of elements 4096 group ... 4096 group + 4095. Returns uint32 [4096]."""
    c0 = (group * (32 * BITS) + tl.arange(0, 32 * BITS)).to(tl.uint32)
    zero = tl.zeros([32 * BITS], tl.uint32)
    c0, c1, c2, c3 = _philox(c0, zero + key_low, zero + key_high, zero, zero + seed_low, zero + seed_high)
    lanes_last = tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), [BITS, 32, 4])
    words = tl.reshape(tl.permute(lanes_last, (0, 2, 1)), [BITS, 1, 128])
    shifts = tl.reshape(tl.arange(0, 32 // BITS) * BITS, [1, 32 // BITS, 1]).to(tl.uint32)
    return tl.reshape((words >> shifts) & ((1 << BITS) - 1), [GROUP])


@triton.jit
def _sum_terms(terms, count, table, key_low, key_high, group, LAW: tl.constexpr):
    """sum_i factor_i z_i, fp32 [4096]. terms: int32 [count, 3], the halves of the seed and the pattern of factor."""
    total = tl.full([GROUP], -0x80000000, tl.int32).to(tl.float32, bitcast=True)  # -0, which leaves a first term as is
    for i in range(count):
        seed_low = tl.load(terms + 3 * i).to(tl.uint32, bitcast=True)
        seed_high = tl.load(terms + 3 * i + 1).to(tl.uint32, bitcast=True)
        factor = tl.load(terms + 3 * i + 2).to(tl.float32, bitcast=True)
        if LAW == SIGNS:
            bit = draw(seed_low, seed_high, key_low, key_high, group, 1)
            total += tl.where(bit != 0, factor, -factor)
        else:
            field = draw(seed_low, seed_high, key_low, key_high, group, 16)
            total += tl.load(table + (field >> 4).to(tl.int32)) * factor
    return total


@triton.jit
def _widen(raw, KIND: tl.constexpr):
    """The fp32 numbers of int32 or int16 patterns, exact."""
    if KIND == F32:
        x = raw.to(tl.float32, bitcast=True)
    elif KIND == FP16:
        x = raw.to(tl.float16, bitcast=True).to(tl.float32)
    else:
        x = (raw.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return x


@triton.jit
def _round_bf16(x, noise, STOCHASTIC: tl.constexpr):
    """The bf16 patterns, int16, of fp32 x: up by the noise (uint32 [4096]), or to nearest even."""
    u = x.to(tl.uint32, bitcast=True)
    add = noise if STOCHASTIC else ((u >> 16) & 1) + 0x7FFF
    return tl.where((u & MAGNITUDE) > INFINITY, (u >> 16) | 0x40, (u + add) >> 16).to(tl.int16)


@triton.jit
def _round_fp16(x, noise):
    """The fp16 patterns, int16, of fp32 x, up by the noise. Below 2^-14 they are the multiples of 2^-24."""
    u = x.to(tl.uint32, bitcast=True)
    size = u & MAGNITUDE
    normal = tl.minimum((size + (noise >> 3) - 0x38000000) >> 13, 0x7C00)
    is_tiny = size < 0x38800000
    scaled = tl.where(is_tiny, tl.abs(x), 0.0) * 16777216.0
    whole = scaled.to(tl.int32)
    up = (scaled - whole.to(tl.float32)) * 65536.0 > noise.to(tl.int32).to(tl.float32)
    tiny = (whole + up.to(tl.int32)).to(tl.uint32)
    rounded = tl.where(is_tiny, tiny, tl.where(size > INFINITY, 0x7E00, normal))
    return (((u >> 16) & 0x8000) | rounded).to(tl.int16)


@triton.jit
def move_block(
    dst, src, low, delta, n, base, group, key_low, key_high, terms, count, table, round_low, round_high, least, most,
    KIND: tl.constexpr, LAW: tl.constexpr, STOCHASTIC: tl.constexpr, BAND: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip  # values of a launch, then constants of a compilation
    """dst <- round(src + move) for the elements of a group that lie in a tensor or slice of n; base: its first one.

    MASKED: the group may reach over the ends of the n elements.
    """
    e = tl.arange(0, GROUP)
    inside = (e >= -base) & (e < n - base) if MASKED else None
    raw = tl.load(src + base + e, mask=inside)
    x = _widen(raw, KIND)
    size = tl.abs(x)  # in a split, of the high plane
    if KIND == SPLIT:
        plane = tl.load(low + base + e, mask=inside)
        x = ((raw.to(tl.int32) << 16) + plane.to(tl.int32)).to(tl.float32, bitcast=True)
    if LAW == DENSE:
        total = tl.load(delta + base + e, mask=inside)
    else:
        total = _sum_terms(terms, count, table, key_low, key_high, group, LAW)
    moved = x + total
    if BAND:
        moved = tl.where((size >= least) & (size <= most), moved, x)
    if KIND == F32:
        tl.store(dst + base + e, moved.to(tl.int32, bitcast=True), mask=inside)
    elif KIND == SPLIT:
        u = tl.where(moved != moved, 0x7FC00000, moved.to(tl.int32, bitcast=True))
        tl.store(dst + base + e, ((u + 0x8000) >> 16).to(tl.int16), mask=inside)
        tl.store(low + base + e, u.to(tl.int16), mask=inside)
    else:
        noise = draw(round_low, round_high, key_low, key_high, group, 16) if STOCHASTIC else 0
        if KIND == BF16:
            rounded = _round_bf16(moved, noise, STOCHASTIC)
        elif STOCHASTIC:
            rounded = _round_fp16(moved, noise)
        else:
            rounded = moved.to(tl.float16).to(tl.int16, bitcast=True)
        tl.store(dst + base + e, rounded, mask=inside)

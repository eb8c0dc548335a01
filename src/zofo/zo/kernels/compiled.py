"""What numba compiles for `cpu`: loops over parts of a tensor that LLVM turns into vector instructions.

Every step is a loop of its own over a buffer that stays in the first cache: widen to fp32, add, round. A buffer is read
as fp32 numbers and as their patterns through two views. All compiled code is in this one file, because numba's cache on
disk does not notice that another file has changed.

Arguments that go through all functions:

    dst, src   [n] patterns or fp32, elements lo ... lo + n - 1 of the tensor `key`
    low        [n] int16, the residual plane of kind SPLIT, of which dst = src is the bf16 plane; otherwise empty
    seeds      [terms] uint64; none: the moves are the fp32 numbers delta [n]
    values     [terms, 1] the factors of signs, or [terms, 4096] the products factor_i z: nothing is left to fuse
    rounding   [1] uint64, the seed of the stochastic rounding; none: to nearest
    band       [2] fp32, the magnitudes that move, both ends included; none: all
"""

from __future__ import annotations

import numpy as np
from numba import prange

from zofo.zo.kernels.jit import njit

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
GROUP = 4096
PART = 256  # elements of a group of 16-bit draws: Gaussian entries, rounding
CHUNK_GROUPS = 16  # groups that one thread takes at a time: 64 Ki elements
SERIES_GROUPS = 4  # the same where many updates are made of them, which stay in a core's own cache: 16 Ki elements
F32, BF16, FP16, SPLIT = 0, 1, 2, 3
MAGNITUDE, INFINITY, NAN = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000), np.uint32(0x7FC00000)


@njit(nogil=True, inline="always")
def _words(out, seed, key, group):
    """The 128 words of one group; the loop over the 32 counters is the one that vectorises."""
    t0, t1 = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    for j in range(32):
        c0, c1, c2, c3 = np.uint32(group * 32 + j), t0, t1, np.uint32(0)
        k0, k1 = np.uint32(seed & np.uint64(0xFFFFFFFF)), np.uint32(seed >> np.uint64(32))
        for _ in range(10):
            p0, p1 = np.uint64(c0) * M0, np.uint64(c2) * M1
            c0, c1 = np.uint32(np.uint32(p1 >> np.uint64(32)) ^ c1 ^ k0), np.uint32(p1)
            c2, c3 = np.uint32(np.uint32(p0 >> np.uint64(32)) ^ c3 ^ k1), np.uint32(p0)
            k0, k1 = np.uint32(k0 + W0), np.uint32(k1 + W1)
        out[j], out[32 + j], out[64 + j], out[96 + j] = c0, c1, c2, c3


@njit(nogil=True, inline="always")
def _bit(b):
    """The mask of bit b. A word is tested as `np.uint32(word & bit)`: what is not cut to 32 bits numba makes 64 of, and
    half as many numbers fit into a register."""
    return np.uint32(np.uint32(1) << np.uint32(b))


@njit(nogil=True)
def _sum_signs(total, words, seeds, values, key, group):
    """total[e] <- sum_i factor_i z_i[e], fp32, in the order of the terms, for the 4096 elements of a group."""
    for i in range(seeds.size):
        _words(words, seeds[i], key, group)
        c = values[i, 0]
        for b in range(32):
            bit = _bit(b)
            for w in range(128):
                z = c if np.uint32(words[w] & bit) else -c
                if i == 0:
                    total[b * 128 + w] = z
                else:
                    total[b * 128 + w] += z


@njit(nogil=True, inline="always")
def _sum_gaussian(total, words, seeds, values, key, part):
    """The same for the 256 elements of a part, by the products of `values`."""
    total[:PART] = np.float32(-0.0)  # which added to a first term leaves it as it is, a -0 too
    for i in range(seeds.size):
        _words(words, seeds[i], key, part)
        products = values[i]
        for half in range(2):
            shift = np.uint32(16 * half + 4)
            for w in range(128):
                total[half * 128 + w] += products[(words[w] >> shift) & np.uint32(0xFFF)]


@njit(nogil=True)
def _draw_noise(noise, words, seed, key, part):
    """noise[e] <- the 16 bits of the rounding for the 256 elements of a part."""
    _words(words, seed, key, part)
    for half in range(2):
        shift = np.uint32(16 * half)
        for w in range(128):
            noise[half * 128 + w] = (words[w] >> shift) & np.uint32(0xFFFF)


@njit(nogil=True)
def draw(out, seed, key, lo):
    """out [n] int32 <- the 16 bits of elements lo ... lo + n - 1."""
    words, part_noise = np.empty(128, np.uint32), np.empty(PART, np.uint32)
    for part in range(lo // PART, (lo + out.size + PART - 1) // PART):
        _draw_noise(part_noise, words, seed, key, part)
        base = part * PART - lo
        for e in range(max(0, -base), min(PART, out.size - base)):
            out[base + e] = np.int32(part_noise[e])


@njit(nogil=True, inline="always")
def _move(dst, x, gauge, total, band):
    """dst <- x + total, fp32, where |gauge| lies in the band, and x elsewhere."""
    if band.size == 0:
        for e in range(dst.size):
            dst[e] = x[e] + total[e]
    else:
        least, most = band[0], band[1]
        for e in range(dst.size):
            inside = (abs(gauge[e]) >= least) & (abs(gauge[e]) <= most)
            dst[e] = x[e] + total[e] if inside else x[e]


# --------------------------------------------------------------------------------------------------------------- fp32


@njit(nogil=True, inline="always")
def _move_by_signs(dst, x, words, c):
    """dst <- x + c z for a whole group and the signs z of its words."""
    for b in range(32):
        bit = _bit(b)
        for w in range(128):
            e = b * 128 + w
            dst[e] = x[e] + (c if np.uint32(words[w] & bit) else -c)


@njit(nogil=True, inline="always")
def _move_by_four_signs(dst, words, a, b, c, d):
    """The same in place for four directions one after the other, each sum rounded: words [512] are theirs."""
    less_a, less_b, less_c, less_d = -a, -b, -c, -d
    for n in range(32):
        bit = _bit(n)
        for w in range(128):
            x = dst[n * 128 + w]
            x += a if np.uint32(words[w] & bit) else less_a
            x += b if np.uint32(words[128 + w] & bit) else less_b
            x += c if np.uint32(words[256 + w] & bit) else less_c
            x += d if np.uint32(words[384 + w] & bit) else less_d
            dst[n * 128 + w] = x


@njit(nogil=True, inline="always")
def _move_band_by_signs(dst, x, words, c, least, most):
    """The same where |x| lies in the band, and x elsewhere."""
    for b in range(32):
        bit = _bit(b)
        for w in range(128):
            e = b * 128 + w
            step = c if np.uint32(words[w] & bit) else -c
            inside = (abs(x[e]) >= least) & (abs(x[e]) <= most)
            dst[e] = x[e] + step if inside else x[e]


@njit(nogil=True, inline="always")
def _move_f32(dst, src, same, total, band):
    """Both branches differ in that LLVM sees one array, and vectorises, where dst is src."""
    if same:
        _move(dst, dst, dst, total, band)
    else:
        _move(dst, src, src, total, band)


@njit(nogil=True)
def _signs_f32(dst, src, same, lo, first, last, seeds, values, key, band):
    words = np.empty(128, np.uint32)
    total = np.empty(GROUP, np.float32)
    for group in range(first, last):
        base = group * GROUP - lo
        start, stop = max(0, -base), min(GROUP, src.size - base)
        out, x = dst[base + start : base + stop], src[base + start : base + stop]
        if seeds.size > 1 or stop - start < GROUP:
            _sum_signs(total, words, seeds, values, key, group)
            _move_f32(out, x, same, total[start:stop], band)
            continue
        _words(words, seeds[0], key, group)
        if band.size and same:
            _move_band_by_signs(out, out, words, values[0, 0], band[0], band[1])
        elif band.size:
            _move_band_by_signs(out, x, words, values[0, 0], band[0], band[1])
        elif same:
            _move_by_signs(out, out, words, values[0, 0])
        else:
            _move_by_signs(out, x, words, values[0, 0])


@njit(nogil=True)
def _gaussian_f32(dst, src, same, lo, first, last, seeds, values, key, band):
    words = np.empty(128, np.uint32)
    total = np.empty(PART, np.float32)
    for part in range(max(first * 16, lo // PART), min(last * 16, (lo + src.size + PART - 1) // PART)):
        base = part * PART - lo
        start, stop = max(0, -base), min(PART, src.size - base)
        _sum_gaussian(total, words, seeds, values, key, part)
        out, x = dst[base + start : base + stop], src[base + start : base + stop]
        _move_f32(out, x, same, total[start:stop], band)


# ------------------------------------------------------------------------------------------------------------ 16 bits


@njit(nogil=True, inline="always")
def _widen(wide, pattern, src, low, kind):
    """wide <- the fp32 numbers of src, exact; pattern is wide's memory as uint32."""
    if kind == BF16:
        for e in range(src.size):
            pattern[e] = np.uint32(src[e]) << np.uint32(16)
    elif kind == SPLIT:
        for e in range(src.size):
            pattern[e] = np.uint32(np.uint32(np.uint32(src[e]) << np.uint32(16)) + np.uint32(np.int32(low[e])))
    else:
        for e in range(src.size):  # right for the subnormals
            wide[e] = np.float32(np.int32(src[e] & np.uint16(0x7FFF))) * np.float32(2.0**-24)
        for e in range(src.size):
            rest = np.uint32(src[e] & np.uint16(0x7FFF))
            sign = np.uint32(np.uint32(src[e] & np.uint16(0x8000)) << np.uint32(16))
            # the exponent's bias goes from 15 to 127, and that of inf and NaN from 31 to 255
            offset = np.uint32(0x70000000) if rest >= np.uint32(0x7C00) else np.uint32(0x38000000)
            normal = np.uint32(np.uint32(rest << np.uint32(13)) + offset)
            pattern[e] = sign | (normal if rest >= np.uint32(0x400) else pattern[e])


@njit(nogil=True, inline="always")
def _narrow_bf16(dst, pattern, noise):
    """dst <- the bf16 patterns of fp32 numbers: up by the noise, or (no noise) to nearest even."""
    for e in range(dst.size):
        u = pattern[e]
        cut = u >> np.uint32(16)
        add = noise[e] if noise.size else np.uint32(np.uint32(0x7FFF) + (cut & np.uint32(1)))
        up = np.uint32(u + add) >> np.uint32(16)
        dst[e] = np.uint16(cut | np.uint32(0x40) if (u & MAGNITUDE) > INFINITY else up)


@njit(nogil=True, inline="always")
def _narrow_fp16(dst, wide, pattern, noise):
    """The same for fp16. Below 2^-14 its numbers are the multiples of 2^-24."""
    for e in range(dst.size):
        u = pattern[e] & MAGNITUDE
        sign = (pattern[e] >> np.uint32(16)) & np.uint32(0x8000)
        is_tiny = u < np.uint32(0x38800000)
        size = abs(wide[e]) if is_tiny else np.float32(0)
        if noise.size:
            scaled = size * np.float32(2.0**24)
            whole = np.int32(scaled)
            up = (scaled - np.float32(whole)) * np.float32(65536.0) > np.float32(np.int32(noise[e]))
            tiny = np.uint32(whole) + np.uint32(1 if up else 0)
            add = noise[e] >> np.uint32(3)
        else:  # 1/2 + size is rounded to a multiple of 2^-24, to nearest even
            tiny = np.uint32(np.int32((np.float32(0.5) + size - np.float32(0.5)) * np.float32(2.0**24)))
            add = np.uint32(np.uint32(0xFFF) + ((u >> np.uint32(13)) & np.uint32(1)))
        normal = np.uint32(u + add - np.uint32(0x38000000)) >> np.uint32(13)
        normal = min(normal, np.uint32(0x7C00))
        normal = np.uint32(0x7E00) if u > INFINITY else normal
        dst[e] = np.uint16(sign | (tiny if is_tiny else normal))


@njit(nogil=True, inline="always")
def _split(high, low, pattern):
    """The two planes of fp32 numbers; of every NaN 0x7FC0 and 0."""
    for e in range(high.size):
        u = NAN if (pattern[e] & MAGNITUDE) > INFINITY else pattern[e]
        high[e] = np.uint16(np.uint32(u + np.uint32(0x8000)) >> np.uint32(16))
        low[e] = np.int16(u & np.uint32(0xFFFF))


@njit(nogil=True)
def _sixteen(dst, src, low, delta, lo, first, last, seeds, values, key, kind, rounding, band):
    """bf16, fp16 and the split, all laws. A part of 256 elements is a group of the 16-bit draws."""
    words, total = np.empty(128, np.uint32), np.empty(GROUP, np.float32)
    noise = np.empty(PART if rounding.size else 0, np.uint32)
    wide_part, gauge = np.empty(PART, np.float32), np.empty(PART, np.float32)
    pattern_part, gauge_pattern = wide_part.view(np.uint32), gauge.view(np.uint32)
    for group in range(first, last):
        if seeds.size and values.shape[1] == 1:
            _sum_signs(total, words, seeds, values, key, group)
        for inside in range(16):
            part = group * 16 + inside
            base = part * PART - lo
            start, stop = max(0, -base), min(PART, src.size - base)
            if start >= stop:
                continue
            if rounding.size:
                _draw_noise(noise, words, rounding[0], key, part)
            move = total[inside * PART :] if values.shape[1] == 1 else total[:PART]
            if values.shape[1] > 1:
                _sum_gaussian(move, words, seeds, values, key, part)
            step = move[start:stop] if seeds.size else delta[base + start : base + stop]
            wide, pattern = wide_part[: stop - start], pattern_part[: stop - start]
            out, plane = dst[base + start : base + stop], low[base + start : base + stop]
            _widen(wide, pattern, src[base + start : base + stop], plane, kind)
            if kind == SPLIT and band.size:
                _widen(gauge, gauge_pattern, src[base + start : base + stop], plane, BF16)
                _move(wide, wide, gauge, step, band)
            else:
                _move(wide, wide, wide, step, band)
            if kind == BF16:
                _narrow_bf16(out, pattern, noise[start:stop])
            elif kind == FP16:
                _narrow_fp16(out, wide, pattern, noise[start:stop])
            else:
                _split(out, plane, pattern)


# ------------------------------------------------------------------------------------------------------- entry points


@njit(nogil=True)
def add_groups(dst, src, same, low, delta, lo, first, last, seeds, values, key, kind, rounding, band):
    """Groups [first, last) of 4096. same: dst is src."""
    if kind == F32 and values.shape[1] == 1:
        _signs_f32(dst.view(np.float32), src.view(np.float32), same, lo, first, last, seeds, values, key, band)
    elif kind == F32:
        _gaussian_f32(dst.view(np.float32), src.view(np.float32), same, lo, first, last, seeds, values, key, band)
    else:
        out, given = dst.view(np.uint16), src.view(np.uint16)
        _sixteen(out, given, low, delta, lo, first, last, seeds, values, key, kind, rounding, band)


@njit(parallel=True)
def add_groups_parallel(dst, src, same, low, delta, lo, first, last, seeds, values, key, kind, rounding, band):
    chunks = (last - first + CHUNK_GROUPS - 1) // CHUNK_GROUPS
    for chunk in prange(chunks):
        begin = first + chunk * CHUNK_GROUPS
        end = min(begin + CHUNK_GROUPS, last)
        add_groups(dst, src, same, low, delta, lo, begin, end, seeds, values, key, kind, rounding, band)


@njit(nogil=True)
def _signs_series_f32(dst, first, last, seeds, values, key, band):
    """Whole groups moved by one sign after another: four of them each time that the numbers are in registers."""
    words = np.empty(512, np.uint32)
    fours = seeds.size // 4 * 4
    for group in range(first, last):
        out = dst[group * GROUP : (group + 1) * GROUP]
        for i in range(0, fours, 4):
            for j in range(4):
                _words(words[128 * j : 128 * (j + 1)], seeds[i + j], key, group)
            _move_by_four_signs(out, words, values[i, 0], values[i + 1, 0], values[i + 2, 0], values[i + 3, 0])
        for i in range(fours, seeds.size):
            _signs_f32(dst, dst, True, 0, group, group + 1, seeds[i : i + 1], values[i : i + 1], key, band)


@njit(nogil=True)
def add_series_groups(dst, low, delta, first, last, ends, seeds, values, key, kind, roundings, band):
    """Groups [first, last) of a whole tensor moved in place by one update after another, each with its own rounding.

    ends [updates] int64: where the terms of each end. roundings [updates], or none.
    """
    last_whole = first
    if kind == F32 and values.shape[1] == 1 and band.size == 0 and ends.size == seeds.size:
        last_whole = min(last, dst.size // GROUP)
        _signs_series_f32(dst.view(np.float32), first, last_whole, seeds, values, key, band)
    begin = 0
    for i in range(ends.size if last_whole < last else 0):
        ours, factors, rounding = seeds[begin : ends[i]], values[begin : ends[i]], roundings[i : i + 1]
        add_groups(dst, dst, True, low, delta, 0, last_whole, last, ours, factors, key, kind, rounding, band)
        begin = ends[i]


@njit(parallel=True)
def add_series_parallel(dst, low, delta, first, last, ends, seeds, values, key, kind, roundings, band):
    chunks = (last - first + SERIES_GROUPS - 1) // SERIES_GROUPS
    for chunk in prange(chunks):
        begin = first + chunk * SERIES_GROUPS
        end = min(begin + SERIES_GROUPS, last)
        add_series_groups(dst, low, delta, begin, end, ends, seeds, values, key, kind, roundings, band)


@njit(nogil=True)
def add_runs(dst, src, same, low, delta, lo, run, pitch, skip, begin, end, seeds, values, key, kind, rounding, band):
    """Runs [begin, end) of a window: element j is the tensor's lo + (skip + j) // run pitch + (skip + j) % run."""
    for row in range(begin, end):
        start, stop = max(0, row * run - skip), min(src.size, (row + 1) * run - skip)
        at = lo + row * pitch + (skip if row == 0 else 0)
        first, last = at // GROUP, (at + stop - start + GROUP - 1) // GROUP
        out, given, plane, step = dst[start:stop], src[start:stop], low[start:stop], delta[start:stop]
        add_groups(out, given, same, plane, step, at, first, last, seeds, values, key, kind, rounding, band)


@njit(parallel=True)
def add_runs_parallel(
    dst, src, same, low, delta, lo, run, pitch, skip, begin, end, seeds, values, key, kind, rounding, band
):
    each = max(1, CHUNK_GROUPS * GROUP // run)
    for chunk in prange((end - begin + each - 1) // each):
        first = begin + chunk * each
        last = min(first + each, end)
        add_runs(
            dst, src, same, low, delta, lo, run, pitch, skip, first, last, seeds, values, key, kind, rounding, band
        )


@njit()
def add_rows(dst, src, same, low, delta, rows, width, lo, pitch, seeds, values, key, kind, rounding, band):
    """Rows of a table whose row i begins at element lo + i pitch of the tensor."""
    for i in range(rows.size):
        at, here = lo + rows[i] * pitch, rows[i] * width
        first, last = at // GROUP, (at + width + GROUP - 1) // GROUP
        out, given = dst[i * width : (i + 1) * width], src[here : here + width]
        add_groups(out, given, same, low, delta, at, first, last, seeds, values, key, kind, rounding, band)


@njit(nogil=True)
def sum_squares(n, seed, key, squares):
    """squares: int64 [4096], q^2 of the table's entries."""
    words = np.empty(128, np.uint32)
    total = np.int64(0)
    for part in range((n + PART - 1) // PART):
        _words(words, seed, key, part)
        for e in range(min(PART, n - part * PART)):
            total += squares[(words[e & 127] >> np.uint32(16 * (e >> 7) + 4)) & np.uint32(0xFFF)]
    return total

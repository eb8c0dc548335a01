"""The same definition compiled for CPUs by numba: one pass over memory, no temporaries, any number of threads.

Bit for bit equal to `reference`. Compiled on first use and cached on disk beside this file (or in NUMBA_CACHE_DIR).
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from zofo.zo.direction import GAUSSIAN, RADEMACHER, TABLE_ONE, gaussian_table
from zofo.zo.kernels.reference import Terms

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
GROUP = 4096
PART = 256  # elements of a group of 16-bit draws: Gaussian entries, rounding
CHUNK_GROUPS = 16  # groups that one thread takes at a time: 64 Ki elements
SERIAL = 1 << 15  # elements below which waking a second thread costs more than it saves
_torch_threads = torch.get_num_threads()
MAX_THREADS = numba.get_num_threads()  # how many numba started
torch.set_num_threads(_torch_threads)  # starting them sets the number of OpenMP's threads, which are torch's too
F32, BF16, FP16 = 0, 1, 2
DTYPES = {torch.float32: F32, torch.bfloat16: BF16, torch.float16: FP16}
TABLE = np.array(gaussian_table(), np.float32) / np.float32(TABLE_ONE)
SQUARES = np.array(gaussian_table(), np.int64) ** 2
NO_DELTA = np.empty(0, np.float32)


@njit(cache=True, nogil=True, inline="always")
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


@njit(cache=True, nogil=True, inline="always")
def _sum_signs(total, words, seeds, values, key, group):
    """total[e] <- sum_i factor_i z_i[e], fp32, in the order of the terms, for the 4096 elements of a group."""
    for i in range(seeds.size):
        _words(words, seeds[i], key, group)
        c = values[i, 0]
        for b in range(32):
            shift = np.uint32(b)
            for w in range(128):
                z = c if (words[w] >> shift) & np.uint32(1) else -c
                if i == 0:
                    total[b * 128 + w] = z
                else:
                    total[b * 128 + w] += z


@njit(cache=True, nogil=True, inline="always")
def _sum_gaussian(total, words, seeds, values, key, part):
    """The same for the 256 elements of a part. values[i] holds the 4096 products factor_i z: nothing can be fused."""
    for i in range(seeds.size):
        _words(words, seeds[i], key, part)
        products = values[i]
        if i == 0:
            total[:PART] = np.float32(-0.0)  # which added to a first term leaves it as it is, a -0 too
        for half in range(2):
            shift = np.uint32(16 * half + 4)
            for w in range(128):
                total[half * 128 + w] += products[(words[w] >> shift) & np.uint32(0xFFF)]


@njit(cache=True, nogil=True, inline="always")
def _store(dst, src, total):
    for e in range(dst.size):
        dst[e] = src[e] + total[e]


@njit(cache=True, nogil=True)
def _signs_f32(dst, src, lo, first, last, seeds, values, key):
    words = np.empty(128, np.uint32)
    total = np.empty(GROUP, np.float32)
    n = src.size
    for group in range(first, last):
        base = group * GROUP - lo
        start, stop = max(0, -base), min(GROUP, n - base)
        if seeds.size == 1 and start == 0 and stop == GROUP:
            _words(words, seeds[0], key, group)
            c = values[0, 0]
            out, given = dst[base : base + GROUP], src[base : base + GROUP]  # indices from 0 on let the loop vectorise
            for b in range(32):
                shift = np.uint32(b)
                for w in range(128):
                    e = b * 128 + w
                    out[e] = given[e] + (c if (words[w] >> shift) & np.uint32(1) else -c)
        else:
            _sum_signs(total, words, seeds, values, key, group)
            _store(dst[base + start : base + stop], src[base + start : base + stop], total[start:stop])


@njit(cache=True, nogil=True)
def _gaussian_f32(dst, src, lo, first, last, seeds, values, key):
    words = np.empty(128, np.uint32)
    total = np.empty(PART, np.float32)
    n = src.size
    for part in range(max(first * 16, lo // PART), min(last * 16, (lo + n + PART - 1) // PART)):
        base = part * PART - lo
        _sum_gaussian(total, words, seeds, values, key, part)
        start, stop = max(0, -base), min(PART, n - base)
        _store(dst[base + start : base + stop], src[base + start : base + stop], total[start:stop])


@njit(cache=True, nogil=True, inline="always")
def _widen(u, kind, pattern, value):
    """The fp32 value of a bf16 or fp16 bit pattern (exact)."""
    if kind == BF16:
        pattern[0] = np.uint32(u) << np.uint32(16)
        return value[0]
    sign = np.uint32(u & np.uint16(0x8000)) << np.uint32(16)
    rest = np.uint32(u & np.uint16(0x7FFF))
    if rest >= np.uint32(0x7C00):
        pattern[0] = sign | np.uint32(0x7F800000) | (rest & np.uint32(0x3FF)) << np.uint32(13)
    elif rest >= np.uint32(0x400):
        pattern[0] = sign | ((rest << np.uint32(13)) + np.uint32(0x38000000))
    else:
        magnitude = np.float32(rest) * np.float32(2.0**-24)
        return -magnitude if sign else magnitude
    return value[0]


@njit(cache=True, nogil=True, inline="always")
def _narrow(x, kind, stochastic, noise, pattern, value):
    """The bf16 or fp16 bit pattern of fp32 x: to nearest even, or up with the probability of the part cut off."""
    value[0] = x
    u = pattern[0]
    magnitude = u & np.uint32(0x7FFFFFFF)
    sign = np.uint16((u >> np.uint32(16)) & np.uint32(0x8000))
    if kind == BF16:
        if magnitude > np.uint32(0x7F800000):
            return np.uint16((u >> np.uint32(16)) | np.uint32(0x40))
        if magnitude == np.uint32(0x7F800000):
            return np.uint16(u >> np.uint32(16))
        add = noise if stochastic else np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))
        return np.uint16((u + add) >> np.uint32(16))
    if magnitude > np.uint32(0x7F800000):
        return np.uint16(sign | np.uint16(0x7E00))
    if magnitude == np.uint32(0x7F800000):
        return np.uint16(sign | np.uint16(0x7C00))
    if magnitude < np.uint32(0x38800000):  # below 2^-14: multiples of 2^-24
        scaled = abs(x) * np.float32(2.0**24)
        whole = np.floor(scaled)
        fraction = scaled - whole
        if stochastic:
            up = fraction * np.float32(65536.0) > np.float32(noise)
        else:
            up = fraction > np.float32(0.5) or (fraction == np.float32(0.5) and np.uint32(whole) & np.uint32(1) == 1)
        return np.uint16(sign | np.uint16(np.uint32(whole) + np.uint32(1 if up else 0)))
    add = noise >> np.uint32(3) if stochastic else np.uint32(0xFFF) + ((u >> np.uint32(13)) & np.uint32(1))
    half = (magnitude + add - np.uint32(0x38000000)) >> np.uint32(13)
    return np.uint16(sign | np.uint16(min(half, np.uint32(0x7C00))))


@njit(cache=True, nogil=True, inline="always")
def _round_part(dst, src, total, at, base, kind, stochastic, noise_words, pattern, value):
    """dst <- round(src + total) for the elements of a part, from dst[base]; the part's first number is total[at]."""
    for e in range(max(0, -base), min(PART, src.size - base)):
        noise = (noise_words[e & 127] >> np.uint32(16 * (e >> 7))) & np.uint32(0xFFFF)
        moved = _widen(src[base + e], kind, pattern, value) + total[at + e]
        dst[base + e] = _narrow(moved, kind, stochastic, noise, pattern, value)


@njit(cache=True, nogil=True)
def _half(dst, src, delta, lo, first, last, seeds, values, key, kind, stochastic, round_seed):
    """All laws, and (no seeds) a dense delta. 16 bits of noise an element: a part is a group of the rounding key."""
    words, noise_words = np.empty(128, np.uint32), np.zeros(128, np.uint32)
    total = np.empty(GROUP, np.float32)
    pattern = np.empty(1, np.uint32)
    value = pattern.view(np.float32)
    for group in range(first, last):
        if seeds.size and values.shape[1] == 1:
            _sum_signs(total, words, seeds, values, key, group)
        for inside in range(16):
            part = group * 16 + inside
            base = part * PART - lo
            if base + PART <= 0 or base >= src.size:
                continue
            if stochastic:
                _words(noise_words, round_seed, key, part)
            if seeds.size == 0:
                _round_part(dst, src, delta, base, base, kind, stochastic, noise_words, pattern, value)
                continue
            if values.shape[1] > 1:
                _sum_gaussian(total[inside * PART :], words, seeds, values, key, part)
            _round_part(dst, src, total, inside * PART, base, kind, stochastic, noise_words, pattern, value)


@njit(cache=True, nogil=True)
def _groups(dst, src, delta, lo, first, last, seeds, values, key, kind, stochastic, round_seed):
    """Groups [first, last) of 4096. values: [terms, 1] factors of signs, or [terms, 4096] products factor_i z."""
    if kind != F32:
        narrow_dst, narrow_src = dst.view(np.uint16), src.view(np.uint16)
        _half(narrow_dst, narrow_src, delta, lo, first, last, seeds, values, key, kind, stochastic, round_seed)
    elif values.shape[1] == 1:
        _signs_f32(dst.view(np.float32), src.view(np.float32), lo, first, last, seeds, values, key)
    else:
        _gaussian_f32(dst.view(np.float32), src.view(np.float32), lo, first, last, seeds, values, key)


@njit(cache=True, parallel=True)
def _groups_parallel(dst, src, delta, lo, first, last, seeds, values, key, kind, stochastic, round_seed):
    chunks = (last - first + CHUNK_GROUPS - 1) // CHUNK_GROUPS
    for chunk in prange(chunks):
        begin = first + chunk * CHUNK_GROUPS
        end = min(begin + CHUNK_GROUPS, last)
        _groups(dst, src, delta, lo, begin, end, seeds, values, key, kind, stochastic, round_seed)


@njit(cache=True)
def _rows(dst, src, delta, rows, width, seeds, values, key, kind, stochastic, round_seed):
    for i in range(rows.size):
        lo = rows[i] * width
        first, last = lo // GROUP, (lo + width + GROUP - 1) // GROUP
        out, table_row = dst[i * width : (i + 1) * width], src[lo : lo + width]
        _groups(out, table_row, delta, lo, first, last, seeds, values, key, kind, stochastic, round_seed)


@njit(cache=True, nogil=True)
def _squares(n, seed, key, squares):
    words = np.empty(128, np.uint32)
    total = np.int64(0)
    for part in range((n + PART - 1) // PART):
        _words(words, seed, key, part)
        for e in range(min(PART, n - part * PART)):
            total += squares[(words[e & 127] >> np.uint32(16 * (e >> 7) + 4)) & np.uint32(0xFFF)]
    return total


def _flat(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as unsigned integers of its width, so that one signature serves bf16 and fp16."""
    as_int = tensor.detach().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)
    return as_int.view(-1).numpy()


def _arguments(terms: Terms, round_seed: int | None, law: str):
    seeds = np.array([seed for seed, _ in terms], np.uint64)
    values = np.array([[factor] for _, factor in terms], np.float32)
    if law == GAUSSIAN:
        with np.errstate(over="ignore", invalid="ignore"):
            values = values * TABLE
    elif law != RADEMACHER:
        raise ValueError(f"the kernels know the laws {RADEMACHER} and {GAUSSIAN}, not {law!r}")
    return seeds, values, round_seed is not None, np.uint64(round_seed or 0)


def _run(dst: Tensor, src: Tensor, delta: np.ndarray, arguments: tuple, key: int, lo: int) -> None:
    seeds, values, stochastic, rounding = arguments
    first, last = lo // GROUP, (lo + src.numel() + GROUP - 1) // GROUP
    run = _groups
    if src.numel() > SERIAL and torch.get_num_threads() > 1:
        numba.set_num_threads(min(torch.get_num_threads(), MAX_THREADS))
        run = _groups_parallel
    kind = DTYPES[src.dtype]
    run(_flat(dst), _flat(src), delta, lo, first, last, seeds, values, np.uint64(key), kind, stochastic, rounding)


def add(
    dst: Tensor, src: Tensor, terms: Terms, key: int, lo: int = 0, round_seed: int | None = None, law: str = RADEMACHER
) -> None:
    """`reference.add` for contiguous fp32, bf16 and fp16 tensors on the CPU."""
    _run(dst, src, NO_DELTA, _arguments(terms, round_seed, law), key, lo)


def add_rows(
    dst: Tensor, src: Tensor, rows: Tensor, terms: Terms, key: int, round_seed: int | None = None, law: str = RADEMACHER
) -> None:
    """`reference.add_rows` for contiguous fp32, bf16 and fp16 tensors on the CPU."""
    seeds, values, stochastic, rounding = _arguments(terms, round_seed, law)
    out, table, kind, width = _flat(dst), _flat(src), DTYPES[src.dtype], src.shape[1]
    _rows(out, table, NO_DELTA, rows.numpy(), width, seeds, values, np.uint64(key), kind, stochastic, rounding)


def add_dense(dst: Tensor, src: Tensor, delta: Tensor, key: int, lo: int = 0, round_seed: int | None = None) -> None:
    """`reference.add_dense` for contiguous fp32, bf16 and fp16 tensors on the CPU."""
    if src.dtype == torch.float32:
        torch.add(src, delta, out=dst)
        return
    no_terms = np.empty(0, np.uint64), np.empty((0, 1), np.float32)
    _run(dst, src, delta.numpy(), (*no_terms, round_seed is not None, np.uint64(round_seed or 0)), key, lo)


def sum_squares(n: int, seed: int, key: int, device: torch.device | str = "cpu") -> int:
    """`reference.sum_squares` on the CPU."""
    del device
    return int(_squares(n, np.uint64(seed), np.uint64(key), SQUARES))

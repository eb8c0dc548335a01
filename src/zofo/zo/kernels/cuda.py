"""The same definition for CUDA by Triton: one pass over memory, no temporaries; theta in one launch per dtype.

Bit for bit equal to `reference`: integers throughout, and no product is fused with the sum behind it (FUSION below).
Under TRITON_INTERPRET=1 it takes tensors on the CPU.
"""
# pyright: reportArgumentType=false, reportCallIssue=false
# (Triton gives a kernel other types than its Python text has)

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from functools import cache, lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from zofo.zo.kernels.reference import Band, Item, Terms
from zofo.zo.kernels.triton_blocks import draw, move_block
from zofo.zo.laws import GAUSSIAN, RADEMACHER, TABLE_ONE, gaussian_table
from zofo.zo.window import Where, Window

GROUP = 4096
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
SPLIT = 3
LAWS = {RADEMACHER: 0, GAUSSIAN: 1}
DENSE = 2
OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}
COLUMNS = 7  # of the table of `add_many`: addresses of dst and src, n, key, band (two), first block

# Numbers of which every value must run the same compiled kernel
_LOOSE = ["key_low", "key_high", "round_low", "round_high", "first_group", "least", "most"]


@triton.jit
def _move(
    dst, src, low, delta, n, base, group, key_low, key_high, terms, count, table, round_low, round_high, least, most,
    KIND: tl.constexpr, LAW: tl.constexpr, STOCHASTIC: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip  # values of a launch, then constants of a compilation
    """`move_block`, without masks where the whole group lies inside: loads and stores are then wide."""
    key_low, key_high = key_low.to(tl.uint32, bitcast=True), key_high.to(tl.uint32, bitcast=True)
    round_low, round_high = round_low.to(tl.uint32, bitcast=True), round_high.to(tl.uint32, bitcast=True)
    if (base >= 0) & (base + 4096 <= n):
        move_block(
            dst, src, low, delta, n, base, group, key_low, key_high, terms, count, table, round_low, round_high, least,
            most, KIND, LAW, STOCHASTIC, BAND, False,
        )  # fmt: skip  # the kernel's arguments in its order
    else:
        move_block(
            dst, src, low, delta, n, base, group, key_low, key_high, terms, count, table, round_low, round_high, least,
            most, KIND, LAW, STOCHASTIC, BAND, True,
        )  # fmt: skip  # the kernel's arguments in its order


@triton.jit(do_not_specialize=_LOOSE)
def _add_kernel(
    dst, src, low, delta, n, first_group, offset, key_low, key_high, terms, count, table, round_low, round_high, least,
    most, KIND: tl.constexpr, LAW: tl.constexpr, STOCHASTIC: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip  # values of a launch, then constants of a compilation
    """Program i: group first_group + i. offset: of the tensor's or slice's first element in its first group."""
    block = tl.program_id(0)
    base = block.to(tl.int64) * 4096 - offset
    _move(
        dst, src, low, delta, n, base, first_group + block, key_low, key_high, terms, count, table, round_low,
        round_high, least, most, KIND, LAW, STOCHASTIC, BAND,
    )  # fmt: skip  # the kernel's arguments in its order


@triton.jit(do_not_specialize=[*_LOOSE, "first", "skip"])
def _runs_kernel(
    dst, src, low, delta, n, first, run, pitch, skip, key_low, key_high, terms, count, table, round_low, round_high,
    least, most, KIND: tl.constexpr, LAW: tl.constexpr, STOCHASTIC: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip  # values of a launch, then constants of a compilation
    """Program (i, j): of the i-th run of a window what lies in the j-th group that it touches."""
    i = tl.program_id(0).to(tl.int64)
    start, stop = tl.maximum(i * run - skip, 0), tl.minimum((i + 1) * run - skip, n)
    at = first + i * pitch + tl.where(i == 0, skip, 0)
    group = at // 4096 + tl.program_id(1)
    base = group * 4096 - at
    if base < stop - start:
        _move(
            dst + start, src + start, low + start, delta + start, stop - start, base, group, key_low, key_high, terms,
            count, table, round_low, round_high, least, most, KIND, LAW, STOCHASTIC, BAND,
        )  # fmt: skip  # the kernel's arguments in its order


@triton.jit(do_not_specialize=[*_LOOSE, "first"])
def _rows_kernel(
    dst, src, rows, width, first, pitch, key_low, key_high, terms, count, table, round_low, round_high, least, most,
    KIND: tl.constexpr, LAW: tl.constexpr, STOCHASTIC: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip  # values of a launch, then constants of a compilation
    """Program (i, j): of row rows[i], which begins at element first + rows[i] pitch, what lies in the j-th group that
    it touches."""
    i = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + i)
    lo = first + row * pitch
    group = lo // 4096 + tl.program_id(1)
    base = group * 4096 - lo
    if base < width:
        _move(
            dst + i * width, src + row * width, dst, src, width, base, group, key_low, key_high, terms, count, table,
            round_low, round_high, least, most, KIND, LAW, STOCHASTIC, BAND,
        )  # fmt: skip  # the kernel's arguments in its order


@triton.jit(do_not_specialize=["round_low", "round_high"])
def _many_kernel(
    items, blocks, terms, count, table, round_low, round_high, KIND: tl.constexpr, LAW: tl.constexpr,
    STOCHASTIC: tl.constexpr, BAND: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip  # values of a launch, then constants of a compilation
    """items: int64 [tensors, 7]. blocks: int32, the tensor of each program, which moves one group of it."""
    item = items + tl.load(blocks + tl.program_id(0)) * 7
    dst, src = tl.load(item), tl.load(item + 1)
    if KIND == 0:
        dst, src = dst.to(tl.pointer_type(tl.int32)), src.to(tl.pointer_type(tl.int32))
    else:
        dst, src = dst.to(tl.pointer_type(tl.int16)), src.to(tl.pointer_type(tl.int16))
    if ALIGNED:
        dst, src = tl.multiple_of(dst, 16), tl.multiple_of(src, 16)
    key = tl.load(item + 3)
    least = tl.load(item + 4).to(tl.int32).to(tl.float32, bitcast=True)
    most = tl.load(item + 5).to(tl.int32).to(tl.float32, bitcast=True)
    group = tl.program_id(0) - tl.load(item + 6)
    _move(
        dst, src, dst, src, tl.load(item + 2), group * 4096, group, key.to(tl.int32), (key >> 32).to(tl.int32), terms,
        count, table, round_low, round_high, least, most, KIND, LAW, STOCHASTIC, BAND,
    )  # fmt: skip  # the kernel's arguments in its order


@triton.jit(do_not_specialize=["n", "key_low", "key_high", "seed_low", "seed_high"])
def _squares_kernel(out, n, table, seed_low, seed_high, key_low, key_high):
    """out[i] <- the sum of q^2 over group i, int64."""
    group = tl.program_id(0)
    key_low, key_high = key_low.to(tl.uint32, bitcast=True), key_high.to(tl.uint32, bitcast=True)
    seed_low, seed_high = seed_low.to(tl.uint32, bitcast=True), seed_high.to(tl.uint32, bitcast=True)
    field = draw(seed_low, seed_high, key_low, key_high, group, 16)
    q = (tl.load(table + (field >> 4).to(tl.int32)) * 4096.0).to(tl.int64)
    inside = group.to(tl.int64) * 4096 + tl.arange(0, 4096) < n
    tl.store(out + group, tl.sum(tl.where(inside, q * q, 0)))


# --------------------------------------------------------------------------------------------------------- host side


def _int32(word: int) -> int:
    return (word & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _halves(x: int | None) -> tuple[int, int]:
    """The two words of 64 bits as int32, the one type whose value cannot change how Triton types it."""
    return _int32(x or 0), _int32((x or 0) >> 32)


def _limits(band: Band | None) -> tuple[float, float]:
    return (0.0, 0.0) if band is None else (float(band[0]), float(band[1]))  # an int would have its own kernel


def _pattern(x: float) -> int:
    return struct.unpack("<i", struct.pack("<f", x))[0]


@cache
def _table(device: torch.device) -> Tensor:
    return torch.tensor(gaussian_table(), dtype=torch.float32, device=device) / TABLE_ONE


@lru_cache(maxsize=16)
def _terms(terms: tuple[tuple[int, float], ...], device: torch.device) -> Tensor:
    """int32 [terms, 3] of seed and factor; remembered, as one shift of theta asks for it at every layer."""
    rows = [(*_halves(seed), _pattern(factor)) for seed, factor in terms]
    return torch.tensor(rows, dtype=torch.int32).view(-1, 3).to(device)


@lru_cache(maxsize=16)
def _plan(tensors: tuple[tuple[int, int, int, int, float, float], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The tables of `_many_kernel` for (dst, src, n, key, least, most); remembered, as theta stays where it is."""
    sizes = torch.tensor([-(-n // GROUP) for _, _, n, _, _, _ in tensors])
    starts = (sizes.cumsum(0) - sizes).tolist()
    rows = [
        (dst, src, n, key - (key >> 63 << 64), _pattern(least), _pattern(most), start)
        for (dst, src, n, key, least, most), start in zip(tensors, starts, strict=True)
    ]
    blocks = torch.repeat_interleave(torch.arange(len(rows), dtype=torch.int32), sizes)
    return torch.tensor(rows, dtype=torch.int64).to(device), blocks.to(device)


def _ints(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def _on(device: torch.device):
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _sum_arguments(terms: Terms, law: str, device: torch.device) -> tuple:
    if law not in LAWS:
        raise ValueError(f"the kernels know the laws {RADEMACHER} and {GAUSSIAN}, not {law!r}")
    return _terms(tuple(map(tuple, terms)), device), len(terms), _table(device)


def _launch(
    dst: Tensor,
    src: Tensor,
    low: Tensor | None,
    delta: Tensor | None,
    terms: Terms,
    key: int,
    lo: Where,
    round_seed: int | None,
    law: str,
    band: Band | None,
    kind: int,
) -> None:
    n = src.numel()
    low, number = dst if low is None else low, LAWS.get(law, -1) if delta is None else DENSE
    stochastic = round_seed is not None and kind in (1, 2)
    planes = _ints(dst), _ints(src), _ints(low), src if delta is None else delta, n
    rest = *_halves(key), *_sum_arguments(terms, law, src.device), *_halves(round_seed), *_limits(band)
    constants = kind, number, stochastic, band is not None
    with _on(src.device):
        if isinstance(lo, Window):
            grid = (-(-(lo.skip + n) // lo.run), (lo.run + GROUP - 2) // GROUP + 1)
            _runs_kernel[grid](*planes, lo.lo, lo.run, lo.pitch, lo.skip, *rest, *constants, **OPTIONS)
            return
        first, offset = divmod(lo, GROUP)
        _add_kernel[(-(-(offset + n) // GROUP),)](*planes, first, offset, *rest, *constants, **OPTIONS)


def add(
    dst: Tensor,
    src: Tensor,
    terms: Terms,
    key: int,
    lo: Where = 0,
    round_seed: int | None = None,
    law: str = RADEMACHER,
    band: Band | None = None,
) -> None:
    """`reference.add` for contiguous fp32, bf16 and fp16 tensors on CUDA."""
    _launch(dst, src, None, None, terms, key, lo, round_seed, law, band, KINDS[src.dtype])


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
    """`reference.add_rows` for contiguous fp32, bf16 and fp16 tensors on CUDA."""
    kind, width = KINDS[src.dtype], src.shape[1]
    touched = (width + GROUP - 2) // GROUP + 1  # groups, at most
    first, pitch = (0, width) if window is None else (window.lo, width if window.run > width else window.pitch)
    arguments = _sum_arguments(terms, law, src.device)
    with _on(src.device):
        _rows_kernel[(rows.numel(), touched)](
            _ints(dst), _ints(src), rows, width, first, pitch, *_halves(key), *arguments, *_halves(round_seed),
            *_limits(band), kind, LAWS[law], round_seed is not None and kind != 0, band is not None, **OPTIONS,
        )  # fmt: skip  # the kernel's arguments in its order


def add_dense(dst: Tensor, src: Tensor, delta: Tensor, key: int, lo: Where = 0, round_seed: int | None = None) -> None:
    """`reference.add_dense` for contiguous fp32, bf16 and fp16 tensors on CUDA."""
    _launch(dst, src, None, delta, (), key, lo, round_seed, RADEMACHER, None, KINDS[src.dtype])


def add_split(
    high: Tensor, low: Tensor, terms: Terms, key: int, lo: Where = 0, law: str = RADEMACHER, band: Band | None = None
) -> None:
    """`reference.add_split` for contiguous planes on CUDA."""
    _launch(high, high, low, None, terms, key, lo, None, law, band, SPLIT)


def add_dense_split(high: Tensor, low: Tensor, delta: Tensor) -> None:
    """`reference.add_dense_split` for contiguous planes on CUDA."""
    _launch(high, high, low, delta, (), 0, 0, None, RADEMACHER, None, SPLIT)


def add_many(items: Sequence[Item], terms: Terms, round_seed: int | None = None, law: str = RADEMACHER) -> None:
    """`reference.add_many` for contiguous fp32, bf16 and fp16 tensors on CUDA, a launch per dtype (two with bands)."""
    batches: dict[tuple[torch.device, torch.dtype, bool], list[Item]] = {}
    for item in items:
        batches.setdefault((item[1].device, item[1].dtype, item[3] is not None), []).append(item)
    for (device, dtype, banded), batch in batches.items():
        tensors = tuple(
            (dst.data_ptr(), src.data_ptr(), src.numel(), key, *_limits(band)) for dst, src, key, band in batch
        )
        aligned = all((one | two) % 16 == 0 for one, two, *_ in tensors)
        table, blocks = _plan(tensors, device)
        with _on(device):
            _many_kernel[(blocks.numel(),)](
                table, blocks, *_sum_arguments(terms, law, device), *_halves(round_seed), KINDS[dtype], LAWS[law],
                round_seed is not None and dtype != torch.float32, banded, aligned, **OPTIONS,
            )  # fmt: skip  # the kernel's arguments in its order


def sum_squares(n: int, seed: int, key: int, device: torch.device | str = "cuda") -> int:
    """`reference.sum_squares` on CUDA."""
    device = torch.device(device)
    out = torch.empty(-(-n // GROUP), dtype=torch.int64, device=device)
    with _on(device):
        _squares_kernel[(out.numel(),)](out, n, _table(device), *_halves(seed), *_halves(key), **OPTIONS)
    return int(out.sum())

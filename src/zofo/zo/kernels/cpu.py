"""The same definition compiled for CPUs by numba: one pass over memory, no temporaries, any number of threads.

Bit for bit equal to `reference`. Compiled on first use and cached on disk beside `compiled.py` (or in NUMBA_CACHE_DIR).
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from zofo.zo.kernels import compiled
from zofo.zo.kernels.compiled import BF16, F32, FP16, GROUP, SPLIT
from zofo.zo.kernels.reference import Band, Item, Terms, Updates
from zofo.zo.laws import GAUSSIAN, RADEMACHER, TABLE_ONE, gaussian_table
from zofo.zo.window import Where, Window

SERIAL = 1 << 17  # elements below which waking a second thread costs more than it saves
_torch_threads = torch.get_num_threads()
MAX_THREADS = numba.get_num_threads()  # how many numba started
torch.set_num_threads(_torch_threads)  # starting them sets the number of OpenMP's threads, which are torch's too
DTYPES = {torch.float32: F32, torch.bfloat16: BF16, torch.float16: FP16}
TABLE = np.array(gaussian_table(), np.float32) / np.float32(TABLE_ONE)
SQUARES = np.array(gaussian_table(), np.int64) ** 2
NO_DELTA, NO_LOW, NO_TERMS = np.empty(0, np.float32), np.empty(0, np.int16), ()


def _flat(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as integers of its width, so that one signature serves bf16 and fp16."""
    as_int = tensor.detach().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)
    return as_int.view(-1).numpy()


def _arguments(terms: Terms, key: int, kind: int, round_seed: int | None, law: str, band: Band | None) -> tuple:
    """What the compiled functions take last: seeds, values, key, kind, rounding, band."""
    seeds = np.array([seed for seed, _ in terms], np.uint64)
    values = np.array([[factor] for _, factor in terms], np.float32).reshape(-1, 1)
    if law == GAUSSIAN:
        with np.errstate(over="ignore", invalid="ignore"):
            values = values * TABLE
    elif law != RADEMACHER:
        raise ValueError(f"the kernels know the laws {RADEMACHER} and {GAUSSIAN}, not {law!r}")
    rounding = np.array([] if round_seed is None else [round_seed], np.uint64)
    return seeds, values, np.uint64(key), kind, rounding, np.array(band or (), np.float32)


def _run(dst: Tensor, src: Tensor, low: np.ndarray, delta: np.ndarray, lo: Where, arguments: tuple) -> None:
    many = src.numel() > SERIAL and torch.get_num_threads() > 1
    if many:
        numba.set_num_threads(min(torch.get_num_threads(), MAX_THREADS))
    planes = _flat(dst), _flat(src), dst.data_ptr() == src.data_ptr(), low, delta
    if isinstance(lo, Window):
        rows = -(-(lo.skip + src.numel()) // lo.run)
        run = compiled.add_runs_parallel if many else compiled.add_runs
        run(*planes, lo.lo, lo.run, lo.pitch, lo.skip, 0, rows, *arguments)
        return
    first, last = lo // GROUP, (lo + src.numel() + GROUP - 1) // GROUP
    run = compiled.add_groups_parallel if many else compiled.add_groups
    run(*planes, lo, first, last, *arguments)


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
    """`reference.add` for contiguous fp32, bf16 and fp16 tensors on the CPU."""
    _run(dst, src, NO_LOW, NO_DELTA, lo, _arguments(terms, key, DTYPES[src.dtype], round_seed, law, band))


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
    """`reference.add_rows` for contiguous fp32, bf16 and fp16 tensors on the CPU."""
    arguments = _arguments(terms, key, DTYPES[src.dtype], round_seed, law, band)
    # `same` as a variable, as `_run` gives it: for a constant the loops would be compiled once more
    width = src.shape[1]
    lo, pitch = (0, width) if window is None else (window.lo, width if window.run > width else window.pitch)
    compiled.add_rows(_flat(dst), _flat(src), False, NO_LOW, NO_DELTA, rows.numpy(), width, lo, pitch, *arguments)


def add_dense(dst: Tensor, src: Tensor, delta: Tensor, key: int, lo: Where = 0, round_seed: int | None = None) -> None:
    """`reference.add_dense` for contiguous fp32, bf16 and fp16 tensors on the CPU."""
    if src.dtype == torch.float32:
        torch.add(src, delta, out=dst)
        return
    arguments = _arguments(NO_TERMS, key, DTYPES[src.dtype], round_seed, RADEMACHER, None)
    _run(dst, src, NO_LOW, delta.numpy(), lo, arguments)


def add_split(
    high: Tensor,
    low: Tensor,
    terms: Terms,
    key: int,
    lo: Where = 0,
    law: str = RADEMACHER,
    band: Band | None = None,
) -> None:
    """`reference.add_split` for contiguous planes on the CPU."""
    _run(high, high, _flat(low), NO_DELTA, lo, _arguments(terms, key, SPLIT, None, law, band))


def add_dense_split(high: Tensor, low: Tensor, delta: Tensor) -> None:
    """`reference.add_dense_split` for contiguous planes on the CPU."""
    _run(high, high, _flat(low), delta.numpy(), 0, _arguments(NO_TERMS, 0, SPLIT, None, RADEMACHER, None))


def add_many(items: Sequence[Item], terms: Terms, round_seed: int | None = None, law: str = RADEMACHER) -> None:
    """`reference.add_many` for contiguous fp32, bf16 and fp16 tensors on the CPU."""
    for dst, src, key, band in items:
        add(dst, src, terms, key, 0, round_seed, law, band)


def add_series(
    dst: Tensor, low: Tensor | None, updates: Updates, key: int, law: str = RADEMACHER, band: Band | None = None
) -> None:
    """`kernels.add_series` for contiguous fp32, bf16 and fp16 tensors on the CPU, in one pass over them."""
    terms, kind = [term for terms, _ in updates for term in terms], DTYPES[dst.dtype] if low is None else SPLIT
    seeds, values, at, kind, _, edges = _arguments(terms, key, kind, None, law, band)
    ends = np.cumsum([len(terms) for terms, _ in updates])
    roundings = np.array([seed for _, seed in updates if seed is not None], np.uint64)
    plane, groups = NO_LOW if low is None else _flat(low), -(-dst.numel() // GROUP)
    run = compiled.add_series_groups
    if dst.numel() * len(terms) > SERIAL and torch.get_num_threads() > 1:
        numba.set_num_threads(min(torch.get_num_threads(), MAX_THREADS))
        run = compiled.add_series_parallel
    run(_flat(dst), plane, NO_DELTA, 0, groups, ends, seeds, values, at, kind, roundings, edges)


def sum_squares(n: int, seed: int, key: int, device: torch.device | str = "cpu") -> int:
    """`reference.sum_squares` on the CPU."""
    del device
    return int(compiled.sum_squares(n, np.uint64(seed), np.uint64(key), SQUARES))


def noise(n: int, seed: int, key: int, lo: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """`reference.noise` on the CPU."""
    del device
    out = np.empty(n, np.int32)
    compiled.draw(out, np.uint64(seed), np.uint64(key), lo)
    return torch.from_numpy(out)

"""The kernels compiled ahead are all that a run calls: nothing is left to compile in its first step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from zofo.zo.kernels import ahead, basis, compiled, counting, cpu
from zofo.zo.laws import GAUSSIAN, RADEMACHER
from zofo.zo.low_rank_rows import orthonormal
from zofo.zo.quantile import smallest

TERMS = [(1, 0.5), (2, -0.25)]


def versions() -> dict[str, int]:
    """How many versions of each compiled function this process holds, by kinds of arguments."""
    functions: dict[str, Any] = {
        f"{module.__name__}.{name}": function
        for module in (basis, compiled, counting)
        for name, function in vars(module).items()
        if hasattr(function, "signatures")
    }
    return {name: len(function.signatures) for name, function in functions.items()}


def moved(tensor: Tensor, threads: int, law: str) -> None:
    torch.set_num_threads(threads)
    out, rows = torch.empty_like(tensor), torch.tensor([1, 0])
    whole = tensor.numel()
    for band, seed, lo in product((None, (0.0, 1.0)), (None, 3), (0, 4096)):
        cpu.add(out, tensor, TERMS, 7, lo, seed, law, band)
        cpu.add(tensor, tensor, TERMS, 7, lo, seed, law, band)
        wide = tensor.view(2, whole // 2)
        cpu.add_rows(torch.empty_like(wide), wide, rows, TERMS, 7, seed, law, band)
    for band, seed in product((None, (0.0, 1.0)), (None, 3)):
        cpu.add_series(tensor, None, [(TERMS, seed), (TERMS[:1], seed)], 7, law, band)
    cpu.add_dense(tensor, tensor, torch.zeros(tensor.shape), 7)
    cpu.add_many([(out, tensor, 7, None)], TERMS, None, law)


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_no_call_of_a_run_compiles_anything() -> None:
    ahead.compile_all()
    before = versions()
    assert all(
        before[f"zofo.zo.kernels.compiled.{name}"]
        for name in ("add_groups", "add_groups_parallel", "add_series_groups", "add_series_parallel", "add_rows")
    )

    for dtype, size, threads, law in product(
        (torch.float32, torch.bfloat16, torch.float16), (64, cpu.SERIAL + 2), (1, 2), (RADEMACHER, GAUSSIAN)
    ):
        moved(torch.zeros(size, dtype=dtype), threads, law)
        if dtype == torch.bfloat16:
            planes = torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=torch.int16)
            cpu.add_split(*planes, TERMS, 7, 0, law)
            cpu.add_series(*planes, [(TERMS, None)], 7, law)
            cpu.add_dense_split(*planes, torch.zeros(size))
    cpu.sum_squares(5000, 2**63, 2**64 - 1)
    cpu.noise(5000, 2**63, 2**64 - 1, 4096)
    orthonormal(torch.eye(5)[:, :2])
    smallest([torch.ones(9), torch.ones(9, dtype=torch.bfloat16)], [1, 3])

    assert versions() == before


def test_the_threads_are_as_they_were(threads: int) -> None:
    ahead.compile_all()
    assert torch.get_num_threads() == threads

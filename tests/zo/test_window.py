"""Parts of a tensor: each element has the bits that it has in the whole one, wherever it is held."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.kernels import reference
from zofo.zo.keys import Address
from zofo.zo.low_rank import LowRank
from zofo.zo.move import Move
from zofo.zo.support import Band, Chance, Support
from zofo.zo.window import Window

NAME, SHAPE = "model.layers.0.mlp.down_proj.weight", (37, 5, 130)
LAWS = ["rademacher", "gaussian", LowRank("lozo", 2, 7), LowRank("subzero", 2, 7)]
PARTS = {"all": None, "band": Band(0.1, 0.8), "chance": Chance(5, 1500)}
CUTS = [(0, 3, 20), (1, 1, 3), (2, 17, 60), (0, 36, 1), (2, 129, 1), (0, 0, 0)]  # (dimension, first, how many)


def moved(values: Tensor, at: Address, law: str | LowRank, part: str, split: bool = False) -> tuple[Tensor, Tensor]:
    """(theta after two terms, its residual plane)"""
    support = None if part == "all" else Support({NAME: PARTS[part]})
    out, low = values.clone(), torch.full(values.shape, 3, dtype=torch.int16)
    move = Move()
    move.set(
        [(11, 0.01), (12, -0.003)], Direction(11, law, support), None if split else 99, {NAME: low} if split else None
    )
    move.add_all([(out, out, at)])
    return out, low


def cases() -> Iterator[tuple[tuple[int, int, int], torch.dtype]]:
    return ((cut, dtype) for cut in CUTS for dtype in (torch.float32, torch.bfloat16, torch.float64))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_part_moves_as_in_the_whole(law: str | LowRank, part: str) -> None:
    for (dim, first, count), dtype in cases():
        whole = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)
        here = whole.narrow(dim, first, count).contiguous()
        at = Address.of(NAME, SHAPE, Window.of(SHAPE, dim, first, count))
        for split in (False, True) if dtype == torch.bfloat16 else (False,):
            expected = moved(whole, Address.of(NAME, SHAPE), law, part, split)
            for one, other in zip(moved(here, at, law, part, split), expected):
                assert torch.equal(one, other.narrow(dim, first, count)), (dim, dtype, split)


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize(("dim", "first", "count"), [(0, 4, 20), (1, 9, 30)])
def test_rows_of_a_table(law: str | LowRank, dim: int, first: int, count: int) -> None:
    """Those that an embedding looks up, of a part of the words or of each word's numbers."""
    table, rows = torch.randn(40, 50, generator=torch.Generator().manual_seed(2)), torch.tensor([3, 0, 17, 19])
    here = table.narrow(dim, first, count).contiguous()
    shape, move = tuple(table.shape), Move()
    move.set([(11, 0.01)], Direction(11, law), None)
    looked, expected = torch.empty(4, here.shape[1]), torch.empty(4, 50)
    move.add_rows(looked, here, rows, Address.of(NAME, shape, Window.of(shape, dim, first, count)))
    move.add_rows(expected, table, rows + (first if dim == 0 else 0), Address.of(NAME, shape))
    assert torch.equal(looked, expected if dim == 0 else expected[:, first : first + count])


def test_backends_agree_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiled loop does at once, the others do run by run; so does the parallel loop."""
    window = Window.of((900, 700), 1, 100, 300)
    values = torch.randn(900 * 300, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    outs = [torch.empty_like(values) for _ in range(3)]
    kernels.add(outs[0], values, [(1, 0.1)], 5, window, 7)
    monkeypatch.setattr(kernels, "_backend", lambda *_: reference)
    kernels.add(outs[1], values, [(1, 0.1)], 5, window, 7)
    monkeypatch.undo()
    torch.set_num_threads(2)
    try:
        kernels.add(outs[2], values, [(1, 0.1)], 5, window, 7)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


def test_noise_of_a_window() -> None:
    window = Window.of((30, 40), 1, 8, 5)
    whole = kernels.noise(1200, 3, 4).view(30, 40)
    assert torch.equal(kernels.noise(150, 3, 4, window).view(30, 5), whole[:, 8:13])

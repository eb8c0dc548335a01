"""Order statistics of any numbers, the bytes of a support, and that no mask is stored."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.float64_directions import DTYPES, random_tree, read
from zofo.zo import quantile
from zofo.zo.diagnostics import realised
from zofo.zo.direction import Direction
from zofo.zo.move import chosen
from zofo.zo.point import Point
from zofo.zo.support import Band, Chance, Indices, Support


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_smallest_of_any_bit_patterns(data: st.DataObject) -> None:
    """Subnormals, infinities, both zeros, NaN as the largest; several tensors, ties, every dtype."""
    dtype = data.draw(st.sampled_from(DTYPES))
    width = 8 * dtype.itemsize
    pattern = st.integers(-(1 << width - 1), (1 << width - 1) - 1) | st.sampled_from([0, 1, -(1 << width - 1)])
    tensors = []
    for size in data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=3)):
        drawn = data.draw(st.lists(pattern, min_size=size, max_size=size))
        tensors.append(torch.tensor(drawn, dtype=torch.int16 if width == 16 else torch.int32).view(dtype))
    total = torch.cat([t.float().abs() for t in tensors]).numpy()
    if not len(total):
        with pytest.raises(ValueError, match="ranks go from 1 to 0"):
            quantile.smallest(tensors, [1])
        return
    ranks = data.draw(st.lists(st.integers(1, len(total)), min_size=1, max_size=4))
    expected = np.sort(total)[np.array(ranks) - 1]  # numpy sorts NaN to the end
    np.testing.assert_array_equal(np.array(quantile.smallest(tensors, ranks), np.float32), expected)


def test_the_smallest_in_chunks_and_the_next_number(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    whole = quantile.smallest([x, x[:7]], [1, 500, 1007])
    monkeypatch.setattr(quantile, "CHUNK", 64)
    assert quantile.smallest([x, x[:7]], [1, 500, 1007]) == whole
    assert quantile.smallest([x.double()], [500]) == quantile.smallest([x], [500])
    for value in (0.0, 1.0, 1e-45, 0.1):
        assert np.float32(quantile.above(value)) == np.nextafter(np.float32(value), np.float32(np.inf))
    for bad in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            quantile.smallest([x], [bad])


far = st.integers(1, 2**32 - 1) | st.integers(1, 300)  # from one index to the next, from -1 to the first
indices = st.lists(far, max_size=30).map(lambda steps: [total - 1 for total in accumulate(steps)])
floats = st.floats(0, 2, width=32)
parts = st.none() | st.builds(Band, floats, floats) | st.builds(Chance, st.integers(0, 2**64 - 1), st.integers(1, 4096))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), parts | indices, max_size=5), st.floats(0.1, 10))
def test_a_support_comes_back_from_its_bytes(made: dict[str, Any], scale: float) -> None:
    support = Support({k: Indices(torch.tensor(p)) if isinstance(p, list) else p for k, p in made.items()}, scale)
    again = Support.unpack(support.pack())
    assert again.scale == scale
    assert set(again.parts) == set(made)
    for name, part in made.items():
        unpacked = again.parts[name]
        assert (unpacked.at.tolist() if isinstance(unpacked, Indices) else unpacked) == part


@pytest.mark.parametrize("at", [[2**32 - 1], [5, 2**32 + 5], [2**40]])
def test_a_gap_that_the_journal_cannot_hold_is_refused(at: list[int]) -> None:
    """It would come back as another index. The largest that fits comes back."""
    with pytest.raises(ValueError, match="the journal takes"):
        Support({"w": Indices(torch.tensor(at))}).pack()
    fits = [at[0] - 1] if len(at) == 1 and at[0] < 2**33 else [5, 2**32 + 4]
    (part,) = Support.unpack(Support({"w": Indices(torch.tensor(fits))}).pack()).parts.values()
    assert isinstance(part, Indices)
    assert part.at.tolist() == fits


def test_indices_take_four_bytes_and_about_one_in_the_journal() -> None:
    at = torch.randperm(1_000_000, generator=torch.Generator().manual_seed(0))[:10_000].sort().values.to(torch.int32)
    raw = Support({"a": Indices(at)}).pack()
    assert len(raw) < 2.5 * 10_000
    part = Support.unpack(raw).parts["a"]
    assert isinstance(part, Indices)
    assert part.at.dtype == torch.int32
    assert torch.equal(part.at, at)


def test_indices_of_a_slice_beyond_two_to_the_31() -> None:
    part = Indices(torch.tensor([5, 2**31 - 3], dtype=torch.int32))
    assert chosen(part, 2**31 - 5, 10) == (1, 2)
    assert chosen(part, 0, 6) == (0, 1)


def test_what_moves_is_never_stored_for_bands_and_draws() -> None:
    tree = random_tree(a=(300, 300))
    theta = Point(tree)
    for part in (Band(0.0, 0.05), Chance(3, 1024)):
        z = Direction(5, support=Support({"a": part}))
        with theta.shifted(z, 1e-2):
            read(tree, "a")
        assert theta.scratch_bytes == 4 * 300 * 300
        assert not [x for x in vars(part).values() if isinstance(x, Tensor)]


def test_the_share_that_a_dtype_lets_through_is_that_of_the_weights_that_move() -> None:
    """In fp32 all of it, whatever moves; in bf16 to nearest a shift below half a last place is lost."""
    parts = {"a.weight": Band(0.0, 0.05), "b.weight": Chance(3, 2048), "c.weight": Indices(torch.tensor([1, 5, 700]))}
    for law in ("rademacher", "gaussian"):
        theta = Point(random_tree(a__weight=(40, 30), b__weight=(40, 30), c__weight=(40, 30), d__weight=(9,)))
        shares = realised(theta, Direction(5, law, Support(parts)), 1e-3)
        assert set(shares) == set(parts)
        assert all(share == pytest.approx(1.0, abs=1e-4) for share in shares.values())
    large = Point(random_tree(torch.bfloat16, size=0.0, a__weight=(40, 30)))
    large["a.weight"].fill_(1.5)
    half = {"a.weight": Band(1.0, 2.0)}
    assert realised(large, Direction(5, "rademacher", Support(half)), 1e-3, "nearest") == {"a.weight": 0.0}

"""What the kernels do besides adding to a whole tensor: bands, the planes of a split weight, many tensors at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.python_ints import assert_same_bits, patterns
from zofo.zo import kernels
from zofo.zo.grad import float32
from zofo.zo.kernels import cpu, reference
from zofo.zo.kernels.reference import join, split

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAWS = ["rademacher", "gaussian"]
BANDS = [None, (0.0, 0.04), (float32(0.01), float("inf")), (2.0**-120, 2.0**-10), (0.5, 0.25)]
KEY, SEED = 0x0123456789ABCDEF, 0xFEDCBA9876543210
TERMS = [(SEED, float32(1e-3)), (SEED + 1, float32(-3e-3)), (5, 2.0**-20)]

words64 = st.integers(0, 2**64 - 1)
factors = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([1e-3, -(2.0**-24), 65000.0])
term_lists = st.lists(st.tuples(words64, factors.map(float32)), min_size=1, max_size=3)
sizes = st.integers(1, 300) | st.sampled_from([4095, 4096, 4097, 9000])
offsets = st.integers(0, 3 * 4096) | st.integers(0, 2**34)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def any_pattern(n: int, seed: int) -> Tensor:
    """fp32: random patterns and weights, the numbers whose two planes are special, and those of `patterns`."""
    x = patterns(n, torch.float32, torch.Generator().manual_seed(seed))
    edges = [0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FFFFFFF, 0x00008000, 0x00007FFF, 0x3F808000]
    edges += [0x80000000 | u for u in edges] + [0x80000000]
    at = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 1))[: len(edges)]
    signed = [u - (u >> 31 << 32) for u in edges[: len(at)]]
    x[at] = torch.tensor(signed, dtype=torch.int32).view(torch.float32)
    return x


def assert_same_planes(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> None:
    """All bits, those of NaN too."""
    assert torch.equal(one[0].view(torch.int16), two[0].view(torch.int16))
    assert torch.equal(one[1], two[1])


# --------------------------------------------------------------------------------------------------------------- band


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_band_by_hand(dtype: torch.dtype) -> None:
    """Both ends move, for either sign; what lies outside and NaN is copied. All sums are exact in every dtype."""
    src = torch.tensor([0.25, 0.5, -0.5, 0.75, 1, -1, 1.25, 0.0, -0.0, float("inf"), -float("inf"), float("nan")])
    moves = torch.tensor([False, True, True, True, True, True, False, False, False, False, False, False])
    expected = torch.where(moves, src + 0.125 * reference.signs(SEED, KEY, 7, 7 + len(src)), src)
    for round_seed in (None, 3):
        for backend in (kernels, reference) if dtype == torch.float64 else (kernels, cpu, reference):
            dst = torch.empty(len(src), dtype=dtype)
            backend.add(dst, src.to(dtype), [(SEED, 0.125)], KEY, 7, round_seed, band=(0.5, 1.0))
            assert str(dst.tolist()) == str(expected.tolist())


def test_a_band_is_of_fp32_numbers() -> None:
    """The limits count as fp32 numbers, and a weight as the number it is: one ulp decides."""
    h = float32(0.1)
    x = torch.tensor([h, -h, 0.0, h]).nextafter(torch.tensor([1.0, -1.0, 1.0, 0.0]))
    for backend in (cpu, reference):
        dst = torch.empty(4)
        backend.add(dst, x, [(SEED, 1.0)], KEY, band=(0.0, h))
        assert (dst != x).tolist() == [False, False, True, True]
        backend.add(dst, x, [(SEED, 1.0)], KEY, band=(0.0, 0.1))  # a double below fp32(0.1), which is rounded to it
        assert (dst != x).tolist() == [False, False, True, True]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES),
    law=st.sampled_from(LAWS),
    terms=term_lists,
    key=words64,
    lo=offsets,
    n=sizes,
    round_seed=st.none() | words64,
    band=st.sampled_from(BANDS),
    data=st.integers(0, 2**32),
)
def test_compiled_equals_reference_in_a_band(dtype, law, terms, key, lo, n, round_seed, band, data) -> None:
    src = patterns(n, dtype, torch.Generator().manual_seed(data))
    one, two = torch.empty_like(src), torch.empty_like(src)
    cpu.add(one, src, terms, key, lo, round_seed, law, band)
    reference.add(two, src, terms, key, lo, round_seed, law, band)
    assert_same_bits(one, two)
    if band is not None:
        size = src.float().abs()
        still = ~((float32(band[0]) <= size) & (size <= float32(band[1])))
        assert_same_bits(two[still], src[still])
    cpu.add(src, src, terms, key, lo, round_seed, law, band)  # in place
    assert_same_bits(src, two)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", LAWS)
def test_rows_in_a_band_are_slices(dtype: torch.dtype, law: str) -> None:
    for width in (1, 7, 300, 4100):
        table = patterns(11 * width, dtype, torch.Generator().manual_seed(width)).view(11, width)
        whole, rows = torch.empty_like(table), torch.tensor([3, 10, 3, 0])
        kernels.add(whole, table, TERMS, KEY, 0, 5, law, (0.0, 0.04))
        for backend in (kernels, cpu, reference):
            dst = torch.empty(4, width, dtype=dtype)
            backend.add_rows(dst, table, rows, TERMS, KEY, 5, law, (0.0, 0.04))
            assert_same_bits(dst.flatten(), whole[rows].flatten())


# -------------------------------------------------------------------------------------------------------------- split


def test_split_by_hand() -> None:
    """Nearest with ties away from zero; what is left is signed; past the largest bf16 the high plane is infinite."""
    for u, high, low in [
        (0x3F800000, 0x3F80, 0),
        (0x3F807FFF, 0x3F80, 0x7FFF),
        (0x3F808000, 0x3F81, -0x8000),
        (0x3F80FFFF, 0x3F81, -1),
        (0xBF808000, 0xBF81, -0x8000),
        (0x00000001, 0, 1),
        (0x80000000, 0x8000, 0),
        (0x7F7FFFFF, 0x7F80, -1),
        (0xFF7F8000, 0xFF80, -0x8000),
        (0x7F800000, 0x7F80, 0),
        (0xFF800000, 0xFF80, 0),
        (0x7F800001, 0x7FC0, 0),
        (0xFFFFFFFF, 0x7FC0, 0),
    ]:
        x = torch.tensor([u - (u >> 31 << 32)], dtype=torch.int32).view(torch.float32)
        one, two = split(x)
        assert (int(one.view(torch.int16)) & 0xFFFF, int(two)) == (high, low), hex(u)


def test_join_undoes_split() -> None:
    """Every number and both infinities; the high plane is the nearest bf16; every NaN stays one."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randint(-(1 << 31), 1 << 31, (1 << 18,), generator=generator).to(torch.int32)
    x = torch.cat([u.view(torch.float32), any_pattern(1 << 12, 1)])
    high, low = split(x)
    assert high.dtype == torch.bfloat16
    assert low.dtype == torch.int16
    assert_same_bits(join(high, low), x)
    gap = (x.double() - high.double()).abs()
    finite = torch.isfinite(high)
    assert bool((gap <= (x.double() - x.to(torch.bfloat16).double()).abs())[finite & torch.isfinite(x)].all())
    assert_same_bits(join(high, torch.zeros_like(low)), high.float())
    assert_same_planes(split(high.float()[finite]), (high[finite], torch.zeros_like(low[finite])))
    assert split(x.view(-1, 64).t())[0].shape == (64, len(x) // 64)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    law=st.sampled_from(LAWS),
    terms=term_lists,
    key=words64,
    lo=offsets,
    n=sizes,
    band=st.sampled_from(BANDS),
    data=st.integers(0, 2**32),
)
def test_a_split_weight_moves_as_the_fp32_number(law, terms, key, lo, n, band, data) -> None:
    """add_split is fp32 `add` on the joined numbers with the band of the high plane; compiled equals reference."""
    planes = split(any_pattern(n, data))
    moved, x = torch.empty(n), join(*planes)
    reference.add(moved, x, terms, key, lo, None, law)
    if band is not None:
        size = planes[0].float().abs()
        moved = torch.where((float32(band[0]) <= size) & (size <= float32(band[1])), moved, x)
    for backend in (kernels, cpu, reference):
        high, low = planes[0].clone(), planes[1].clone()
        backend.add_split(high, low, terms, key, lo, law, band)
        assert_same_planes((high, low), split(moved))


def test_the_band_of_a_split_weight_is_of_its_high_plane() -> None:
    """0.5 + 2^-12 has the high plane 0.5, so it moves with the bf16 weight 0.5 that the model sees."""
    x = torch.full((8,), 0.5 + 2.0**-12)
    for backend in (cpu, reference):
        high, low = split(x)
        backend.add_split(high, low, [(SEED, 2.0**-3)], KEY, band=(0.0, 0.5))
        assert torch.equal(join(high, low), x + reference.signs(SEED, KEY, 0, 8) * 2.0**-3)
        high, low = split(x)
        backend.add_split(high, low, [(SEED, 2.0**-3)], KEY, band=(float32(0.5 + 2.0**-13), 1.0))
        assert torch.equal(join(high, low), x)


def test_low_zero_starts_at_the_bf16_weight_and_keeps_small_moves() -> None:
    """1000 moves of 2^-12 of the weight's last place: bf16 alone would not move at all."""
    high, low = torch.ones(500, dtype=torch.bfloat16), torch.zeros(500, dtype=torch.int16)
    x = torch.ones(500)
    for seed in range(1000):
        kernels.add_split(high, low, [(seed, 2.0**-19)], KEY)
        kernels.add(x, x, [(seed, 2.0**-19)], KEY)
    assert torch.equal(join(high, low), x)
    assert int((x != 1).sum()) > 450


@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=sizes, data=st.integers(0, 2**32))
def test_a_dense_step_on_a_split_weight(n, data) -> None:
    planes, delta = split(any_pattern(n, data)), any_pattern(n, data + 2)
    for backend in (kernels, cpu, reference):
        high, low = planes[0].clone(), planes[1].clone()
        backend.add_dense_split(high, low, delta)
        assert_same_planes((high, low), split(join(*planes) + delta))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("law", LAWS)
def test_planes_independent_of_threads_chunks_and_strides(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planes, outputs = split(any_pattern(100_000, 3)), []
    for number in (1, 2):
        torch.set_num_threads(number)
        high, low = planes[0].clone(), planes[1].clone()
        outputs.append((high, low))
        cpu.add_split(high, low, TERMS, KEY, 17, law, (0.0, 0.04))
    parts = planes[0].clone(), planes[1].clone()
    for start, stop in ((0, 1000), (1000, 70_001), (70_001, 100_000)):
        cpu.add_split(parts[0][start:stop], parts[1][start:stop], TERMS, KEY, 17 + start, law, (0.0, 0.04))
    strided = tuple(plane.view(250, 400).t().contiguous().t() for plane in planes)
    kernels.add_split(strided[0], strided[1], TERMS, KEY, 17, law, (0.0, 0.04))
    monkeypatch.setattr(reference, "CHUNK", 7777)
    by_reference = planes[0].clone(), planes[1].clone()
    reference.add_split(*by_reference, TERMS, KEY, 17, law, (0.0, 0.04))
    for other in (outputs[1], parts, by_reference, (strided[0].reshape(-1), strided[1].reshape(-1))):
        assert_same_planes(outputs[0], other)


# --------------------------------------------------------------------------------------------------------------- many


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("round_seed", [None, 2**63 + 1])
def test_many_is_a_loop_of_add(law: str, round_seed: int | None) -> None:
    """Every dtype, shape and layout, with a band or without, out of place and in place."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((70, 60), (300, 1), (33,), (0, 5))
    tensors = [patterns(math.prod(s), dtype, generator).view(s) for dtype in DTYPES for s in shapes]
    tensors += [patterns(600, torch.bfloat16, generator).view(20, 30).t(), torch.linspace(-1, 1, 50).double()]
    bands = [None, (0.0, 0.04), None, (0.01, 2.0)] * 5
    items = [(torch.empty_like(x), x, KEY + i, bands[i]) for i, x in enumerate(tensors)]
    kernels.add_many(items, TERMS, round_seed, law)
    expected = [torch.empty_like(x) for x in tensors]
    for moved, (_, src, key, band) in zip(expected, items):
        kernels.add(moved, src, TERMS, key, 0, round_seed, law, band)
        assert not src.numel() or not torch.equal(moved.nan_to_num(), src.nan_to_num())
    kernels.add_many([(src, src, key, band) for _, src, key, band in items], TERMS, round_seed, law)
    for moved, (dst, src, _, _) in zip(expected, items):
        for result in (dst, src):
            assert result.dtype == moved.dtype
            assert_same_bits(result.float(), moved.float())

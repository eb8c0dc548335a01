"""The law gaussian: the table, the entries by hand, compiled equals reference; dense steps."""

from __future__ import annotations

import hashlib
import math
import random
import struct
from collections.abc import Iterator
from fractions import Fraction
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.python_ints import assert_same_bits, field_by_hand, patterns
from zofo.zo import kernels, laws
from zofo.zo.direction import Direction
from zofo.zo.grad import float32
from zofo.zo.kernels import cpu, reference
from zofo.zo.laws import TABLE_ONE, TABLE_SCALE, TABLE_SHA256, gaussian_table

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KEY, SEED = 0x0123456789ABCDEF, 0xFEDCBA9876543210
N = 1 << 20
TABLE = gaussian_table()


# -------------------------------------------------------------------------------------------------------------- table


def test_table() -> None:
    """Odd and ascending, so its mean is 0; the moments of the documents, as exact fractions."""
    assert len(TABLE) == 4096
    assert list(TABLE) == sorted(set(TABLE))
    assert all(a == -b for a, b in zip(TABLE, reversed(TABLE)))
    moment = {k: Fraction(sum(q**k for q in TABLE), 4096 * TABLE_ONE**k) for k in (2, 4)}
    assert abs(moment[2] - 1) < Fraction(101, 10**9)
    assert float(moment[4]) == pytest.approx(2.99149, abs=1e-5)
    assert max(TABLE) / TABLE_ONE == 3.6689453125
    raw = struct.pack("<4096h", *TABLE)
    assert hashlib.sha256(raw).hexdigest() == TABLE_SHA256
    assert all(float32(q / TABLE_ONE) == q / TABLE_ONE for q in TABLE)


def test_no_entry_of_the_table_depends_on_a_last_bit() -> None:
    """Each is the nearest integer to a quantile of Phi, by more than any library's error, and Phi (by erfc) agrees."""
    for i, q in enumerate(TABLE):
        exact = TABLE_SCALE * NormalDist().inv_cdf((2 * i + 1) / 8192)
        assert 0.5 - abs(exact - q) > 1e-3
        low, high = ((q + side) / TABLE_SCALE for side in (-0.5, 0.5))
        assert math.erfc(-low / 2**0.5) / 2 < (i + 0.5) / 4096 < math.erfc(-high / 2**0.5) / 2


def test_a_platform_with_another_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laws, "TABLE_SCALE", 4096.0)
    with pytest.raises(RuntimeError, match="other quantiles"):
        gaussian_table.__wrapped__()


# ------------------------------------------------------------------------------------------------------------ entries


def test_entries_by_hand() -> None:
    """z = table[upper 12 bits of the element's 16], at borders of words, fields and groups and anywhere."""
    rng = random.Random(1)
    for index in [0, 1, 127, 128, 255, 256, 4095, 4096, 10**9] + [rng.randrange(1 << 33) for _ in range(20)]:
        seed, key = rng.getrandbits(64), rng.getrandbits(64)
        z = TABLE[field_by_hand(seed, key, index, 16) >> 4] / 4096
        assert reference.entries("gaussian", seed, key, index, index + 1).tolist() == [z]
        one = torch.empty(1)
        cpu.add(one, torch.zeros(1), [(seed, 0.5)], key, index, law="gaussian")
        assert one.tolist() == [0.5 * z]


def test_moments_and_independence() -> None:
    z = reference.entries("gaussian", SEED, KEY, 0, N).double()
    bound = 5 / N**0.5
    assert abs(float(z.mean())) < bound
    assert abs(float(z.square().mean()) - 1) < bound * 2**0.5
    assert abs(float(z.pow(3).mean())) < bound * 15**0.5
    assert abs(float(z.pow(4).mean()) - 2.9915) < bound * 96**0.5
    others = {
        "next seed": (SEED + 1, KEY, 0),
        "next tensor": (SEED, KEY + 1, 0),
        "next element": (SEED, KEY, 1),
        "next lane": (SEED, KEY, 32),
        "other half": (SEED, KEY, 128),
        "next group": (SEED, KEY, 256),
    }
    for name, (seed, key, lo) in others.items():
        other = reference.entries("gaussian", seed, key, lo, lo + N).double()
        assert abs(float((z * other).mean())) < bound, name
        assert abs(float(((z.square() - 1) * (other.square() - 1)).mean())) < 2 * bound, name
    noise = reference.bits(Direction(SEED, "gaussian").rounding_seed, KEY, 0, N, 16).double() / 65536 - 0.5
    assert abs(float((z * noise).mean())) < bound


words64 = st.integers(0, 2**64 - 1)
factors = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([1e-3, -(2.0**-24), 65000.0])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES),
    terms=st.lists(st.tuples(words64, factors.map(float32)), min_size=1, max_size=3),
    key=words64,
    lo=st.integers(0, 3 * 4096) | st.integers(0, 2**34),
    n=st.integers(1, 300) | st.sampled_from([4095, 4096, 4097, 9000]),
    round_seed=st.none() | words64,
    data=st.integers(0, 2**32),
)
def test_compiled_equals_reference(dtype, terms, key, lo, n, round_seed, data) -> None:
    """Also that no product is fused with the addition behind it: the reference rounds both."""
    src = patterns(n, dtype, torch.Generator().manual_seed(data))
    one, two = torch.empty_like(src), torch.empty_like(src)
    cpu.add(one, src, terms, key, lo, round_seed, "gaussian")
    reference.add(two, src, terms, key, lo, round_seed, "gaussian")
    assert_same_bits(one, two)
    cpu.add(src, src, terms, key, lo, round_seed, "gaussian")  # in place
    assert_same_bits(src, two)


def test_a_fused_product_would_show() -> None:
    """The products and the sum by float64, each rounded to fp32; a fused multiply-add differs in many of 4096."""
    x, c = torch.randn(4096, generator=torch.Generator().manual_seed(0)), float32(1e-3)
    z = reference.entries("gaussian", SEED, KEY, 0, 4096).double()
    apart = (x.double() + (c * z).float().double()).float()  # a double holds a product, and a sum but for ties of it
    fused = (x.double() + c * z).float()
    assert int((apart != fused).sum()) > 10
    for backend in (cpu, reference):
        out = torch.empty(4096)
        backend.add(out, x, [(SEED, c)], KEY, law="gaussian")
        assert torch.equal(out, apart)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_slices(dtype: torch.dtype) -> None:
    for width in (1, 7, 128, 300):
        table = patterns(41 * width, dtype, torch.Generator().manual_seed(width)).view(41, width)
        terms, rows = [(SEED, 0.25), (SEED + 1, float32(-0.1))], torch.tensor([3, 40, 3, 0])
        whole = torch.empty_like(table)
        kernels.add(whole, table, terms, KEY, 0, 5, "gaussian")
        for backend in (kernels, cpu, reference):
            dst = torch.empty(4, width, dtype=dtype)
            backend.add_rows(dst, table, rows, terms, KEY, 5, "gaussian")
            assert_same_bits(dst.flatten(), whole[rows].flatten())


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_independent_of_threads_and_chunks(dtype: torch.dtype) -> None:
    src = patterns(200_003, dtype, torch.Generator().manual_seed(4))
    terms, outputs = [(SEED, float32(1e-3)), (SEED + 1, float32(-2e-3))], []
    for number in (1, 2):
        torch.set_num_threads(number)
        outputs.append(torch.empty_like(src))
        kernels.add(outputs[-1], src, terms, KEY, 17, 5, "gaussian")
    assert_same_bits(*outputs)
    parts = torch.empty_like(src)
    for start, stop in ((0, 1000), (1000, 70_001), (70_001, 200_003)):
        cpu.add(parts[start:stop], src[start:stop], terms, KEY, 17 + start, 5, "gaussian")
    assert_same_bits(parts, outputs[0])


@pytest.mark.parametrize("law", ["sphere", "cauchy"])
def test_the_kernels_know_two_laws(law: str) -> None:
    for backend in (cpu, reference):
        with pytest.raises(ValueError, match="rademacher and gaussian"):
            backend.add(torch.zeros(4), torch.zeros(4), [(1, 1.0)], KEY, law=law)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES),
    lo=st.integers(0, 9000),
    n=st.integers(1, 9000),
    round_seed=st.none() | words64,
    data=st.integers(0, 2**32),
)
def test_a_dense_step_is_rounded_as_the_same_sum(dtype, lo, n, round_seed, data) -> None:
    src = patterns(n, dtype, torch.Generator().manual_seed(data))
    expected, delta = torch.empty_like(src), reference.signs(SEED, KEY, lo, lo + n) * float32(1e-3)
    reference.add(expected, src, [(SEED, float32(1e-3))], KEY, lo, round_seed)
    for backend in (kernels, cpu, reference):
        out = torch.empty_like(src)
        backend.add_dense(out, src, delta, KEY, lo, round_seed)
        assert_same_bits(out, expected)

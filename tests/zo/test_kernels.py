"""The bits of a direction and of the rounding: the written definition, the reference, the compiled kernel."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.python_ints import assert_same_bits, field_by_hand, magnitudes, patterns, philox_by_hand, round_by_hand
from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad
from zofo.zo.kernels import cpu, reference
from zofo.zo.point import Point

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALVES = DTYPES[1:]
KEY, SEED = 0x0123456789ABCDEF, 0xFEDCBA9876543210


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter: str, key: str, expected: str) -> None:
    """The kat_vectors of Random123, the library of Philox's authors."""
    c, k, want = ([int(word, 16) for word in text.split()] for text in (counter, key, expected))
    assert philox_by_hand(c, k) == want
    c0, c1, c2, c3 = (torch.tensor([word]) for word in c)
    assert [int(word) for word in reference.philox((c0, c1, c2, c3), k[0] | k[1] << 32)] == want


def test_bits_by_hand() -> None:
    """Any element of any draw is where the definition says: at borders of lanes, words, fields and groups."""
    rng = random.Random(0)
    for k in (1, 16):
        per_group = 4096 // k
        edges = [0, 1, 31, 32, 127, 128, 255, per_group - 1, per_group, 5 * per_group + 1, 10**9]
        for index in edges + [rng.randrange(1 << 33) for _ in range(10)]:
            seed, key = rng.getrandbits(64), rng.getrandbits(64)
            assert reference.bits(seed, key, index, index + 1, k).tolist() == [field_by_hand(seed, key, index, k)]


def test_compiled_kernel_by_hand() -> None:
    lo, n, c = 4096 * 3 - 40, 200, 0.5
    dst, src = torch.empty(n), torch.zeros(n)
    cpu.add(dst, src, [(SEED, c)], KEY, lo)
    assert dst.tolist() == [c if field_by_hand(SEED, KEY, lo + i, 1) else -c for i in range(n)]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("backend", [reference, cpu])
def test_stochastic_rounding_by_hand(dtype: torch.dtype, backend) -> None:
    generator = torch.Generator().manual_seed(1)
    src = patterns(150, dtype, generator)
    src = src[torch.isfinite(src)]
    grid, lo, factor, key, rounding = magnitudes(dtype), 1000, 2.0**-9 * 1.37, 5, 77
    factor = struct.unpack("<f", struct.pack("<f", factor))[0]
    for c in (factor, factor * 2**-12, factor * 2**16):  # near the small, the subnormal and the large numbers
        dst = torch.empty_like(src)
        backend.add(dst, src, [(SEED, c)], key, lo, rounding)
        moved = src.float() + c * reference.signs(SEED, key, lo, lo + len(src))
        noise = reference.bits(rounding, key, lo, lo + len(src), 16).tolist()
        exact = [Fraction(x) for x in moved.double().tolist()]
        assert dst.double().tolist() == [round_by_hand(x, grid, r, dtype) for x, r in zip(exact, noise)]


# ------------------------------------------------------------------------------------------ compiled equals reference


words64 = st.integers(0, 2**64 - 1)
factors = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([2.0**-10, -(2.0**-24), 65000.0])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES),
    terms=st.lists(st.tuples(words64, factors), min_size=1, max_size=3),
    key=words64,
    lo=st.integers(0, 3 * 4096) | st.integers(0, 2**34),
    n=st.integers(1, 200) | st.sampled_from([4095, 4096, 4097, 9000]),
    round_seed=st.none() | words64,
    data=st.integers(0, 2**32),
)
def test_compiled_equals_reference(dtype, terms, key, lo, n, round_seed, data) -> None:
    src = patterns(n, dtype, torch.Generator().manual_seed(data))
    one, two = torch.empty_like(src), torch.empty_like(src)
    cpu.add(one, src, terms, key, lo, round_seed)
    reference.add(two, src, terms, key, lo, round_seed)
    assert_same_bits(one, two)
    cpu.add(src, src, terms, key, lo, round_seed)  # in place
    assert_same_bits(src, two)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES),
    rows=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    width=st.sampled_from([1, 7, 128, 300]),
    count=st.integers(1, 3),
    round_seed=st.none() | words64,
)
def test_rows_are_slices(dtype, rows, width, count, round_seed) -> None:
    """add_rows, repeated rows and any order included, is `add` on the whole table, then a lookup."""
    table = patterns(41 * width, dtype, torch.Generator().manual_seed(width)).view(41, width)
    terms = [(SEED + i, 0.25 * 3**-i) for i in range(count)]
    whole = torch.empty_like(table)
    kernels.add(whole, table, terms, KEY, 0, round_seed)
    index = torch.tensor(rows)
    for backend in (kernels, cpu, reference):
        dst = torch.empty(len(rows), width, dtype=dtype)
        backend.add_rows(dst, table, index, terms, KEY, round_seed)
        assert_same_bits(dst.flatten(), whole[index].flatten())


@pytest.mark.parametrize("dtype", DTYPES)
def test_nearest_is_torchs_cast(dtype: torch.dtype) -> None:
    src = patterns(20_000, dtype, torch.Generator().manual_seed(3))
    for c in (1e-3, 3e-8, 1.0, 70000.0):
        c = float(torch.tensor(c))
        expected = (src.float() + c * reference.signs(SEED, KEY, 0, len(src))).to(dtype)
        for backend in (cpu, reference):
            dst = torch.empty_like(src)
            backend.add(dst, src, [(SEED, c)], KEY)
            assert_same_bits(dst, expected)


def test_float64_uses_the_same_directions() -> None:
    x = torch.linspace(-1, 1, 5000, dtype=torch.float64)
    y = x.clone()
    kernels.add(y, y, [(SEED, 1e-3)], KEY, 11)
    c = float(torch.tensor(1e-3))
    assert torch.equal(y, x + c * reference.signs(SEED, KEY, 11, 5011).double())


def test_terms_are_summed_in_fp32_in_their_order() -> None:
    """(big + small) - big loses what big - big + small keeps: the order is part of the result."""
    terms = [(1, 1e8), (2, 1.0), (3, 1e8)]
    dst, again = torch.zeros(4096), torch.zeros(4096)
    cpu.add(dst, dst, terms, KEY)
    cpu.add(again, again, [terms[0], terms[2], terms[1]], KEY)
    z = [reference.signs(seed, KEY, 0, 4096) * c for seed, c in terms]
    assert torch.equal(dst, (z[0] + z[1]) + z[2])
    assert not torch.equal(dst, again)


# ---------------------------------------------------------------------------- chunks, threads, strides, tensor order


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_independent_of_threads(dtype: torch.dtype) -> None:
    src = patterns(200_003, dtype, torch.Generator().manual_seed(4))
    assert src.numel() > cpu.SERIAL
    terms, outputs = [(SEED, 1e-3), (SEED + 1, -2e-3)], []
    for number in (1, 2):
        torch.set_num_threads(number)
        dst = torch.empty_like(src)
        kernels.add(dst, src, terms, KEY, 17, 5)
        outputs.append(dst)
    assert_same_bits(*outputs)
    reference.add(dst, src, terms, KEY, 17, 5)
    assert_same_bits(dst, outputs[0])


def test_the_kernels_leave_torchs_threads_alone() -> None:
    """numba's pool and torch share OpenMP: starting one must not change how many threads the other uses."""
    code = """
import torch
torch.set_num_threads(1)
from zofo.zo.kernels import cpu
assert torch.get_num_threads() == 1, torch.get_num_threads()
x = torch.zeros(200_000)
for number in (1, 2, 1):
    torch.set_num_threads(number)
    cpu.add(x, x, [(1, 1e-3)], 5)
    assert torch.get_num_threads() == number
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(1, 11_999), max_size=4), dtype=st.sampled_from(DTYPES), by_reference=st.booleans())
def test_independent_of_chunks(cuts: list[int], dtype: torch.dtype, by_reference: bool) -> None:
    src = patterns(12_000, dtype, torch.Generator().manual_seed(5))
    backend = reference if by_reference else cpu
    whole, parts = torch.empty_like(src), torch.empty_like(src)
    backend.add(whole, src, [(SEED, 1e-3)], KEY, 100, 9)
    edges = [0, *sorted(set(cuts)), 12_000]
    for start, stop in pairwise(edges):
        backend.add(parts[start:stop], src[start:stop], [(SEED, 1e-3)], KEY, 100 + start, 9)
    assert_same_bits(whole, parts)


def test_independent_of_the_references_own_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    src = patterns(10_000, torch.bfloat16, torch.Generator().manual_seed(6))
    whole, parts = torch.empty_like(src), torch.empty_like(src)
    reference.add(whole, src, [(SEED, 1e-3)], KEY, 3, 9)
    monkeypatch.setattr(reference, "CHUNK", 777)
    reference.add(parts, src, [(SEED, 1e-3)], KEY, 3, 9)
    assert_same_bits(whole, parts)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_strided_tensors_are_numbered_row_major(dtype: torch.dtype) -> None:
    base = (torch.randn(40, 30, generator=torch.Generator().manual_seed(7)) * 0.1).to(dtype)
    strided, plain = base.t().clone(memory_format=torch.preserve_format), base.t().contiguous()
    assert not strided.is_contiguous()
    kernels.add(strided, strided, [(SEED, 1e-3)], KEY, 0, 1)
    kernels.add(plain, plain, [(SEED, 1e-3)], KEY, 0, 1)
    assert torch.equal(strided, plain)
    rows = torch.tensor([3, 0, 29])
    one, two = torch.empty(3, 40, dtype=dtype), torch.empty(3, 40, dtype=dtype)
    kernels.add_rows(one, base.t(), rows, [(SEED, 1e-3)], KEY, 1)
    kernels.add_rows(two, base.t().contiguous(), rows, [(SEED, 1e-3)], KEY, 1)
    assert torch.equal(one, two)


def test_independent_of_tensor_order_and_of_the_other_tensors() -> None:
    """A tensor's z depends on its name alone: not on the order of the parameters, nor on what else is in theta."""

    def module(names: str) -> nn.Module:
        return nn.ParameterDict({name: nn.Parameter(torch.zeros(300)) for name in names})

    moved = []
    for names, chosen in (("abc", None), ("cab", None), ("abc", {"b", "c"})):
        point = Point(module(names), chosen)
        point.add_(ZOGrad(((1.0, Direction(SEED)),), 0.0, 0), -1e-3, None)
        moved.append(point)
    assert all(torch.equal(moved[0][name], moved[1][name]) for name in "abc")
    assert all(torch.equal(moved[0][name], moved[2][name]) for name in "bc")
    assert not torch.equal(moved[0]["a"], moved[0]["b"])


def test_without_a_c_compiler_cuda_falls_back_to_plain_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Triton needs one to start a kernel. (The choice alone: no tensor has to be on a GPU.)"""
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    kernels._has_triton.cache_clear()
    assert kernels._backend(torch.device("cuda")) is reference
    assert "set CC" in caplog.text
    kernels._has_triton.cache_clear()
    monkeypatch.setattr(kernels.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert kernels._has_triton()
    kernels._has_triton.cache_clear()

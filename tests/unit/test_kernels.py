"""The bits of a direction and of the rounding: the written definition, the reference, the compiled kernel."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad
from zofo.zo.keys import derive, tensor_key
from zofo.zo.kernels import cpu, reference
from zofo.zo.point import Point

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALVES = DTYPES[1:]
MASK = 0xFFFFFFFF
KEY, SEED = 0x0123456789ABCDEF, 0xFEDCBA9876543210

# ------------------------------------------------------------------------ the definition once more, with Python's ints


def philox_by_hand(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 as in Salmon et al. 2011, section 3.3, word by word."""
    x, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * x[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * x[2], 1 << 32)
        x = [high1 ^ x[1] ^ k[0], low1, high0 ^ x[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % (1 << 32), (k[1] + 0xBB67AE85) % (1 << 32)]
    return x


def field_by_hand(seed: int, key: int, index: int, k: int) -> int:
    """The k bits of element `index` of the tensor `key`, from the docstring of zo/direction.py."""
    group, e = divmod(index, 4096 // k)
    lane, j = divmod(e & 127, 32)
    words = philox_by_hand([32 * group + j, key & MASK, key >> 32, 0], [seed & MASK, seed >> 32])
    return words[lane] >> (k * (e >> 7)) & ((1 << k) - 1)


def magnitudes(dtype: torch.dtype) -> list[Fraction]:
    """The finite numbers >= 0 of a 16-bit type, ascending, and what would be the next one if it had no infinity."""
    patterns = torch.arange(0x8000, dtype=torch.int32).to(torch.int16).view(dtype)
    finite = [Fraction(x) for x in patterns.double().tolist() if x != float("inf") and x == x]
    return [*finite, 2 * finite[-1] - finite[-2]]


def round_by_hand(x: Fraction, grid: list[Fraction], noise: int, dtype: torch.dtype) -> float:
    """Stochastic rounding from docs/journal.md: down or up in magnitude, by 16 bits of noise."""
    size, sign = abs(x), -1 if x < 0 else 1
    if size >= grid[-1]:
        return sign * float("inf")
    low, high = 0, len(grid) - 1  # grid[low] <= size < grid[high]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if grid[middle] <= size else (low, middle)
    part = (size - grid[low]) / (grid[high] - grid[low])
    if dtype == torch.bfloat16:
        up = part * 65536 + noise >= 65536
    elif size >= Fraction(1, 1 << 14):
        up = part * 8192 + (noise >> 3) >= 8192
    else:
        up = noise < part * 65536
    chosen = grid[high] if up else grid[low]
    return sign * (float("inf") if chosen == grid[-1] else float(chosen))


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


def patterns(n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Half of them any bit pattern (subnormals, inf, NaN and the largest numbers too), half of a weight's size."""
    width, whole = (16, torch.int16) if dtype.itemsize == 2 else (32, torch.int32)
    raw = torch.randint(-(1 << width - 1), 1 << width - 1, (n,), generator=generator).to(whole).view(dtype)
    weights = (torch.randn(n, generator=generator) * 0.05).to(dtype)
    out = torch.where(torch.rand(n, generator=generator) < 0.5, raw, weights)
    special = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), torch.finfo(dtype).max, torch.finfo(dtype).tiny]
    special += [torch.finfo(dtype).smallest_normal / 4, 65504.0, 65519.996, 2.0**-14, 2.0**-25]
    at = torch.randperm(n, generator=generator)[: len(special)]
    out[at] = torch.tensor(special[: len(at)], dtype=torch.float64).to(dtype)
    return out


def bits_of(x: Tensor) -> Tensor:
    """Integers that are equal where the bits are, every NaN made the same one."""
    x = torch.where(torch.isnan(x), torch.full_like(x, float("nan")), x)
    return x.contiguous().view(torch.int16 if x.dtype.itemsize == 2 else torch.int32)


def assert_same_bits(one: Tensor, two: Tensor) -> None:
    assert one.dtype == two.dtype
    wrong = (bits_of(one) != bits_of(two)).nonzero().flatten()
    assert not len(wrong), f"{len(wrong)} elements differ, first {one[wrong[0]]} and {two[wrong[0]]} at {wrong[0]}"


words64 = st.integers(0, 2**64 - 1)
factors = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(DTYPES),
    terms=st.lists(st.tuples(words64, factors | st.sampled_from([1e-3, -1e-7, 2.0**-24, 65000.0])), min_size=1, max_size=3),
    key=words64,
    lo=st.integers(0, 3 * 4096) | st.integers(0, 2**34),
    n=st.integers(1, 200) | st.sampled_from([4095, 4096, 4097, 9000]),
    round_seed=st.none() | words64,
    data=st.integers(0, 2**32),
)  # fmt: skip
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
    terms, found = [(SEED, 1e-3), (SEED + 1, -2e-3)], []
    for number in (1, 2):
        torch.set_num_threads(number)
        dst = torch.empty_like(src)
        kernels.add(dst, src, terms, KEY, 17, 5)
        found.append(dst)
    assert_same_bits(*found)
    reference.add(dst, src, terms, KEY, 17, 5)
    assert_same_bits(dst, found[0])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(1, 11_999), max_size=4), dtype=st.sampled_from(DTYPES), by_reference=st.booleans())
def test_independent_of_chunks(cuts: list[int], dtype: torch.dtype, by_reference: bool) -> None:
    src = patterns(12_000, dtype, torch.Generator().manual_seed(5))
    backend = reference if by_reference else cpu
    whole, parts = torch.empty_like(src), torch.empty_like(src)
    backend.add(whole, src, [(SEED, 1e-3)], KEY, 100, 9)
    edges = [0, *sorted(set(cuts)), 12_000]
    for start, stop in zip(edges, edges[1:]):
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


# ------------------------------------------------------------------------------------------------------- statistics

N = 1 << 20
BOUND = 5 / N**0.5  # five standard deviations of the mean of N independent signs


def test_rademacher_moments() -> None:
    z = reference.signs(SEED, KEY, 0, N)
    assert torch.equal(z.abs(), torch.ones(N))  # so the variance is 1 and |z| = sqrt(d) exactly
    others = {
        "mean": torch.ones(N),
        "next seed": reference.signs(SEED + 1, KEY, 0, N),
        "next tensor": reference.signs(SEED, KEY + 1, 0, N),
        "seed and key swapped": reference.signs(KEY, SEED, 0, N),
        "next element": reference.signs(SEED, KEY, 1, N + 1),
        "next word": reference.signs(SEED, KEY, 32, N + 32),
        "next lane": reference.signs(SEED, KEY, 128, N + 128),
        "next group": reference.signs(SEED, KEY, 4096, N + 4096),
    }
    for name, other in others.items():
        assert abs(float((z * other).mean())) < BOUND, name


@pytest.mark.parametrize("dtype", HALVES)
def test_stochastic_rounding_is_unbiased(dtype: torch.dtype) -> None:
    """The mean of the rounded values is the value, for normal and for subnormal numbers, over the elements."""
    half = dtype == torch.float16
    for size, step in [
        (0.75, 2.0**-11 if half else 2.0**-8),
        (1.5 * 2.0**-15, 2.0**-24) if half else (2e-30, 2.0**-106),
    ]:
        src = torch.full((N,), size, dtype=dtype)
        size = float(src[0])
        for part in (0.1, 0.37, 0.9):
            c = float(torch.tensor(part * step))
            dst = torch.empty_like(src)
            kernels.add(dst, src, [(SEED, c)], KEY, 0, 123)
            z = reference.signs(SEED, KEY, 0, N).double()
            error = (dst.double() - size - c * z) / step
            assert float(error.abs().max()) < 1
            assert abs(float(error.mean())) < BOUND / 2
            assert abs(float((error * z).mean())) < BOUND / 2  # nor any bias along z
            assert abs(float(error.var()) - part * (1 - part)) < 0.01


def test_rounding_bits_are_independent_of_z() -> None:
    direction = Direction(SEED)
    assert direction.rounding_seed not in (direction.seed, derive(0, "round/update", 0))
    z = reference.signs(direction.seed, KEY, 0, N)
    noise = reference.bits(direction.rounding_seed, KEY, 0, N, 16)
    assert int(noise.min()) < 100
    assert int(noise.max()) > 65436
    for bit in range(16):
        sign = 2.0 * (noise >> bit & 1) - 1
        assert abs(float(sign.mean())) < BOUND, bit
        assert abs(float((z * sign).mean())) < BOUND, bit


def test_keys_are_those_of_the_documents() -> None:
    import hashlib

    name = "model.layers.0.self_attn.q_proj.weight"
    assert tensor_key(name) == int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    assert derive(7, "z", 3) == int.from_bytes(hashlib.sha256(b"7/z/3").digest()[:8], "little")
    assert len({derive(7, "z", 3), derive(7, "round/update", 3), derive(7, "z", 4), derive(8, "z", 3)}) == 4


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        Direction(seed)

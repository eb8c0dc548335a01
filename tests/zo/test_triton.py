"""The Triton kernels: equal to the reference in Triton's interpreter, and what the compiler makes of them for a GPU.

TRITON_INTERPRET has to be set before Triton is imported, so the functions check_... run in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.python_ints import assert_same_bits, patterns
from tests.thinned import latin
from zofo.zo import kernels
from zofo.zo.grad import float32
from zofo.zo.kernels import reference
from zofo.zo.kernels.reference import Band, Terms, split
from zofo.zo.window import Window

pytest.importorskip("triton")
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAWS = ["rademacher", "gaussian"]
KEY, SEED = 0xF123456789ABCDEF, 0xFEDCBA9876543210
TERMS = [(SEED, float32(1e-3)), (7, float32(-3e-3)), (2**63, 2.0**-20)]
FACTORS = [1e-3, 2.0**-24, -0.0, 65000.0, 3e38]  # for weights, for subnormals, that move nothing, that overflow
BAND = (2.0**-130, 0.04)
N = 37 + 4096  # a cut group and a whole one


def run_checks(*options: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", __file__, "-o", "python_functions=check_*", "-p", "no:cacheprovider"]
    command += ["--noconftest", "-p", "no:xdist", *options]  # of both it takes nothing, and seconds to load
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:]


def test_equal_to_the_reference_in_the_interpreter() -> None:
    run_checks(TRITON_INTERPRET="1")


@pytest.mark.slow
def test_each_combination_is_equal_in_the_interpreter() -> None:
    run_checks("-m", "slow", TRITON_INTERPRET="1")


@pytest.mark.gpu
def test_equal_to_the_reference_on_a_gpu() -> None:
    run_checks("-m", "", TRITON_INTERPRET="0")


def test_the_backend_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(device: str, dtype: torch.dtype) -> str:
        return kernels._backend(torch.device(device), dtype).__name__.rpartition(".")[2]

    for dtype in DTYPES:
        assert [name("cpu", dtype), name("cuda:0", dtype), name("mps", dtype)] == ["cpu", "cuda", "reference"]
    assert {name(device, torch.float64) for device in ("cpu", "cuda:0")} == {"reference"}
    monkeypatch.setattr(kernels, "_has_triton", lambda: False)
    assert name("cuda:0", torch.float32) == "reference"


# ----------------------------------------------------------------------------- what runs in the interpreter or on CUDA


def on_device(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(DEVICE, copy=True) for tensor in tensors]


def assert_adds_alike(
    src: Tensor, terms: Terms, lo: int = 0, round_seed: int | None = None, law: str = LAWS[0], band: Band | None = None
) -> None:
    """Out of place, and on a GPU in place too (in the interpreter: `check_many`)."""
    from zofo.zo.kernels import cuda

    expected, (x, dst) = torch.empty_like(src), on_device(src, torch.empty_like(src))
    reference.add(expected, src, terms, KEY, lo, round_seed, law, band)
    cuda.add(dst, x, terms, KEY, lo, round_seed, law, band)
    assert_same_bits(dst.cpu(), expected)
    if DEVICE == "cuda":
        cuda.add(x, x, terms, KEY, lo, round_seed, law, band)
        assert_same_bits(x.cpu(), expected)


@pytest.mark.parametrize(("dtype", "law", "round_seed", "band"), latin(DTYPES, LAWS, [None, 2**64 - 1], [None, BAND]))
def check_add(dtype: torch.dtype, law: str, round_seed: int | None, band: Band | None) -> None:
    """Three terms, with all special numbers."""
    src = patterns(N, dtype, torch.Generator().manual_seed(1))
    assert_adds_alike(src, TERMS, 4096 - 37, round_seed, law, band)


@pytest.mark.parametrize("dtype", DTYPES)
def check_factors_offsets_and_sizes(dtype: torch.dtype) -> None:
    """A move of -0 leaves -0; factors that reach subnormals and infinity; first elements and lengths of every kind."""
    generator = torch.Generator().manual_seed(2)
    for i, factor in enumerate(FACTORS):
        src = torch.cat([patterns(150, dtype, generator), torch.tensor([0.0, -0.0]).to(dtype)])
        assert_adds_alike(src, [(SEED, float32(factor))], 3, 5, LAWS[i % 2])
        assert_adds_alike(src, [(SEED, float32(factor))], 3, None, LAWS[1 - i % 2])
    for lo, n in ((0, 1), (4095, 2), (16, 4096), (2**33 + 5, 300)):
        assert_adds_alike(patterns(n, dtype, generator), TERMS[:2], lo, 9)


@pytest.mark.parametrize("width", [1, 300, 4100])
@pytest.mark.parametrize("band", [None, BAND])
def check_rows(width: int, band: Band | None) -> None:
    from zofo.zo.kernels import cuda

    rows = torch.tensor([3, 10, 3, 0])
    for dtype, law in zip(DTYPES, [*LAWS, LAWS[0]], strict=True):
        table = patterns(11 * width, dtype, torch.Generator().manual_seed(width)).view(11, width)
        expected, (dst, src, at) = torch.empty(4, width, dtype=dtype), on_device(table[:4], table, rows)
        reference.add_rows(expected, table, rows, TERMS[:1], KEY, 5, law, band)
        cuda.add_rows(dst, src, at, TERMS[:1], KEY, 5, law, band)
        assert_same_bits(dst.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("round_seed", [None, 2**63])
def check_dense(dtype: torch.dtype, round_seed: int | None) -> None:
    from zofo.zo.kernels import cuda

    src, delta = (patterns(4200, kind, torch.Generator().manual_seed(4)) for kind in (dtype, torch.float32))
    expected, (x, move) = torch.empty_like(src), on_device(src, delta)
    reference.add_dense(expected, src, delta, KEY, 100, round_seed)
    cuda.add_dense(x, x, move, KEY, 100, round_seed)
    assert_same_bits(x.cpu(), expected)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("band", [None, BAND])
def check_split(law: str, band: Band | None) -> None:
    """All bits of both planes, those of NaN too."""
    from zofo.zo.kernels import cuda

    high, low = split(patterns(4200, torch.float32, torch.Generator().manual_seed(5)))
    delta = patterns(4200, torch.float32, torch.Generator().manual_seed(6))
    x, y, move = on_device(high, low, delta)
    for _ in range(2):  # random weights, then what came out
        cuda.add_split(x, y, TERMS, KEY, 100, law, band)
        reference.add_split(high, low, TERMS, KEY, 100, law, band)
        assert torch.equal(x.cpu().view(torch.int16), high.view(torch.int16))
        assert torch.equal(y.cpu(), low)
        cuda.add_dense_split(x, y, move)
        reference.add_dense_split(high, low, delta)
        assert torch.equal(x.cpu().view(torch.int16), high.view(torch.int16))
        assert torch.equal(y.cpu(), low)


@pytest.mark.parametrize("law", LAWS)
def check_many(law: str) -> None:
    """In place, aligned or not, two launches a dtype; the last one of the unaligned tensors is empty."""
    from zofo.zo.kernels import cuda

    generator = torch.Generator().manual_seed(7)
    for shift, round_seed in ((0, 3), (1, None)):
        tensors = [patterns(n, dtype, generator) for dtype in DTYPES for n in (4200, 300, 2)]
        moved = [x.to(DEVICE, copy=True)[shift:] for x in (*tensors, torch.zeros(1))]
        bands = [None, BAND, None, (0.0, 1.0), None, BAND, BAND, BAND, None, None]
        expected = [x.cpu().clone() for x in moved]
        cuda.add_many([(x, x, KEY - i, bands[i]) for i, x in enumerate(moved)], TERMS[:2], round_seed, law)
        for i, (x, y) in enumerate(zip(moved, expected, strict=True)):
            reference.add(y, y, TERMS[:2], KEY - i, 0, round_seed, law, bands[i])
            assert_same_bits(x.cpu(), y)


@pytest.mark.parametrize("window", [Window(100, 300, 500), Window(2**33, 4100, 9000, 4000), Window(7, 3, 5, 1)])
def check_windows(window: Window) -> None:
    """Runs of a tensor at a pitch, from within one on: element by element as in the whole tensor; rows of a table."""
    from zofo.zo.kernels import cuda

    n, generator = 2 * window.run + 1, torch.Generator().manual_seed(8)
    for dtype, law, band in zip(DTYPES, [*LAWS, LAWS[0]], (None, BAND, None), strict=True):
        src, delta = patterns(n, dtype, generator), patterns(n, torch.float32, generator)
        expected, dense = torch.empty_like(src), torch.empty_like(src)
        for here, lo in window.spans(n):
            reference.add(expected[here], src[here], TERMS[:2], KEY, lo, 5, law, band)
            reference.add_dense(dense[here], src[here], delta[here], KEY, lo, 5)
        dst, given, move = on_device(torch.empty_like(src), src, delta)
        cuda.add(dst, given, TERMS[:2], KEY, window, 5, law, band)
        assert_same_bits(dst.cpu(), expected)
        cuda.add_dense(dst, given, move, KEY, window, 5)
        assert_same_bits(dst.cpu(), dense)
    rows = torch.tensor([3, 0, 5])
    for part in (Window.of((9, 300), 0, 2, 6), Window.of((6, 300), 1, 7, 200)):
        table = patterns(6 * (300 if part.run > 300 else 200), torch.float32, generator).view(6, -1)
        expected, (dst, src, at) = torch.empty(3, table.shape[1]), on_device(table[:3], table, rows)
        reference.add_rows(expected, table, rows, TERMS[:1], KEY, 5, LAWS[0], None, part)
        cuda.add_rows(dst, src, at, TERMS[:1], KEY, 5, LAWS[0], None, part)
        assert_same_bits(dst.cpu(), expected)


def check_sum_squares() -> None:
    from zofo.zo.kernels import cuda

    for n in (1, 4096, N):
        assert cuda.sum_squares(n, SEED, KEY, DEVICE) == reference.sum_squares(n, SEED, KEY)


def check_unknown_laws_are_refused() -> None:
    from zofo.zo.kernels import cuda

    with pytest.raises(ValueError, match="rademacher and gaussian"):
        cuda.add(torch.zeros(4), torch.zeros(4), [(1, 1.0)], KEY, law="sphere")


# ----------------------------------------------------------------------------------------------------- the compiler


INTEGERS = ("n", "first_group", "offset", "key_low", "key_high", "count", "round_low", "round_high", "width", "run")
SCALARS = {**dict.fromkeys((*INTEGERS, "pitch", "skip"), "i32"), "first": "i64", "least": "fp32", "most": "fp32"}
POINTERS = {"terms": "*i32", "table": "*fp32", "rows": "*i64", "items": "*i64", "blocks": "*i32"}
FLAGS = ("KIND", "LAW", "STOCHASTIC", "BAND", "ALIGNED")
VARIANTS = [  # (kernel, flags, arguments that are 1 and so constants)
    ("_add_kernel", (0, 1, False, False), ()),
    ("_add_kernel", (2, 1, True, True), ("n", "offset", "count")),
    ("_add_kernel", (3, 2, False, False), ()),
    ("_rows_kernel", (1, 0, True, True), ("width", "count")),
    ("_runs_kernel", (1, 1, True, True), ()),
    ("_runs_kernel", (0, 0, False, False), ("n", "count")),
    ("_many_kernel", (1, 0, True, True, True), ()),
]


@pytest.mark.parametrize(("kernel", "flags", "ones"), VARIANTS)
def test_compiles_for_a_gpu_with_no_fused_product(kernel, flags, ones, tmp_path, monkeypatch) -> None:
    """To machine code, on any machine: a product fused with its sum, or flushed subnormals, would change the bits."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from zofo.zo.kernels import cuda

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function, width = getattr(cuda, kernel), "*i32" if flags[0] == 0 else "*i16"
    arrays = {"dst": width, "src": width, "low": width, "delta": "*fp32" if flags[1] == 2 else width, **POINTERS}
    constants = dict(zip(FLAGS, flags)) | dict.fromkeys(ones, 1)
    types = {**SCALARS, **arrays, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(
        fn=function,
        signature={name: types[name] for name in function.arg_names},
        constexprs={(function.arg_names.index(name),): value for name, value in constants.items()},
    )
    code = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=cuda.OPTIONS).asm["ptx"]
    assert "add.f32" in code or "add.rn.f32" in code
    assert "fma" not in code
    assert "ftz" not in code

"""The law of a direction and of the rounding noise: moments, independence, keys."""

from __future__ import annotations

import hashlib

import pytest
import torch

from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key

HALVES = [torch.bfloat16, torch.float16]
KEY, SEED = 0x0123456789ABCDEF, 0xFEDCBA9876543210
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
    name = "model.layers.0.self_attn.q_proj.weight"
    assert tensor_key(name) == int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    assert derive(7, "z", 3) == int.from_bytes(hashlib.sha256(b"7/z/3").digest()[:8], "little")
    assert len({derive(7, "z", 3), derive(7, "round/update", 3), derive(7, "z", 4), derive(8, "z", 3)}) == 4


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        Direction(seed)

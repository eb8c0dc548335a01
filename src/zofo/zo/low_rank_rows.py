"""Rows of the products that `low_rank` defines, and the bases they are made of."""

from __future__ import annotations

import math
from collections.abc import MutableMapping

import torch
from torch import Tensor

from zofo.zo import kernels
from zofo.zo.keys import Address, tensor_key
from zofo.zo.laws import GAUSSIAN, TABLE_ONE
from zofo.zo.low_rank import LowRank, as_matrix

EXACT = 2.0**53
Store = MutableMapping[tuple, Tensor]


def product(
    law: LowRank,
    seed: int,
    at: Address,
    rows: Tensor | slice,
    device: torch.device,
    store: Store,
    columns: slice = slice(None),
) -> Tensor:
    """Rows of z for one matrix: fp32 [rows, columns].

    rows: a slice, or int64 numbers. store: where subzero's bases are kept, m r + n r numbers a matrix; those of an
    earlier `basis` are dropped.
    """
    left, right, scale = _factors(law, seed, at, rows, device, store)
    _check(left, right)
    return (left @ right[columns].T).mul_(scale).to(torch.float32)


def product_at(law: LowRank, seed: int, at: Address, where: Tensor, store: Store, chunk: int = 1 << 16) -> Tensor:
    """The entries of z with these row-major numbers, int64 [k]: fp32 [k]."""
    left, right, scale = _factors(law, seed, at, slice(None), where.device, store)
    _check(left, right)
    n = at.shape[-1]
    parts = [
        (left[numbers // n] * right[numbers % n]).sum(1).mul_(scale).to(torch.float32) for numbers in where.split(chunk)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, device=where.device)


def _factors(
    law: LowRank, seed: int, at: Address, rows: Tensor | slice, device: torch.device, store: Store
) -> tuple[Tensor, Tensor, float]:
    """(left [rows, r], right [n, r], scale): z = scale left right', whole numbers in double precision."""
    m, n = as_matrix(at.shape)
    if law.kind == "lozo":
        left = gaussian(seed, f"{at.name}/U", m, law.rank, device)[rows]
        right = gaussian(law.basis, f"{at.name}/V", n, law.rank, device)
        return left.double(), right.double(), 1 / (math.sqrt(law.rank) * TABLE_ONE**2)
    u, unit_u = _basis(law, at.name, "U", m, device, store)
    v, unit_v = _basis(law, at.name, "V", n, device, store)
    left, z = u[rows].double(), gaussian(seed, f"{at.name}/Z", law.rank, law.rank, device).double().T
    _check(left, z)
    return left @ z.T, v.double(), math.sqrt(m * n) / law.rank / TABLE_ONE * unit_u * unit_v


def _check(left: Tensor, right: Tensor) -> None:
    """Raises ArithmeticError where a sum of products of these whole numbers might be rounded."""
    bound = float(left.abs().max()) * float(right.abs().max()) * right.shape[1] if len(left) else 0.0
    if bound >= EXACT:
        raise ArithmeticError(f"a low-rank product may reach {bound:.3g}, which double precision does not hold exactly")


def gaussian(seed: int, name: str, m: int, r: int, device: torch.device) -> Tensor:
    """A Gaussian matrix [m, r] times 4096: whole numbers, in fp32."""
    out = torch.zeros(m, r, dtype=torch.float32, device=device)
    kernels.add(out, out, [(seed, float(TABLE_ONE))], tensor_key(name), law=GAUSSIAN)
    return out


def _basis(law: LowRank, name: str, side: str, m: int, device: torch.device, store: Store) -> tuple[Tensor, float]:
    """(whole numbers [m, r] in fp32, unit): the orthonormal columns are their product with the unit."""
    unit = 2.0 ** -(9 + math.ceil(math.log2(m) / 2))
    key = (law, name, side)
    if key not in store:
        for old in [k for k in store if k[0] != law]:
            del store[old]
        columns = gaussian(law.basis, f"{name}/{side}", m, law.rank, torch.device("cpu"))
        store[key] = torch.round(orthonormal(columns) / unit).to(torch.float32).to(device)
    return store[key], unit


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the span of the columns [m, r], in double precision: Gram and Schmidt, twice.

    Each sum is taken from the first element to the last and every operation is rounded on its own, so that the bits are
    the same everywhere, which LAPACK's are not.
    """
    from zofo.zo.kernels.basis import gram_schmidt

    out = columns.double().T.contiguous().numpy()
    gram_schmidt(out)
    return torch.from_numpy(out).T

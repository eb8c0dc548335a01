"""Directions that are a product of thin matrices in each weight matrix: few numbers stand for m n.

Of a tensor with two or more dimensions, seen as W [m, n] (its last dimension is n), and min(m, n) > r:

    lozo      z = U V' / sqrt(r)                 U [m, r] new with each seed, V [n, r] kept between refreshes
    subzero   z = sqrt(m n) / r  U Z V'          Z [r, r] new with each seed, U and V orthonormal and kept

(LOZO: Chen et al., arXiv 2410.07698; SubZero: Yu et al., arXiv 2410.08989.) U of lozo, V of lozo and Z have Gaussian
entries; subzero's U and V come from Gram and Schmidt. The factors before the products make E[z z'] = I over all draws,
as for the other laws. Every other tensor has a Gaussian direction.

All entries are whole multiples of a power of two, so small that a product of these matrices is exact in double
precision: any order of the sums, any BLAS and any device give the same bits. An orthonormal basis is rounded to
2^-9 of its entries' size for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LowRank:
    """rank: r. basis: the seed of what is kept between refreshes."""

    kind: Literal["lozo", "subzero"]
    rank: int
    basis: int

    def applies(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > 1 and min(as_matrix(shape)) > self.rank


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """(m, n): all dimensions but the last are rows."""
    return math.prod(shape[:-1]), shape[-1]


def bytes_kept(law: LowRank, shapes: dict[str, tuple[int, ...]]) -> int:
    """Bytes of subzero's bases for tensors of these shapes; lozo keeps none."""
    if law.kind == "lozo":
        return 0
    return sum(4 * law.rank * sum(as_matrix(shape)) for shape in shapes.values() if law.applies(shape))

"""A direction z, held as the seed that regenerates it (MeZO's memory trick, arXiv 2305.17333, Algorithm 1).

Definition of the bits, the same on every backend. A tensor's elements are numbered row-major from 0. A draw takes `k`
bits an element (signs 1, Gaussian entries and rounding 16). A *group* is 32 consecutive counters of Philox4x32-10,
which give 128 words of 32 bits and so serve `4096 / k` elements:

    counter  (32 group + j, low word of the tensor key, high word of the tensor key, 0),  j = 0 ... 31
    key      (low word of the seed, high word of the seed)
    word     w = 32 lane + j, for the four output lanes of counter j
    element  e of the group takes word `e & 127`, bits `k (e >> 7)` to `k (e >> 7) + k - 1`, least significant first

The layout needs no bit interleaving, so it vectorises, and any slice of a tensor can be made alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zofo.zo.keys import derive
from zofo.zo.laws import GAUSSIAN, LAWS, RADEMACHER

if TYPE_CHECKING:
    from zofo.zo.low_rank import LowRank
    from zofo.zo.support import Support


@dataclass(frozen=True)
class Direction:
    """The random direction z in R^d of one estimate, as (seed, law, support). E[z z'] = I (docs/algorithms.md).

    rademacher: independent signs, +1 where the element's bit is 1. |z| = sqrt(d) exactly.
    gaussian: independent entries of `laws.gaussian_table`, by the upper 12 bits of the element's 16.
    sphere: the gaussian direction of the seed times one number (`Point.stretch`) that makes |z| = sqrt(d).
    LowRank: a product of thin matrices in each weight matrix, gaussian in every other tensor.
    support: the weights that z moves, of which d is the number then; None: all. Elsewhere z is 0.
    """

    seed: int
    law: str | LowRank = RADEMACHER
    support: Support | None = None

    def __post_init__(self) -> None:
        if isinstance(self.law, str) and self.law not in LAWS:
            raise ValueError(f"unknown law {self.law!r}; known: {', '.join(LAWS)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"a direction's seed has 64 bits, got {self.seed}")

    @property
    def entries(self) -> str:
        """The kernels' law: rademacher, or gaussian (of which the sphere is a multiple)."""
        return RADEMACHER if self.law == RADEMACHER else GAUSSIAN

    @property
    def rounding_seed(self) -> int:
        """Key of the stochastic rounding of theta + scale z; the same for +eps and -eps, and never that of z."""
        return derive(self.seed, "round/shift")

"""A direction z, held as the seed that regenerates it (MeZO's memory trick, arXiv 2305.17333, Algorithm 1).

Definition of the bits, the same on every backend. A tensor's elements are numbered row-major from 0. A draw takes `k`
bits an element (signs 1, rounding 16). A *group* is 32 consecutive counters of Philox4x32-10, which give 128 words of
32 bits and so serve `4096 / k` elements:

    counter  (32 group + j, low word of the tensor key, high word of the tensor key, 0),  j = 0 ... 31
    key      (low word of the seed, high word of the seed)
    word     w = 32 lane + j, for the four output lanes of counter j
    element  e of the group takes word `e & 127`, bits `k (e >> 7)` to `k (e >> 7) + k - 1`, least significant first

The layout needs no bit interleaving, so it vectorises, and any slice of a tensor can be made alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from zofo.zo.keys import derive

RADEMACHER = "rademacher"
LAWS = (RADEMACHER,)
GROUP_BITS = 4096


@dataclass(frozen=True)
class Direction:
    """The random direction z in R^d of one estimate, as (seed, law).

    rademacher: independent signs, +1 where the element's bit is 1. E[z z'] = I and |z| = sqrt(d) exactly (SPEC 3.10).
    """

    seed: int
    law: str = RADEMACHER

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise ValueError(f"unknown law {self.law!r}; known: {', '.join(LAWS)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"a direction's seed has 64 bits, got {self.seed}")

    @property
    def rounding_seed(self) -> int:
        """Key of the stochastic rounding of theta + scale z; the same for +eps and -eps, and never that of z."""
        return derive(self.seed, "round/shift")

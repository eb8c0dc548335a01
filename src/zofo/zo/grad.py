"""ZOGrad: a zeroth-order gradient, sum_i c_i z_i, as coefficients and directions. It never holds d numbers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from zofo.zo.direction import Direction


def float32(x: float) -> float:
    """x rounded once to fp32: what the journal stores is exactly what the update used."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return float("inf") if x > 0 else float("-inf")


@dataclass(frozen=True)
class ZOGrad:
    """An estimate of a gradient with respect to theta.

    terms: (c_i, z_i) in the order in which an update adds them; c_i is a fp32 number, and all z_i have one law and
    support.
    value: the objective at theta as the estimate saw it (for SPSA the mean of the two sides), for logs.
    forwards: evaluations of the objective that the estimate took.

    Raises ValueError where the terms' laws or supports differ.
    """

    terms: tuple[tuple[float, Direction], ...]
    value: float
    forwards: int

    def __post_init__(self) -> None:
        laws = {z.law for _, z in self.terms}
        if len(laws) > 1:
            raise ValueError(f"the terms of one estimate share a law, got {', '.join(sorted(map(str, laws)))}")
        if len({id(z.support) for _, z in self.terms}) > 1:
            raise ValueError("the terms of one estimate share a support")

    @property
    def c(self) -> float:
        """The coefficient for logs: the first that is not 0, since directions that do not count have 0; or 0."""
        return next((c for c, _ in self.terms if c != 0), 0.0)

    def __add__(self, other: ZOGrad) -> ZOGrad:
        """The sum of two estimates, term after term."""
        return ZOGrad(self.terms + other.terms, self.value + other.value, self.forwards + other.forwards)

"""Two-point SPSA: the objective at theta + eps z and theta - eps z (Spall 1992; MeZO, Definition 1).

| symbol | field | default | place |
|---|---|---|---|
| epsilon | eps | 1e-3 | Bilevel ZOFO eq. (7); B.1.3 |
| z | law | rademacher | N(0,I) in Algorithm 2, a sphere of radius sqrt(d) in the theory; docs/algorithms.md, law of z |
| n | q | 1 | MeZO, Definition 1: n-SPSA averages n of them |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zofo.zo.estimators import _base
from zofo.zo.grad import ZOGrad, float32

if TYPE_CHECKING:
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(_base.Config):
    """The radius, the law, and the number of directions."""


class Estimator(_base.Base):
    """The mean over q directions of c z, c = [f(theta + eps z) - f(theta - eps z)] / (2 eps).

    2 q evaluations of f, no state.
    """

    def __call__(self, f: Callable[[], float], theta: Point, step: int, seed: int) -> ZOGrad:
        terms, value = [], 0.0
        eps, q, rounding = self.config.eps, self.config.q, self.config.rounding
        directions = self.directions(theta, step, seed)
        sides = self.evaluated(directions, lambda z: theta.sides(f, z, eps, rounding), width=2)
        for z, (plus, minus) in zip(directions, sides):
            terms.append((float32((plus - minus) / (2 * eps) / q), z))
            value += (plus + minus) / 2
        return ZOGrad(tuple(terms), value / q, 2 * q)

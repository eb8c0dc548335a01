"""One-sided SPSA: the objective at theta + eps z and at theta: a forward difference.

| symbol | field | default | place |
|---|---|---|---|
| epsilon | eps | 1e-3 | Bilevel ZOFO eq. (7); B.1.3 |
| z | law | rademacher | as in `spsa` |

The paper's public code estimates so (preset `authors`). c = <grad f, z> + eps/2 z' H z + O(eps^2): the curvature term
is what the two sides of `spsa` cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zofo.zo.direction import Direction
from zofo.zo.estimators import _base
from zofo.zo.grad import ZOGrad, float32

if TYPE_CHECKING:
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(_base.Config):
    """The fields of `spsa`."""


class Estimator(_base.Base):
    """The mean over q directions of c z, c = [f(theta + eps z) - f(theta)] / eps. 1 + q evaluations of f, no state."""

    def __call__(self, f: Callable[[], float], theta: Point, step: int, seed: int) -> ZOGrad:
        eps, q, terms = self.config.eps, self.config.q, []

        def shifted(z: Direction) -> tuple[float]:
            with theta.shifted(z, eps, self.config.rounding):
                return (f(),)

        ((value,),) = self.ranks.directions([None], lambda _: (f(),), width=1)  # by one of those that share, for all
        directions = self.directions(theta, step, seed)
        for z, (plus,) in zip(directions, self.evaluated(directions, shifted, width=1)):
            terms.append((float32((plus - value) / eps / q), z))
        return ZOGrad(tuple(terms), value, 1 + q)

    def drift_(self, theta: Point, z: Direction) -> None:
        with theta.shifted(z, self.config.eps, self.config.rounding):
            pass

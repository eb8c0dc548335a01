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
        eps, q, directions = self.config.eps, self.config.q, self.directions(theta, step, seed)
        value, losses = self.losses(f, theta, directions)
        terms = tuple((float32((plus - value) / eps / q), z) for plus, z in zip(losses, directions))
        return ZOGrad(terms, value, 1 + q)

    def losses(self, f: Callable[[], float], theta: Point, directions: list[Direction]) -> tuple[float, list[float]]:
        """f at theta, and at theta + eps z for each direction."""

        def shifted(z: Direction) -> tuple[float]:
            with theta.shifted(z, self.config.eps, self.config.rounding):
                return (f(),)

        ((value,),) = self.ranks.directions([None], lambda _: (f(),), width=1)  # by one of those that share, for all
        return value, [loss for (loss,) in self.evaluated(directions, shifted, width=1)]

    def drift_(self, theta: Point, z: Direction) -> None:
        with theta.shifted(z, self.config.eps, self.config.rounding):
            pass

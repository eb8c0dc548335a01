"""One-sided SPSA: one direction, the objective at theta + eps z and at theta: a forward difference.

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

from zofo.estimators import spsa
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32

if TYPE_CHECKING:
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(spsa.Config):
    """The fields of `spsa`."""

    def drift_(self, theta: Point, z: Direction) -> None:
        with theta.shifted(z, self.eps, self.rounding):
            pass


class Estimator(spsa.Estimator):
    """c = [f(theta + eps z) - f(theta)] / eps; the estimate is c z. Two evaluations of f, no state."""

    def __call__(self, f: Callable[[], float], theta: Point, step: int, seed: int) -> ZOGrad:
        """Estimate the gradient of f at theta. seed: 64-bit seed of z, a new one each step. c is rounded to fp32."""
        z, eps = Direction(seed, self.config.law), self.config.eps
        value = f()
        with theta.shifted(z, eps, self.config.rounding):
            plus = f()
        return ZOGrad(((float32((plus - value) / eps), z),), value=value, forwards=2)

"""Two-point SPSA: the objective at theta + eps z and theta - eps z (Spall 1992; MeZO, Definition 1).

| symbol | field | default | place |
|---|---|---|---|
| epsilon | eps | 1e-3 | Bilevel ZOFO eq. (7); B.1.3 |
| z | law | rademacher | N(0,I) in Algorithm 2, a sphere of radius sqrt(d) in the theory; docs/algorithms.md, law of z |
| n | q | 1 | MeZO, Definition 1: n-SPSA averages n of them |
"""

from __future__ import annotations

from dataclasses import dataclass

from zofo.zo.estimators import _base


@dataclass(frozen=True)
class Config(_base.Config):
    """The radius, the law, and the number of directions."""


class Estimator(_base.TwoPoint):
    """The mean over q directions of c z, c = [f(theta + eps z) - f(theta - eps z)] / (2 eps). No state."""

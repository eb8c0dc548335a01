"""LOZO: two-point SPSA along products of thin matrices, one of them kept for a while (Chen et al., arXiv 2410.07698).

| symbol | field | default | place |
|---|---|---|---|
| r_l | rank | 2 | the authors' repository searches 1 and 2 |
| nu | refresh | 50 | lazy sampling; the authors' repository searches 50 and 100 |
| epsilon | eps | 1e-3 | the same |

Z_l = U V' / sqrt(r) for each matrix, U [m, r] new at each step, V [n, r] every `refresh` steps, both of Gaussian
entries; every other tensor has Gaussian entries. Theirs perturbs by eps U V' and divides the estimate by r; here the
perturbation is eps U V' / sqrt(r), of the length that `spsa`'s has, and <Z, G> Z = <U V', G> U V' / r is the same
estimate. No matrix is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zofo.zo.estimators import _base, spsa
from zofo.zo.keys import derive
from zofo.zo.low_rank import LowRank


@dataclass(frozen=True)
class Config(_base.Shift):
    rank: int = field(default=2, metadata={"help": "columns of U and V", "paper": "r_l; authors' code: 1, 2", "ge": 1})
    refresh: int = field(
        default=50, metadata={"help": "steps that share V", "paper": "nu; authors' code: 50, 100", "ge": 1}
    )


class Estimator(spsa.Estimator):
    """The mean over q directions of c Z. 2 q evaluations of f, no state."""

    config: Config

    def law(self, step: int) -> LowRank:
        return LowRank("lozo", self.config.rank, derive(self.seed, "lozo/basis", step // self.config.refresh))

"""LOZO: two-point SPSA along products of thin matrices, one of them kept for a while (Chen et al., arXiv 2410.07698).

| symbol | field | default | place |
|---|---|---|---|
| r_l | rank | 2 | section 6: 2 for OPT, 8 is no better |
| nu | refresh | 50 | Algorithm 1, lazy sampling; section 6: 50 or 100 |
| epsilon | eps | 1e-3 | Algorithm 1 |

Z_l = U V' / sqrt(r) for each matrix, U [m, r] new at each step, V [n, r] every `refresh` steps, both of Gaussian
entries; every other tensor has Gaussian entries. Their estimate has U V' / r where this one has z z-wise
<Z, G> Z = <U V', G> U V' / r: the same; the perturbation is U V' / sqrt(r) long instead of U V', so that eps means what
it means in `spsa`. No matrix is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zofo.estimators import _base
from zofo.zo.keys import derive
from zofo.zo.low_rank import LowRank


@dataclass(frozen=True)
class Config(_base.Shift):
    rank: int = field(default=2, metadata={"help": "columns of U and V", "paper": "section 6", "ge": 1})
    refresh: int = field(default=50, metadata={"help": "steps that share V", "paper": "nu, Algorithm 1", "ge": 1})


class Estimator(_base.TwoPoint):
    """The mean over q directions of c Z. 2 q evaluations of f, no state."""

    config: Config

    def law(self, step: int) -> LowRank:
        return LowRank("lozo", self.config.rank, derive(self.seed, "lozo/basis", step // self.config.refresh))

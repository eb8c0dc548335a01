"""SubZero: two-point SPSA in a random subspace of each matrix, kept for a while (Yu et al., arXiv 2410.08989).

| symbol | field | default | place |
|---|---|---|---|
| r | rank | 24 | the example of the authors' repository |
| F | refresh | 1000 | the same |
| epsilon | eps | 1e-3 | that of MeZO |

Z_l = sqrt(m n) / r  U Z V' for each matrix, U and V orthonormal and new every `refresh` steps, Z [r, r] of Gaussian
entries new at each step; every other tensor has Gaussian entries. The factor makes the perturbation as long as that of
`spsa`. U and V are kept, 4 bytes for each of their (m + n) r numbers; a replay makes them again from their seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from zofo.zo.estimators import _base, spsa
from zofo.zo.keys import derive
from zofo.zo.low_rank import LowRank, bytes_kept

if TYPE_CHECKING:
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(_base.Shift):
    rank: int = field(
        default=24, metadata={"help": "dimensions of U and V", "paper": "r; authors' example: 24", "ge": 1}
    )
    refresh: int = field(
        default=1000, metadata={"help": "steps that share U and V", "paper": "F; authors' example: 1000", "ge": 1}
    )


class Estimator(spsa.Estimator):
    """The mean over q directions of c Z. 2 q evaluations of f. State: U and V, which their seed gives again."""

    keeps: ClassVar = "for the bases of the subspaces"
    config: Config

    def law(self, step: int) -> LowRank:
        return LowRank("subzero", self.config.rank, derive(self.seed, "subzero/basis", step // self.config.refresh))

    def host_bytes(self, theta: Point) -> float:
        return bytes_kept(self.law(0), {name: tuple(t.shape) for name, t in theta.items()})

"""ZO-signSGD: theta <- theta - lr sign(g), the sign of each entry of the estimate (Liu et al., ICLR 2019).

g = sum_i c_i z_i. With one direction of signs it is sign(c) z: every weight moves by lr whatever the size of c. The
sign of the scalar c alone, which keeps a Gaussian z as it is, is another method: `rule.scalar_sign` of the rule `sgd`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zofo.zo.grad import float32
from zofo.zo.rules._base import Dense, Rounded

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.zo.dense_update import Piece


@dataclass(frozen=True)
class Config(Rounded):
    """Only the rounding."""


class Rule(Dense):
    """No state. 0 extra bytes a weight, 2 with rounding `split`."""

    config: Config

    def begin(self, lr: float) -> None:
        self.rate = float32(-lr)

    def formula(self, piece: Piece, **state: Tensor) -> Tensor:
        return piece.g.sign_().mul_(self.rate)

"""R-AdaZO: Adam whose second moment is that of the momentum (Shu et al., ICML 2025, arXiv 2502.01014).

| symbol | field | default | place |
|---|---|---|---|
| beta_1 | beta1 | 0.9 | Adam's |
| beta_2 | beta2 | 0.99 | the paper's, as a third party's comparison of rules has it |
| zeta | zeta | 1e-8 | Adam's epsilon, here inside the root |

m <- beta_1 m + (1 - beta_1) g; v <- beta_2 v + (1 - beta_2) m^2; theta <- theta - lr m / sqrt(v + zeta). m varies less
than g, so v is nearer to what the gradient's square is. There is no bias correction, so the first step moves every
weight by lr / sqrt(1 - beta_2), 10 rates, and a few dozen further ones by several. With signs and one term a step |m|
is no single number, so unlike `adam` the denominator differs from weight to weight. The update is that of secondary
sources (junaidaliop.github.io/zij/math/radazo): of the paper's own text only the abstract was seen.

8 more bytes a weight in fp32, 4 in bf16, 2.03 in 8 bits (`state`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from zofo.zo.grad import float32
from zofo.zo.rules._base import Dense, Kept

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.zo.dense_update import Piece


@dataclass(frozen=True)
class Config(Kept):
    beta1: float = field(default=0.9, metadata={"help": "decay of the mean of g", "ge": 0, "lt": 1})
    beta2: float = field(default=0.99, metadata={"help": "decay of the mean of m^2", "ge": 0, "lt": 1})
    zeta: float = field(default=1e-8, metadata={"help": "added to the mean of m^2, below the root", "gt": 0})


class Rule(Dense):
    """State: m and v for each tensor. 2 numbers a weight, and `split`'s plane."""

    keeps: ClassVar = {"m": True, "v": False}
    largest: ClassVar = 1e17  # as for `adam`
    config: Config

    def begin(self, lr: float) -> None:
        self.rate = float32(-lr)

    def formula(self, piece: Piece, **state: Tensor) -> Tensor:
        m, v, cfg = state["m"], state["v"], self.config
        m.mul_(float32(cfg.beta1)).add_(piece.g * float32(1 - cfg.beta1))
        v.mul_(float32(cfg.beta2)).add_((m * m).mul_(float32(1 - cfg.beta2)))
        below = (v + float32(cfg.zeta)).double().sqrt_().float()  # why in double: rules/adam.py
        return (m * self.rate).div_(below)

"""Adam on theta, without weight decay: two moments of every weight (Kingma and Ba 2015; Bilevel ZOFO B.1.4).

| symbol | field | default | place |
|---|---|---|---|
| beta_1, beta_2 | beta1, beta2 | 0.9, 0.999 | Adam, Algorithm 1; B.1.4 gives none |
| epsilon of Adam | adam_eps | 1e-8 | Adam, Algorithm 1 |

8 more bytes a weight in fp32, 4 in bf16, 2.03 in 8 bits (`state`). The gradient of weight e is
g[e] = sum_i c_i z_i[e]. Every operation below is rounded on its own (docs/journal.md), so a replay has the same bits.
With signs (law rademacher) and one term a step, g^2 = c^2 everywhere: v is one number, the denominator one scalar, and
Adam is SGD with momentum at a rate that follows the size of c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from zofo.zo.grad import float32
from zofo.zo.rules._base import Dense, Kept

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.zo.dense_update import Piece


@dataclass(frozen=True)
class Config(Kept):
    beta1: float = field(default=0.9, metadata={"help": "decay of the mean of g", "ge": 0, "lt": 1})
    beta2: float = field(default=0.999, metadata={"help": "decay of the mean of g^2", "ge": 0, "lt": 1})
    adam_eps: float = field(default=1e-8, metadata={"help": "added to the root of the mean of g^2", "gt": 0})


class Rule(Dense):
    """State: m and v for each tensor, and the powers of the betas. 2 numbers a weight, and `split`'s plane."""

    keeps: ClassVar = {"m": True, "v": False}
    largest: ClassVar = 1e17  # its square, of a sum of terms too, is a fp32 number: an infinite v would stop a weight
    config: Config

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed)
        self.powers = (1.0, 1.0)  # beta1^t, beta2^t

    def begin(self, lr: float) -> None:
        self.powers = (self.powers[0] * self.config.beta1, self.powers[1] * self.config.beta2)  # pow rounds differently
        self.rate = float32(-lr / (1 - self.powers[0]))
        self.root = float32(1 / math.sqrt(1 - self.powers[1]))

    def formula(self, piece: Piece, **state: Tensor) -> Tensor:
        m, v, g, cfg = state["m"], state["v"], piece.g, self.config
        m.mul_(float32(cfg.beta1)).add_(g * float32(1 - cfg.beta1))
        v.mul_(float32(cfg.beta2)).add_(g.mul_(g).mul_(float32(1 - cfg.beta2)))
        # torch's fp32 root on CPUs is off by a last bit at every fifth number. One taken in double, off by a last bit
        # there at most, is right when rounded to fp32: no fp32 number's root is within 2^-51 of a tie
        below = v.double().sqrt_().float()
        return (m * self.rate).div_(below.mul_(self.root).add_(float32(cfg.adam_eps)))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "powers": list(self.powers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.powers = (state["powers"][0], state["powers"][1])

"""ZO-SGD with momentum: m <- mu m + g, theta <- theta - lr m (Polyak 1964; Sutskever et al. 2013, equation 1).

| symbol | field | default | place |
|---|---|---|---|
| mu | momentum | 0.9 | the usual one; Sutskever et al. try 0.9 to 0.99 |

4 more bytes a weight in fp32, 2 in bf16, 1.02 in 8 bits (`state`). In torch's words: dampening 0, no Nesterov. The
steps add up to 1 / (1 - mu) of SGD's, so the rate is that much smaller.
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
    momentum: float = field(default=0.9, metadata={"help": "decay of the sum of past g", "ge": 0, "lt": 1})


class Rule(Dense):
    """State: m for each tensor. 1 number a weight, and `split`'s plane."""

    keeps: ClassVar = {"m": True}
    config: Config

    def begin(self, lr: float) -> None:
        self.rate = float32(-lr)

    def formula(self, piece: Piece, **state: Tensor) -> Tensor:
        return state["m"].mul_(float32(self.config.momentum)).add_(piece.g) * self.rate

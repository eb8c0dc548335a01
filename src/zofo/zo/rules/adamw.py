"""AdamW on theta: Adam, and a decay of the weights beside it (Loshchilov and Hutter, arXiv 1711.05101, Algorithm 2).

| symbol | field | default | place |
|---|---|---|---|
| lambda | weight_decay | 0.01 | Algorithm 2 leaves it open; torch.optim.AdamW's |
| beta_1, beta_2, epsilon | beta1, beta2, adam_eps | 0.9, 0.999, 1e-8 | as in `adam` |

Each weight that moves also shrinks by lr weight_decay of itself, one that rests does not. With a band of magnitudes a
weight may so come back into it, which without a decay it cannot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zofo.zo.grad import float32
from zofo.zo.rules import adam

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.zo.dense_update import Piece


@dataclass(frozen=True)
class Config(adam.Config):
    weight_decay: float = field(default=0.01, metadata={"help": "share of a weight that lr takes off it", "ge": 0})


class Rule(adam.Rule):
    """State: that of `adam`."""

    config: Config

    def begin(self, lr: float) -> None:
        super().begin(lr)
        self.decay = float32(-lr * self.config.weight_decay)

    def formula(self, piece: Piece, **state: Tensor) -> Tensor:
        return super().formula(piece, **state).add_(piece.values() * self.decay)

"""ZO-SGD with momentum that is made again from the last h seeds and coefficients: no number is kept for a weight.

| symbol | field | default | place |
|---|---|---|---|
| mu | momentum | 0.9 | as in `momentum` |
| h | h | 10 | as in `adamezo` (arXiv 2605.00650), whose first moment this is |

    m = sum_j mu^j g_(t-j),  j = 0, ..., h - 1,  theta <- theta - lr m

The sum that is cut off is mu^h of the whole one, 0.35 with the defaults: the steps add up to (1 - mu^h) / (1 - mu) of
`sgd`'s, 6.5 where `momentum` has 10. With h no less than the steps of a run it is `momentum`, to the bit, under any
mask.

0 extra bytes a weight: of each step of the window 12 bytes a term are kept. A step makes z h times; see `_rebuilt`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from zofo.zo.grad import float32
from zofo.zo.rules import _rebuilt

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Config(_rebuilt.Config):
    momentum: float = field(default=0.9, metadata={"help": "decay of the sum of past g", "ge": 0, "lt": 1})


class Rule(_rebuilt.Rebuilt):
    """State: the window. 0 extra bytes a weight, 2 with rounding `split`."""

    numbers: ClassVar = ("m",)
    config: Config

    def begin(self, lr: float) -> None:
        self.rate = float32(-lr)

    def fold(self, g: Tensor, **numbers: Tensor) -> None:
        numbers["m"].mul_(float32(self.config.momentum)).add_(g)

    def delta(self, **numbers: Tensor) -> Tensor:
        return numbers["m"] * self.rate

"""MEAZO: ZO-SGD at a rate that one scalar second moment sets (Dbouk et al., arXiv 2605.03869).

| symbol | field | default | place |
|---|---|---|---|
| beta | beta | 0.99 | ours: the value of the paper was not at hand |
| zeta | zeta | 1e-8 | the same |

g_t = (1/q) sum_i Delta_i, the mean of the step's directional derivatives; v <- beta v + (1 - beta) g_t^2;
theta <- theta - lr / (sqrt(v / (1 - beta^t)) + zeta) sum_i c_i z_i, where c_i = Delta_i / q, so g_t = sum_i c_i.
With one direction it is `sgd` with `normalize` and `memory` = beta but for zeta (tests/zo/rules/test_meazo.py). With
several, `normalize` divides each c_i by its own running square, and MEAZO all of them by one number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zofo.zo.rules._base import Rounded, Scaled


@dataclass(frozen=True)
class Config(Rounded):
    beta: float = field(default=0.99, metadata={"help": "decay of the mean square of g", "ge": 0, "lt": 1})
    zeta: float = field(default=1e-8, metadata={"help": "added to the root of that mean square", "gt": 0})


class Rule(Scaled):
    """State: v and 1 - beta^t (two numbers). 0 extra bytes a weight, 2 with rounding `split`."""

    config: Config

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed)
        self.v, self.weight = 0.0, 0.0

    def scaled(self, coefficients: Sequence[float]) -> list[float]:
        beta, mean = self.config.beta, sum(coefficients)
        self.v = beta * self.v + (1 - beta) * (mean * mean)
        self.weight = beta * self.weight + (1 - beta)
        below = math.sqrt(self.v / self.weight) + self.config.zeta
        return [c / below for c in coefficients]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "v": self.v, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.v, self.weight = state["v"], state["weight"]

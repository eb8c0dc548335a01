"""ZO-SGD: theta <- theta - lr sum_i c_i z_i, the scalars normalised or clipped if asked (MeZO, Algorithm 1).

| symbol | field | default | place |
|---|---|---|---|
| c | clip | none | docs/algorithms.md, ZO-SGD |
| c | normalize | false | docs/algorithms.md, ZO-SGD |
| sign(c) | scalar_sign | false | the scalar's sign; that of the vector is the rule `sign` |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zofo.zo.rules._base import Rounded, Scaled


@dataclass(frozen=True)
class Config(Rounded):
    clip: float | None = field(default=None, metadata={"help": "bound on |c|, after normalisation", "gt": 0})
    normalize: bool = field(default=False, metadata={"help": "divide c by the running root mean square of past c"})
    scalar_sign: bool = field(default=False, metadata={"help": "each c becomes its sign: every step is lr z long"})
    memory: float = field(default=0.99, metadata={"help": "decay of that running mean square", "ge": 0, "lt": 1})

    def problems(self) -> list[str]:
        if self.scalar_sign and (self.normalize or self.clip is not None):
            return ["scalar_sign: the sign of c has size 1, so leave out normalize and clip"]
        return []


class Rule(Scaled):
    """State: the running mean square of c (two numbers). 0 extra bytes a weight, 2 with rounding `split`."""

    config: Config

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed)
        self.mean_square, self.weight = 0.0, 0.0

    def scaled(self, coefficients: Sequence[float]) -> list[float]:
        return [self._scale(c) for c in coefficients]

    def _scale(self, c: float) -> float:
        if self.config.scalar_sign:
            return float((c > 0) - (c < 0))
        if self.config.normalize:
            keep = self.config.memory
            self.mean_square = keep * self.mean_square + (1 - keep) * (c * c)
            self.weight = keep * self.weight + (1 - keep)  # sums to less than 1 at first: Adam's bias correction
            root = math.sqrt(self.mean_square / self.weight)
            c = c / root if root > 0 else c
        if self.config.clip is not None:
            c = max(-self.config.clip, min(self.config.clip, c))
        return c

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mean_square": self.mean_square, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.mean_square, self.weight = state["mean_square"], state["weight"]

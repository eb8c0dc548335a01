"""Adam on theta, without weight decay: moments of every weight, 8 more bytes each (Kingma and Ba 2015; B.1.4).

| symbol | field | default | place |
|---|---|---|---|
| beta_1, beta_2 | beta1, beta2 | 0.9, 0.999 | Adam, Algorithm 1; B.1.4 gives none |
| epsilon of Adam | adam_eps | 1e-8 | Adam, Algorithm 1 |

The gradient of weight e is g[e] = sum_i c_i z_i[e]. Every operation below is rounded on its own (docs/journal.md), so a
replay has the same bits. With signs (law rademacher) and one term a step, g^2 = c^2 everywhere: v is one number, the
denominator one scalar, and Adam is SGD with momentum at a rate that follows the size of c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zofo.rules._base import Base, Rounded
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(Rounded):
    beta1: float = field(default=0.9, metadata={"help": "decay of the mean of g", "ge": 0, "lt": 1})
    beta2: float = field(default=0.999, metadata={"help": "decay of the mean of g^2", "ge": 0, "lt": 1})
    adam_eps: float = field(default=1e-8, metadata={"help": "added to the root of the mean of g^2", "gt": 0})


class Rule(Base):
    """State: m and v in fp32, for each tensor in its shape, and the powers of the betas.

    8 extra bytes a weight, 10 with rounding `split`.
    """

    dense_bytes = 8.0
    config: Config

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed)
        self.powers = (1.0, 1.0)  # beta1^t, beta2^t
        self.m: dict[str, Tensor] = {}
        self.v: dict[str, Tensor] = {}

    def update_(
        self,
        theta: Point,
        g: ZOGrad,
        lr: float,
        step: int,
        f: Callable[[], float] | None = None,
        outcome: Outcome | None = None,
    ) -> Outcome:
        """Move theta, slice by slice, with one rounding. f: unused here. outcome: the journal's, in a replay."""
        if outcome is Outcome.SKIPPED:
            return Outcome.SKIPPED
        cfg = self.config
        self.powers = (self.powers[0] * cfg.beta1, self.powers[1] * cfg.beta2)  # no pow: it rounds differently
        rate, root = float32(-lr / (1 - self.powers[0])), float32(1 / math.sqrt(1 - self.powers[1]))
        self._make_room(theta)

        def move(name: str, at: slice, dense: Tensor) -> Tensor:
            return self._step(self.m[name].view(-1)[at], self.v[name].view(-1)[at], dense, rate, root)

        theta.apply_(g, move, *self.rounding(theta, step))
        return Outcome.APPLIED

    def _step(self, m: Tensor, v: Tensor, g: Tensor, rate: float, root: float) -> Tensor:
        # One IEEE operation at a time: addcmul, lerp and alpha= may be fused on one machine and not on another. Only
        # tensors are divided by: a division by a number may become a multiplication by its reciprocal
        cfg = self.config
        m.mul_(float32(cfg.beta1)).add_(g * float32(1 - cfg.beta1))
        v.mul_(float32(cfg.beta2)).add_(g.mul_(g).mul_(float32(1 - cfg.beta2)))
        # torch's fp32 root on CPUs is off by a last bit at every fifth number. One taken in double, off by a last bit
        # there at most, is right when rounded to fp32: no fp32 number's root is within 2^-51 of a tie
        below = v.double().sqrt_().float()
        return (m * rate).div_(below.mul_(root).add_(float32(cfg.adam_eps)))

    def _make_room(self, theta: Point) -> None:
        import torch

        for name, param in theta.items():
            for moments in (self.m, self.v):
                if name not in moments:
                    moments[name] = torch.zeros(param.shape, dtype=torch.float32, device=param.device)
                moments[name] = moments[name].to(param.device)  # a loaded state is on the CPU

    def state_dict(self) -> dict[str, Any]:
        """m and v are the rule's own tensors, not copies: save them before the next update."""
        return {**super().state_dict(), "powers": list(self.powers), "m": dict(self.m), "v": dict(self.v)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.powers = (state["powers"][0], state["powers"][1])
        self.m, self.v = ({name: t.clone() for name, t in state[part].items()} for part in ("m", "v"))

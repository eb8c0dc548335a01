"""First-order fine-tuning of every weight: the upper bound in memory that zeroth-order methods are compared with.

| symbol | field | default | place |
|---|---|---|---|
| eta | lr | 1e-5 | grid of B.1.3 |

AdamW costs a gradient and two moments, 12 bytes an fp32 weight, over the weights themselves (printed at the start).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from zofo.methods._base import Base
from zofo.zo.support import members

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.methods._first_order import Descent
    from zofo.methods._problem import Metrics, Problem


@dataclass(frozen=True)
class Config:
    lr: float = field(default=1e-5, metadata={"help": "rate of theta", "paper": "grid of B.1.3", "ge": 0})
    optimizer: Literal["adamw", "sgd"] = field(
        default="adamw", metadata={"help": "optimizer, without weight decay", "paper": "B.1.4"}
    )

    def faults(self, parts: Mapping[str, Any]) -> list[str]:
        if parts.get("mask") is not None and parts["mask"].renewed is not None:
            return ["mask.refresh: first-order training takes one mask; leave it out, or take another mask than blocks"]
        return []


class Method(Base):
    """theta <- theta - lr grad_theta F(theta; B); with a mask the gradient is 0 outside it.

    The mask is taken once, from the initial theta, and stored, 1 byte a weight: a control for Sparse MeZO.
    """

    optional = frozenset({"mask"})

    moves: ClassVar = "fo"
    upper_per_step = 1

    def setup(self, problem: Problem) -> None:
        self.problem, self.data = problem, problem.streams["train"]
        self.opt = problem.descent("theta", self.config.optimizer)
        self.rests: dict[str, Tensor | None] = {}
        if problem.mask is not None:
            parts, theta = problem.mask.at(problem.theta, 0).parts, problem.theta
            for name, tensor in theta.items():
                moves = members(parts[name], tensor, theta.addresses[name].key) if name in parts else None
                self.rests[name] = None if moves is None else ~moves

    def step(self, k: int) -> Metrics:
        lr = self.problem.lr("upper", self.config.lr, self.now(k))
        metrics: Metrics = {"lr_theta": lr}
        with self.problem.update("upper"), self.problem.theta.trainable():
            metrics["loss"] = self.problem.loss.backward(next(self.data))
            self._mask()
            self.opt.step(lr)
        return metrics

    def _mask(self) -> None:
        for name, rests in self.rests.items():
            param = self.problem.theta[name]
            if rests is None:
                param.grad = None
            elif param.grad is not None:
                param.grad.masked_fill_(rests, 0.0)

    def optimizers(self) -> dict[str, Descent]:
        return {"theta": self.opt}

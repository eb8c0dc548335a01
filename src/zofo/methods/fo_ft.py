"""First-order fine-tuning of every weight: the upper bound in memory that zeroth-order methods are compared with.

| symbol | field | default | place |
|---|---|---|---|
| eta | lr | 1e-5 | grid of B.1.3 |

AdamW costs a gradient and two moments, 12 bytes an fp32 weight, over the weights themselves (printed at the start).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from zofo.methods._base import Base

if TYPE_CHECKING:
    from zofo.first_order import Descent
    from zofo.problem import Metrics, Problem


@dataclass(frozen=True)
class Config:
    lr: float = field(default=1e-5, metadata={"help": "rate of theta", "paper": "grid of B.1.3", "ge": 0})
    optimizer: Literal["adamw", "sgd"] = field(
        default="adamw", metadata={"help": "optimizer, without weight decay", "paper": "B.1.4"}
    )


class Method(Base):
    """theta <- theta - lr grad_theta F(theta; B)."""

    moves: ClassVar = "fo"
    upper_per_step = 1

    def setup(self, problem: Problem) -> None:
        self.problem, self.data = problem, problem.streams["train"]
        self.opt = problem.descent("theta", self.config.optimizer)

    def step(self, k: int) -> Metrics:
        lr = self.problem.rate(self.config.lr, self.now(k))
        metrics: Metrics = {"lr_theta": lr}
        with self.problem.update(), self.problem.theta.trainable():
            metrics["loss"] = self.problem.loss.backward(next(self.data))
            self.opt.step(lr)
        return metrics

    def optimizers(self) -> dict[str, Descent]:
        return {"theta": self.opt}

"""First-order fine-tuning of an adapter, the backbone frozen: the baseline "FO" of Bilevel ZOFO's tables.

| symbol | field | default | place |
|---|---|---|---|
| eta | lr | 1e-3 | grid of B.1.3 |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from zofo.methods._base import Base

if TYPE_CHECKING:
    from zofo.methods._first_order import Descent
    from zofo.methods._problem import Metrics, Problem


@dataclass(frozen=True)
class Config:
    lr: float = field(default=1e-3, metadata={"help": "rate of the adapter", "paper": "grid of B.1.3", "ge": 0})
    optimizer: Literal["adamw", "sgd"] = field(
        default="adamw", metadata={"help": "optimizer, without weight decay", "paper": "B.1.4"}
    )


class Method(Base):
    """p <- p - lr grad_p F(theta, p; B)."""

    needs = frozenset({"adapter"})
    adapters_used = ("p",)
    candidates = ("p",)
    lower_per_step = 1

    def setup(self, problem: Problem) -> None:
        self.problem, self.data = problem, problem.streams["train"]
        self.opt = problem.descent("p", self.config.optimizer)

    def step(self, k: int) -> Metrics:
        lr = self.problem.lr("lower", self.config.lr, self.now(k))
        metrics: Metrics = {"lr": lr}
        with self.problem.update("lower"):
            metrics["loss"] = self.problem.loss.backward(next(self.data))
            self.opt.step(lr)
        return metrics

    def optimizers(self) -> dict[str, Descent]:
        return {"p": self.opt}

"""Two stages: first-order steps of an adapter, then zeroth-order ones of the backbone (Bilevel ZOFO, Table 9).

As many updates of each kind as Bilevel ZOFO's T lower steps an upper one would make of `max_steps`, one after the other
instead of interleaved; the adapter rests in the second stage. Bilevel ZOFO is arXiv 2502.03604.

| symbol | field | default | place |
|---|---|---|---|
| T | inner_steps | 10 | the share of first-order steps is T / (T + 1) |
| eta | lr | 1e-3 | stage 1, grid of B.1.3 |
| eta | lr_theta | 1e-6 | stage 2; Table 9 tries several |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from zofo.methods._base import Base

if TYPE_CHECKING:
    from zofo.methods._first_order import Descent
    from zofo.methods._problem import Metrics, Problem


@dataclass(frozen=True)
class Config:
    inner_steps: int = field(
        default=10,
        metadata={"help": "T: of T + 1 counted steps the last is zeroth-order", "paper": "section 4.1", "ge": 0},
    )
    lr: float = field(
        default=1e-3, metadata={"help": "rate of the adapter, stage 1", "paper": "grid of B.1.3", "ge": 0}
    )
    lr_theta: float = field(default=1e-6, metadata={"help": "rate of theta, stage 2", "paper": "Table 9", "ge": 0})
    optimizer: Literal["adamw", "sgd"] = field(
        default="adamw", metadata={"help": "optimizer of the adapter, without weight decay", "paper": "B.1.4"}
    )


class Method(Base):
    """One `step` is one update: of p in stage 1, of theta in stage 2."""

    needs = frozenset({"adapter", "estimator", "rule"})
    optional = frozenset({"mask"})
    moves: ClassVar = "zo"
    iterates: ClassVar = False
    adapters_used = ("p",)
    candidates = ("p",)
    upper_per_step = 1
    first = 0  # updates of stage 1, known at the start of a run

    def setup(self, problem: Problem) -> None:
        assert problem.estimator is not None
        assert problem.rule is not None
        self.problem, self.estimate, self.rule = problem, problem.estimator, problem.rule
        self.data = problem.streams["train"]
        self.opt: Descent = problem.descent("p", self.config.optimizer)
        self.first = self.estimated(problem.total)[0]

    def estimated(self, k: int) -> tuple[int, int]:
        """Stage 2 of a run of k steps."""
        return k - k // (self.config.inner_steps + 1), k

    @property
    def shortest(self) -> int:
        return self.config.inner_steps + 1  # one step of stage 2

    def updates(self, k: int) -> dict[str, int]:
        return {"lower": min(k, self.first), "upper": max(0, k - self.first)}

    def kinds(self, steps: int) -> dict[int, int]:
        stages = {0: self.first, self.first: steps - self.first}
        return {k: number for k, number in stages.items() if number}

    def step(self, k: int) -> Metrics:
        return self.adapt(k) if k < self.first else self.move(k)

    def adapt(self, k: int) -> Metrics:
        """Stage 1: p <- p - lr grad_p F(theta, p; B)."""
        lr = self.problem.lr("lower", self.config.lr, k)
        metrics: Metrics = {"lr": lr}
        with self.problem.update("lower"):
            metrics["loss"] = self.problem.loss.backward(next(self.data))
            self.opt.step(lr)
        return metrics

    def move(self, k: int) -> Metrics:
        """Stage 2: theta <- theta - lr_theta [F(theta + eps z, p) - F(theta - eps z, p)] / (2 eps) z."""
        f, lr = self.problem.objective(self.data), self.problem.lr("upper", self.config.lr_theta, k)
        metrics: Metrics = {"lr_theta": lr}
        with self.problem.update("upper"):
            g = self.estimate(f, self.problem.theta, k, self.problem.key("z", k))
            self.rule.update_(self.problem.theta, g, lr, k, f)
            metrics |= {"loss": g.value, "c": g.c}
        return metrics

    def optimizers(self) -> dict[str, Descent]:
        return {"p": self.opt}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "first": self.first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.first = state["first"]  # a run that goes on to more steps goes on in stage 2

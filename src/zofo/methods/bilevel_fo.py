"""Bilevel ZOFO's Algorithm 1: the same penalised problem with first-order gradients of theta, for small models.

Shirkavand, Yu, He, Huang (NeurIPS 2025, arXiv 2502.03604):

    theta <- theta - zeta [grad F(theta, p; B_f) + lam (grad F(theta, p; B_p) - grad F(theta, s; B_p))]      (6)

| symbol | field | default | place |
|---|---|---|---|
| zeta for theta | lr_theta | 1e-6 | line 7 |
| the rest | | | as in Algorithm 2, `bilevel-zofo` |

(6) is printed with "+" before its last term; the gradient of (5) has "-", which is what stands here and in (9).
AdamW on theta costs a gradient and two moments, 12 bytes an fp32 weight (printed at the start).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from zofo.methods import bilevel_zofo

if TYPE_CHECKING:
    from zofo.methods._first_order import Descent
    from zofo.methods._problem import Metrics, Problem
    from zofo.methods.bilevel_zofo import Penalised


@dataclass(frozen=True)
class Config(bilevel_zofo.Config):
    optimizer_theta: Literal["adamw", "sgd"] = field(
        default="adamw", metadata={"help": "optimizer of theta, without weight decay", "paper": "B.1.4"}
    )


class Method(bilevel_zofo.Method):
    """Algorithm 1. One `step` is one upper iteration k: T steps of s, then one of theta and p."""

    needs = frozenset({"adapter"})
    optional = frozenset()
    moves: ClassVar = "fo"

    def setup(self, problem: Problem) -> None:
        super().setup(problem)
        self.opt_theta: Descent = problem.descent("theta", self.config.optimizer_theta)

    def upper(self, G: Penalised, k: int) -> Metrics:
        """Line 7: theta and p by the exact gradients of G, both at (theta^k, p^k, s^{k+1})."""
        with self.theta.trainable():
            loss_p = G.grad_p()
            if G.lam:
                with self.adapters.active("s"):
                    self.loss.backward(G.batch_p, scale=-G.lam)
                self.opt_s.drop()  # s does not move here
            self.opt_p.check()
            norm = self.opt_theta.step(self.rate_theta(k))
        self.opt_p.step(self.rate_p(k))
        return {"loss_p": loss_p, "grad_theta": norm}

    def optimizers(self) -> dict[str, Descent]:
        return {**super().optimizers(), "theta": self.opt_theta}
